"""Every kind of image file becomes 8-bit RGB, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ecstfl_cli.errors import DataError
from ecstfl_cli.media import decode
from ecstfl_cli.media.decode import read_image


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours with some noise, so that a JPEG of it has both."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin(x / 7 + k) * np.cos(y / (5 + k)) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return Image.fromarray((np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(params=["with simplejpeg", "without simplejpeg"])
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with the quicker decoder, where it is installed, and without it."""
    if request.param == "without simplejpeg":
        monkeypatch.setattr(decode, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg", reason="simplejpeg is not installed; Pillow decodes")


@pytest.mark.usefixtures("_decoder")
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
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 4


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("size", [(224, 224), (37, 61), (1, 1)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"progressive": True, "optimize": True}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"quality": 100}),
        ("RGB", {"quality": 5}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_the_pixels_of_a_jpeg_are_pillows(tmp_path: Path, size: tuple[int, int], mode: str, options: dict) -> None:
    path = tmp_path / "image.jpg"
    photograph(*size).convert(mode).save(path, **{"quality": 90, **options})
    assert (read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()


@pytest.mark.usefixtures("_decoder")
def test_damage_that_pillow_puts_up_with_gives_the_pixels_that_pillow_gives(tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    photograph(64, 64).save(path, quality=90)
    data = bytearray(path.read_bytes())
    data[-400:-380] = bytes(20)
    path.write_bytes(data)
    assert (read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()


def test_jpegs_that_nothing_is_odd_about_do_not_go_through_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    photograph(64, 48).save(tmp_path / "image.jpg")
    monkeypatch.delattr(Image, "open")
    assert read_image(tmp_path / "image.jpg").shape == (48, 64, 3)


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("orientation", [None, *range(10)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_orientation_is_as_pillow_turns_it(tmp_path: Path, suffix: str, orientation: int | None) -> None:
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if orientation is not None:
        exif[0x0112] = orientation
    photograph(32, 20).save(path, exif=exif)
    assert (read_image(path) == np.asarray(ImageOps.exif_transpose(Image.open(path)))).all()


@pytest.mark.usefixtures("_decoder")
def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (32, 16), "blue")
    image.paste((255, 0, 0), (0, 0, 16, 16))
    image.save(path, exif=exif, quality=95, subsampling=0)
    upright = read_image(path)
    assert upright.shape == (32, 16, 3)
    assert (upright[:15, :, 0] > 200).all()
    assert (upright[17:, :, 2] > 200).all()


def test_float_pixels_are_refused_because_their_range_is_not_known(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "float.tif")


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg: is not an image"):
        read_image(path)


@pytest.mark.usefixtures("_decoder")
def test_a_jpeg_that_stops_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    photograph(224, 224).save(path, quality=90)
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(DataError, match=r"half\.jpg: .*truncated"):
        read_image(path)


@pytest.mark.usefixtures("_decoder")
def test_more_pixels_than_pillow_allows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(64, 64).save(tmp_path / "bomb.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.jpg: it has more than 2,000 pixels"):
        read_image(tmp_path / "bomb.jpg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg: No such file or directory\n"):
        read_image(tmp_path / "absent.jpg")
