"""Pictures as users give them, files, arrays or Pillow images, as pixels, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import pillow_pixels, read_image

Pixels = NDArray[np.uint8]
# Pictures that are searched and recognised at a time: so many, or so few that their pixels take so many bytes.
IMAGES = 32
IMAGE_BYTES = 128 << 20


def read_pictures(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Pixels | DataError]]:
    """Each name with its picture's pixels, or with why there are none."""
    for name, image in named:
        try:
            yield name, picture_pixels(name, image)
        except DataError as error:
            yield name, error


def in_batches(
    images: Iterable[tuple[str, Pixels | DataError]],
) -> Iterator[list[tuple[str, Pixels | DataError]]]:
    """Lists of images; of large photographs fewer, because three lists are in memory at a time."""
    batch: list[tuple[str, Pixels | DataError]] = []
    size = 0
    for name, image in images:
        batch.append((name, image))
        size += image.nbytes if isinstance(image, np.ndarray) else 0
        if len(batch) == IMAGES or size >= IMAGE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def picture_pixels(name: str, image: Any) -> Pixels:
    """(H, W, 3) uint8 RGB of a path, a Pillow image or an array, grey or RGB. Raises DataError for anything else."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return pillow_pixels(image, name)
    if isinstance(image, bytes):
        raise DataError(
            f"{name} is bytes", "Give a path, an array, or a Pillow image: Image.open(io.BytesIO(content))."
        )
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise DataError(f"{name} is an array {array.shape} of {array.dtype}", "Give (H, W, 3) uint8 RGB.")
    return np.ascontiguousarray(array)  # OpenCV's BGR turned round by [..., ::-1] runs backwards.
