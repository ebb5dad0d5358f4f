"""HEIF, what phones save photographs as, for Pillow: importing this module is enough to open it."""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

# The brands of pictures compressed as HEVC; AVIF, in the same container, is Pillow's own.
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 12 or more, is one."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def _open(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
    # A twentieth of a second that only those who have such pictures spend.
    from pi_heif import HeifImageFile

    image: Any = HeifImageFile(file, name)
    return image


Image.register_open("HEIF", _open, is_heif)
