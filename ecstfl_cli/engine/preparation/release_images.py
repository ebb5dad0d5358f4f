"""Images that a release keeps as numbers in a table, written as PNG: complete or nothing, and resumable."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.files import complete_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_images(images: Mapping[str, NDArray[np.uint8]], folder: Path, reporter: Reporter) -> None:
    """Write pixels, (H, W) grey or (H, W, 3) RGB, as PNG to the paths that they have below `folder`.

    Their first folder has the suffix `.unfinished` until all of its images are there; what is there already is kept,
    so that an interrupted run goes on. Raises DataError where that is another image, or nothing can be written.
    """
    done = 0
    with reporter.progress("writing images", len(images), "images") as advance:
        try:
            for top in dict.fromkeys(_safe(path).parts[0] for path in images):
                final = folder / top
                place = final if final.is_dir() else folder / f"{top}.unfinished"
                for path, pixels in images.items():
                    first, *rest = PurePosixPath(path).parts
                    if first == top:
                        _write(place.joinpath(*rest), pixels, ours=place is not final)
                        done += 1
                        advance(1)
                if place is not final:
                    place.replace(final)
                reporter.note(f"the images are in {final}")
        except OSError as error:
            raise DataError(
                f"cannot write images to {folder}: {error.strerror}; {done} of {len(images)} are there",
                "Make room, or choose a folder that can be written to with --images. The same command goes on where it "
                "stopped.",
            ) from error


def _safe(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or len(pure.parts) < 2 or "\\" in path or os.path.isabs(path):  # noqa: PTH117
        raise DataError(f"{path!r} is no path for an image to write", "A data set gives them as FOLDER/NAME.png.")
    return pure


def _write(path: Path, pixels: NDArray[np.uint8], *, ours: bool) -> None:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    if path.exists():
        if path.read_bytes() == encoded.getvalue() or _pixels(path, pixels):
            return
        if not ours:
            raise DataError(
                f"{path} is another image than the release holds", "Choose another folder with --images, or move it."
            )
    with complete_file(path) as partial:
        partial.write_bytes(encoded.getvalue())


def _pixels(path: Path, pixels: NDArray[np.uint8]) -> bool:
    """Whether an image file holds these pixels, however it is encoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array_equal(np.asarray(image), pixels)
    except (OSError, SyntaxError, ValueError):
        return False
