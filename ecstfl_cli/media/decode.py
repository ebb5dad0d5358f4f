"""Decoding image files to RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.heif import is_heif

try:
    import simplejpeg
except ImportError:  # No wheel for this platform: Pillow gives the same pixels, and takes longer.
    simplejpeg = None


# Photographs of 200 megapixels are no attack; Pillow refuses twice as many as this.
Image.MAX_IMAGE_PIXELS = 300_000_000
# What Pillow's readers raise on damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as 8-bit RGB (H, W, 3), upright by its EXIF orientation; grey, palette, alpha, CMYK and 16-bit too.

    Raises DataError, with the path, where it cannot be decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    return decode_image(data, path)


def decode_image(data: bytes, path: Path | str) -> NDArray[np.uint8]:
    """The pixels of an image file's bytes, as `read_image` gives them; `path` is what an error calls it."""
    try:
        if b"Exif\0\0" not in data and (pixels := _plain_jpeg(data)) is not None:
            return pixels
        with Image.open(io.BytesIO(data)) as image:
            if not _is_turned(image) and (pixels := _plain_jpeg(data)) is not None:
                return pixels
            return _upright_rgb(image)
    except UnidentifiedImageError as error:
        raise _unreadable(path, "it is damaged" if is_heif(data) else "is not an image") from error
    except Image.DecompressionBombError as error:
        raise _unreadable(path, f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except _DAMAGE as error:
        raise _unreadable(path, str(error).strip()) from error


def pillow_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """The pixels of a Pillow image that its file would give with `read_image`; `name` is what an error calls it."""
    try:
        return _upright_rgb(image)
    except _DAMAGE as error:
        raise DataError(f"cannot read image {name}: {error}") from error


def _upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(_rgb(ImageOps.exif_transpose(image) if _is_turned(image) else image))


def _unreadable(path: Path | str, why: str) -> DataError:
    return DataError(f"cannot read image {path}: {why}", "Run `ecstfl prepare` or pass --skip-bad.")


def _plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels that Pillow would give, in two thirds of its time; None where Pillow has to deal with the file.

    That is: other formats, CMYK, damaged files, and those too large for Pillow.
    """
    if simplejpeg is None or not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _is_turned(image: Image.Image) -> bool:
    may_be = "exif" in image.info or image.format in ("TIFF", "PNG", "WEBP")
    return may_be and image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known; convert it to 8 or 16 bits")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")
