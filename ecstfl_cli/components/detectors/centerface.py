"""CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019).

The weights ship with ecstfl: `centerface.onnx`, under the MIT licence in `centerface.LICENSE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Face
from ecstfl_cli.components.detectors.onnx_detector import in_batches, open_session, to_faces

WEIGHTS = Path(__file__).with_name("centerface.onnx")

# The network's outputs are at a quarter of its input's size, and its deepest features at a 32nd.
_STRIDE = 4
_MULTIPLE = 32
_MAX_OVERLAP = 0.3


class CenterFace:
    """A `Detector` of 7.3 MB for CPUs: 1.8 million parameters' worth of convolutions, five landmarks a face.

    Faces scoring below `min_score` are left out. `batch_size` images of one size are computed together. Images are
    taken as they are, so that the time goes with their area, and faces of less than about 8 pixels are not found:
    `FaceFinder` chooses the size to work at.
    """

    def __init__(
        self, *, device: str = "cpu", threads: int | None = None, min_score: float = 0.2, batch_size: int = 8
    ) -> None:
        self._session = open_session(WEIGHTS, device, threads)
        self._min_score = min_score
        self._batch_size = batch_size

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Faces of each RGB image (H, W, 3) uint8, best first; images of one size are computed as one batch."""
        return in_batches(images, self._detect_batch, self._batch_size)

    def _detect_batch(self, images: NDArray[np.uint8]) -> list[list[Face]]:
        n, height, width, _ = images.shape
        padded = np.zeros((n, 3, _rounded_up(height), _rounded_up(width)), dtype=np.float32)
        padded[:, :, :height, :width] = images.transpose(0, 3, 1, 2)
        heat, size, offset, landmarks = self._session.run(None, {"input.1": padded})
        return [self._decode(*maps, height, width) for maps in zip(heat[:, 0], size, offset, landmarks, strict=True)]

    def _decode(
        self,
        heat: NDArray[np.float32],
        size: NDArray[np.float32],
        offset: NDArray[np.float32],
        landmarks: NDArray[np.float32],
        height: int,
        width: int,
    ) -> list[Face]:
        """Every cell of the heatmap (h, w) that is hot enough is the centre of a face (section 3.2 of the paper).

        `size` (2, h, w) holds the logarithm of height and width in cells, `offset` (2, h, w) where in its cell the
        centre is, y first, and `landmarks` (10, h, w) five points from the box's corner, y first, in box heights and
        widths.
        """
        rows, columns = np.nonzero(heat > self._min_score)
        high, wide = np.exp(size[:, rows, columns]) * _STRIDE
        middle_y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
        middle_x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
        left, top = middle_x - wide / 2, middle_y - high / 2
        boxes = np.stack([left, top, left + wide, top + high], axis=1)
        shifts = landmarks[:, rows, columns].reshape(5, 2, -1)
        points = np.stack([left + shifts[:, 1] * wide, top + shifts[:, 0] * high], axis=-1).transpose(1, 0, 2)
        inside = (middle_x < width) & (middle_y < height)
        return to_faces(boxes[inside], heat[rows, columns][inside], points[inside], _MAX_OVERLAP)


def _rounded_up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
