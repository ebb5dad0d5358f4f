"""Every kind of image file becomes 8-bit RGB, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 100, ".jpg", (100, 100, 100)),
        ("L", 100, ".png", (100, 100, 100)),
        ("LA", (100, 255), ".png", (100, 100, 100)),
        ("RGBA", (10, 20, 30, 255), ".png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), ".png", (0, 0, 0)),
        ("P", 0, ".gif", (0, 0, 0)),
        ("1", 1, ".png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 155), ".jpg", (100, 100, 100)),
        ("RGB", (10, 20, 30), ".webp", (10, 20, 30)),
        ("I;16", 100 * 256, ".png", (100, 100, 100)),
    ],
)
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str, colour: object, suffix: str, expected: tuple) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new(mode, (8, 6), colour).save(path)  # type: ignore[arg-type]
    image = read_image(path)
    assert image.mode == "RGB"
    assert image.size == (8, 6)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 4


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_image(path).size == (4, 8)


def test_float_pixels_are_refused_because_their_range_is_not_known(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        read_image(path)
