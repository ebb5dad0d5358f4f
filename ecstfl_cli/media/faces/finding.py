"""Faces in pictures of any size: which detector, on how large a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Detector, Face, FaceCrop
from ecstfl_cli.registry import load

# Long sides in pixels of the copies that are searched, smaller ones first. docs/faces.md has the measurements.
VIDEO_SIZES = (320, 960)
PHOTO_SIZES = (960, 1920)
# The shorter side, in the searched copy's pixels, below which a larger copy is searched too.
_SMALL = 20


class FaceFinder:
    """The detector of a FaceCrop, at the size that its work needs.

    A picture is searched in a copy whose long side is the first of `sizes`. Where that shows no face, or one so small
    that it was barely found, the next size is searched, up to the picture's own. `device` and `threads` are the
    detector's (`auto`: a GPU where ONNX Runtime has one). The same pictures give the same faces, however they are
    grouped.
    """

    def __init__(
        self,
        crop: FaceCrop,
        device: str = "auto",
        *,
        sizes: Sequence[int] = VIDEO_SIZES,
        threads: int | None = None,
    ) -> None:
        factory = load("detectors", crop.detector)
        self.detector: Detector = factory(device=device, **({} if threads is None else {"threads": threads}))
        self.crop = crop
        self.sizes = tuple(sorted(sizes))

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Faces of each RGB image (H, W, 3) uint8, in its own pixels, best first; those of one size as one batch."""
        found, unsure = self.find_quickly(images)
        for i in unsure:
            found[i] = self.find_thoroughly(images[i], found[i])
        return found

    def find_quickly(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[list[Face]], list[int]]:
        """What the smallest copies show, and the indices of those images of which a larger one may show more."""
        found = self._search(images, self.sizes[0])
        unsure = [i for i, image in enumerate(images) if self._may_show_more(image, found[i], self.sizes[0])]
        return found, unsure if len(self.sizes) > 1 else []

    def find_thoroughly(self, image: NDArray[np.uint8], found: list[Face]) -> list[Face]:
        """What larger copies of an image show of which `find_quickly` has `found` so much."""
        for size, smaller in zip(self.sizes[1:], self.sizes, strict=False):
            if not self._may_show_more(image, found, smaller):
                break
            found = self._search([image], size)[0] or found
        return found

    def _may_show_more(self, image: NDArray[np.uint8], found: Sequence[Face], size: int) -> bool:
        scale = min(1.0, size / max(image.shape))
        return scale < 1 and (not found or _smallest(found) * scale < _SMALL)

    def _search(self, images: Sequence[NDArray[np.uint8]], size: int) -> list[list[Face]]:
        copies = [_reduced(image, size) for image in images]
        return [
            [
                _scaled(face, image.shape[1] / copy.shape[1], image.shape[0] / copy.shape[0])
                for face in faces
                if face.score >= self.crop.min_score
            ]
            for image, copy, faces in zip(images, copies, self.detector.detect(copies), strict=True)
        ]


def _reduced(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The image with `long_side`, or as it is where it is not longer."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _smallest(faces: Sequence[Face]) -> float:
    return min(min(f.box[2] - f.box[0], f.box[3] - f.box[1]) for f in faces)


def _scaled(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box
    points = None if face.landmarks is None else tuple((px * x, py * y) for px, py in face.landmarks)
    return replace(face, box=(left * x, top * y, right * x, bottom * y), landmarks=points)
