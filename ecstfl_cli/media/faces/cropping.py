"""Faces cut out of pictures as squares of one size, upright by their eyes or about their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.errors import DataError

# Of the square that `eyes` cuts at margin 0: its side in eye distances, and the eyes' height in it. So it covers about
# what `box` covers of a face that looks into the camera.
_EYE_SIDE = 2.4
_EYE_HEIGHT = 0.4


class Located(Protocol):
    """What crop_faces needs of a Face or a TrackedFace."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...

    @property
    def landmarks(self) -> tuple[tuple[float, float], ...] | None: ...


def crop_faces(image: NDArray[np.uint8], faces: Sequence[Located], crop: FaceCrop) -> NDArray[np.uint8]:
    """Squares (N, size, size, 3) uint8 of the faces in an RGB image (H, W, 3).

    `box` takes the square about a box's middle whose side is the box's longer one; `eyes` the square in which the eyes
    are level, sized by their distance. Both grow by `crop.margin` of their side on each side. What lies outside of the
    picture repeats its edge. Reduced crops are filtered over all pixels that they cover. Raises DataError where `eyes`
    is asked for and a face has no landmarks.
    """
    out = np.empty((len(faces), crop.size, crop.size, 3), dtype=np.uint8)
    for i, face in enumerate(faces):
        x, y, side, angle = square(face, crop)
        out[i] = _cut(image, x, y, side, crop.size) if angle == 0 else _turned(image, x, y, side, angle, crop.size)
    return out


def square(face: Located, crop: FaceCrop) -> tuple[float, float, float, float]:
    """Middle x and y, side, all in pixels, and turn in radians (clockwise on screen) of a face's square."""
    grown = 1 + 2 * crop.margin
    if grown <= 0:
        raise DataError(f"a face crop's margin of {crop.margin} leaves nothing", "It must be above -0.5.")
    left, top, right, bottom = face.box
    if crop.align == "box":
        return (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top, 1.0) * grown, 0.0
    if face.landmarks is None:
        raise DataError(
            f"detector {crop.detector!r} finds no eyes, so that faces cannot be aligned by them", "Use align: box."
        )
    (lx, ly), (rx, ry) = face.landmarks[:2]
    angle = math.atan2(ry - ly, rx - lx)
    # Eyes one behind the other in profile come close together, and the face does not get smaller.
    side = max(math.hypot(rx - lx, ry - ly) * _EYE_SIDE, 0.6 * max(right - left, bottom - top), 1.0)
    below = (0.5 - _EYE_HEIGHT) * side
    x, y = (lx + rx) / 2 - math.sin(angle) * below, (ly + ry) / 2 + math.cos(angle) * below
    return x, y, side * grown, angle


def _cut(image: NDArray[np.uint8], x: float, y: float, side: float, size: int) -> NDArray[np.uint8]:
    """The upright square about (x, y), resampled with a filter as wide as the reduction asks for."""
    left, top = x - side / 2, y - side / 2
    # The filter looks a little beyond the square.
    reach = 2 + math.ceil(2 * max(1.0, side / size))
    part, x0, y0 = _padded(image, left - reach, top - reach, left + side + reach, top + side + reach)
    box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    resized = Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def _turned(image: NDArray[np.uint8], x: float, y: float, side: float, angle: float, size: int) -> NDArray[np.uint8]:
    """The square turned by `angle`: its surroundings at the crop's scale first, then the turn, which keeps it."""
    around = math.ceil(size * (abs(math.cos(angle)) + abs(math.sin(angle)))) + 4
    upright = _cut(image, x, y, side * around / size, around)
    cos, sin = math.cos(angle), math.sin(angle)
    half, middle = size / 2, around / 2
    # From a pixel of the crop to one of the surroundings (Pillow adds the half pixel of the centres itself).
    matrix = (cos, -sin, middle - cos * half + sin * half, sin, cos, middle - sin * half - cos * half)
    turned = Image.fromarray(upright).transform(
        (size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(turned)


def _padded(
    image: NDArray[np.uint8], left: float, top: float, right: float, bottom: float
) -> tuple[NDArray[np.uint8], int, int]:
    """The part of the image from floor(left, top) to ceil(right, bottom), its edge repeated outside, and its corner."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return np.ascontiguousarray(image[y0:y1, x0:x1]), x0, y0
    columns = np.clip(np.arange(x0, x1), 0, width - 1)
    rows = np.clip(np.arange(y0, y1), 0, height - 1)
    return image[rows[:, None], columns], x0, y0
