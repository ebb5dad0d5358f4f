"""HEIF, as phones save photographs, is read as any other image; the encoder is the tests' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ecstfl_cli.engine.inference.sources import find_sources
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.frames import image_state

WIDTH, HEIGHT = 96, 64


def save(path: Path, mode: str = "RGB") -> np.ndarray:
    """Write a smooth picture as HEIC; its pixels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    pillow_heif.from_pillow(image).save(path, quality=95)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_its_pixels_are_those_that_were_saved(tmp_path: Path, mode: str) -> None:
    pixels = save(tmp_path / "photo.heic", mode)
    read = read_image(tmp_path / "photo.heic")
    assert (read.shape, read.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.abs(read.astype(int) - pixels).mean() < 3
    assert image_state(tmp_path / "photo.heic").problem == ""


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo"])
def test_infer_takes_it_for_an_image(tmp_path: Path, name: str) -> None:
    save(tmp_path / "photo.heic")
    (tmp_path / "photo.heic").rename(tmp_path / name)
    sources = find_sources([str(tmp_path / name)]).sources
    assert [source.kind for source in sources] == ["image"]


@pytest.mark.parametrize(("part", "problem"), [(0.5, "end of file"), (0.05, "damaged")])
def test_a_truncated_one_is_named(tmp_path: Path, part: float, problem: str) -> None:
    path = tmp_path / "half.heic"
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=rf"half\.heic: .*{problem}"):
        read_image(path)
    assert problem in image_state(path).problem
