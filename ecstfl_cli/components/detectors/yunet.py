"""YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023), from the OpenCV Zoo (MIT licence).

Its weights are not part of ecstfl: `ecstfl checkpoints download yunet` fetches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli import files
from ecstfl_cli.api import Face
from ecstfl_cli.components.detectors.onnx_detector import in_batches, open_session, to_faces
from ecstfl_cli.errors import CheckpointError

WEIGHTS = Path("checkpoint_load") / "face_detection_yunet_2023mar.onnx"
# Of the file in the OpenCV Zoo's repository, as its Git LFS pointer states it.
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_STRIDES = (8, 16, 32)
_MAX_OVERLAP = 0.3


class YuNet:
    """A `Detector` of 76,000 parameters that finds what a picture of 640x640 shows, in any picture.

    The released graph takes one picture of 640x640: pictures are fitted into it and padded. Another file with the same
    outputs can be given as `weights`, e.g. with a free input size, with its `sha256`, or None for any content. Raises
    CheckpointError where the weights are not there or are not what they should be.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int | None = None,
        min_score: float = 0.3,
        weights: str | Path | None = None,
        sha256: str | None = SHA256,
    ) -> None:
        path = _checked(Path(weights or WEIGHTS), sha256)
        self._session = open_session(path, device, threads)
        self._min_score = min_score
        self._input = self._session.get_inputs()[0]
        self._names = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in _STRIDES]
        missing = set(self._names) - {output.name for output in self._session.get_outputs()}
        if missing or len(self._input.shape) != 4:
            raise CheckpointError(
                f"{path} is no YuNet of 2023: it lacks the outputs {', '.join(sorted(missing)) or 'of pictures'}",
                "Fetch the released one: `ecstfl checkpoints download yunet`.",
            )

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Faces of each RGB image (H, W, 3) uint8, best first; images of one size are computed as one batch."""
        n = self._input.shape[0]
        return in_batches(images, self._detect_batch, n if isinstance(n, int) else 8)

    def _detect_batch(self, images: NDArray[np.uint8]) -> list[list[Face]]:
        count, height, width, _ = images.shape
        n, _, high, wide = self._input.shape
        if isinstance(high, int) and isinstance(wide, int):
            scale = min(high / height, wide / width)
        else:
            scale, high, wide = 1.0, -(-height // 32) * 32, -(-width // 32) * 32
        # The network was trained on BGR, without normalisation.
        canvas = np.zeros((n if isinstance(n, int) else count, 3, high, wide), dtype=np.float32)
        for i, image in enumerate(images):
            fitted = _resized(image, scale)
            canvas[i, :, : fitted.shape[0], : fitted.shape[1]] = fitted[..., ::-1].transpose(2, 0, 1)
        values = self._session.run(self._names, {self._input.name: canvas})
        outputs = dict(zip(self._names, values, strict=True))
        return [self._decode({name: maps[i] for name, maps in outputs.items()}, wide, scale) for i in range(count)]

    def _decode(self, maps: dict[str, NDArray[np.float32]], wide: int, scale: float) -> list[Face]:
        """Each cell of three grids, at strides 8, 16 and 32, may be the place of a face.

        Its score is the geometric mean of class and objectness (cells, 1); its box (cells, 4) is the middle from the
        cell's corner and the logarithms of width and height, in cells, and its landmarks (cells, 10) are five points
        from that corner, in cells.
        """
        boxes, scores, points = [], [], []
        for stride in _STRIDES:
            score = np.sqrt(np.clip(maps[f"cls_{stride}"], 0, 1) * np.clip(maps[f"obj_{stride}"], 0, 1))[:, 0]
            cells = np.nonzero(score > self._min_score)[0]
            rows, columns = np.divmod(cells, wide // stride)
            corner = np.stack([columns, rows], axis=1)
            box = maps[f"bbox_{stride}"][cells]
            middle, half = corner + box[:, :2], np.exp(box[:, 2:]) / 2
            boxes.append(np.concatenate([middle - half, middle + half], axis=1) * stride)
            points.append((maps[f"kps_{stride}"][cells].reshape(-1, 5, 2) + corner[:, None]) * stride)
            scores.append(score[cells])
        return to_faces(
            (np.concatenate(boxes) / scale).astype(np.float32),
            np.concatenate(scores),
            (np.concatenate(points) / scale).astype(np.float32),
            _MAX_OVERLAP,
        )


def _resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _checked(path: Path, sha256: str | None) -> Path:
    """The weights' path. Raises CheckpointError where there are none, or others than `sha256` says."""
    if not path.is_file():
        raise CheckpointError(
            f"the weights of the face detector yunet are not on this machine: no {path}",
            "Fetch them where there is a network: `ecstfl checkpoints download yunet`. The detector centerface needs "
            "none.",
        )
    digest = files.sha256(path)
    if sha256 and digest != sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {digest}, where {sha256} is that of the released file",
            "Remove it, and fetch it again: `ecstfl checkpoints download yunet`.",
        )
    return path
