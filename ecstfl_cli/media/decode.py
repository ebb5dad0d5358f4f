"""Decoding image files to RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ecstfl_cli.errors import DataError


def read_image(path: Path) -> Image.Image:
    """An image file as 8-bit RGB, upright by its EXIF orientation; grey, palette, alpha, CMYK and 16-bit included.

    Raises DataError, with the path, where it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if _may_be_rotated(image) else image
            return _rgb(upright)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {error}", "Run `ecstfl prepare` or pass --skip-bad.") from error


def _may_be_rotated(image: Image.Image) -> bool:
    return "exif" in image.info or image.format in ("TIFF", "PNG", "WEBP")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
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
