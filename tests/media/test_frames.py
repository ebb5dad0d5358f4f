"""Frames: natural order, images only, and images that cannot be read are told from those that can."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.media.frames import image_state, list_frames, natural_key


def encoded(format: str, size: int = 48) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, format)
    return out.getvalue()


def test_frames_play_in_natural_order_and_only_images_count(tmp_path: Path) -> None:
    for name in ["10.jpg", "2.jpg", "0.jpg", "1.PNG", ".hidden.jpg", "notes.txt", "Thumbs.db"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in list_frames(tmp_path)] == ["0.jpg", "1.PNG", "2.jpg", "10.jpg"]


def test_natural_order_compares_each_number_in_a_name() -> None:
    names = ["a10_b2.jpg", "a2_b10.jpg", "A2_b9.jpg", "a02_b9.jpg", "b.jpg", "7.jpg"]
    expected = ["7.jpg", "A2_b9.jpg", "a02_b9.jpg", "a2_b10.jpg", "a10_b2.jpg", "b.jpg"]
    assert sorted(names, key=natural_key) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_a_sound_image_has_no_problem_whatever_its_name_says(tmp_path: Path, format: str) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(format))
    assert image_state(path).problem == ""
    path.write_bytes(encoded(format, size=300))
    assert image_state(path).problem == "", "larger than what is read of the header"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("size", [48, 300])
def test_a_truncated_image_is_found(tmp_path: Path, format: str, size: int) -> None:
    path = tmp_path / "image.jpg"
    content = encoded(format, size)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "cannot be decoded" in image_state(path).problem


def test_padding_after_the_end_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded("JPEG") + b"\0" * 16)
    assert image_state(path).problem == ""
    path.write_bytes(encoded("JPEG") + b"camera notes" * 20)
    assert image_state(path).problem == ""


def test_what_is_no_image_at_all_is_named(tmp_path: Path) -> None:
    assert image_state(tmp_path / "gone.jpg").problem == "no such file"
    assert image_state(tmp_path).problem == "is a folder, not an image"
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert image_state(tmp_path / "empty.jpg").problem == "is empty (0 bytes)"
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    assert image_state(tmp_path / "text.jpg").problem == "is not an image"


def test_a_png_that_is_damaged_in_the_middle_is_found(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    Image.effect_noise((64, 64), 50).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    assert "cannot be decoded" in image_state(path).problem
