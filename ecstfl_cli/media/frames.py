"""Sources by name, and images on disk: which files are frames, in which order they play, whether they can be read."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .webp .avif .heic .heif .jp2 .j2k .tif .tiff .tga "
        ".pgm .ppm .pnm .pbm .gif"
    ).split()
)
VIDEO_SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".mp4 .m4v .mov .avi .mkv .webm .flv .f4v .wmv .asf .mpg .mpeg .mpe .m1v .m2v .vob .3gp .3g2 .ts .mts "
        ".m2ts .mxf .ogv .dv .divx .nut .y4m .h264 .h265 .hevc .mjpeg .rm .rmvb .wtv"
    ).split()
)

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DIGITS = re.compile(r"([0-9]+)")
# Enough for the header of almost any image; what does not fit is decoded in full.
_HEAD_BYTES = 1 << 16
_TAIL_BYTES = 64
# With the tail and the size enough to tell pictures apart, and cheap for a million of them.
_DIGEST_BYTES = 1 << 12
_JPEG_END = b"\xff\xd9"
_NO_IMAGE = "is not an image"


def is_address(source: str | Path) -> bool:
    """Whether a source is the address of a stream (`rtsp://…`, `http://…`), not a path."""
    return bool(_ADDRESS.match(str(source)))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `2.jpg` comes before `10.jpg`; names that differ by leading zeros only keep one order."""
    parts: list[str | int] = list(_DIGITS.split(name.lower()))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def frame_names(folder: str | Path) -> list[str]:
    """File names of a folder's images in playing order; hidden files and everything else are left out.

    Raises OSError where the folder is missing, is no folder, or may not be read.
    """
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a Path each is slow)
            and entry.is_file()
        ]
    return sorted(names, key=natural_key)


def list_frames(folder: Path) -> list[Path]:
    """Paths of a folder's images in playing order. Raises OSError as `frame_names` does."""
    return [folder / name for name in frame_names(folder)]


class ImageState(NamedTuple):
    """What a glance at an image file shows: what is wrong with it, and a digest that copies of the file share."""

    problem: str
    digest: bytes = b""


def image_state(path: str | Path) -> ImageState:
    """What is wrong with an image file: missing, empty, unreadable or truncated; and a digest of its ends and size.

    A JPEG with a sound header and an end mark is not decoded, because a data set may hold a million of them: damage in
    the middle of one shows when it is used. Everything else is decoded.
    """
    try:
        head, tail, size = _ends(path)
    except FileNotFoundError:
        return ImageState("no such file")
    except IsADirectoryError:
        return ImageState("is a folder, not an image")
    except OSError as error:
        return ImageState(f"cannot be read: {error.strerror}")
    if not head:
        return ImageState("is empty (0 bytes)")
    return ImageState(_content_problem(path, head, tail), _digest(head, tail, size))


def ends_digest(path: str | Path) -> bytes:
    """What copies of a file share, from its ends and its size. Raises OSError where it cannot be read."""
    return _digest(*_ends(path))


def _digest(head: bytes, tail: bytes, size: int) -> bytes:
    return hashlib.blake2b(b"%d\0%b%b" % (size, head[:_DIGEST_BYTES], tail), digest_size=16).digest()


def _content_problem(path: str | Path, head: bytes, tail: bytes) -> str:
    from PIL import Image

    from ecstfl_cli.media.heif import is_heif

    try:
        with Image.open(io.BytesIO(head)) as image:
            is_jpeg = image.format == "JPEG"
    except Exception:  # Pillow's readers raise almost anything on broken files; the full decoding below says what.
        is_jpeg = False
    if is_jpeg and tail.rstrip(b"\0").endswith(_JPEG_END):
        return ""
    problem = _decoding_problem(path)
    return "is damaged" if problem == _NO_IMAGE and is_heif(head) else problem


def _ends(path: str | Path) -> tuple[bytes, bytes, int]:
    """The first and the last bytes of a file, and its size."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a Path each is slow)
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return head, head[-_TAIL_BYTES:], len(head)
        size = file.seek(-_TAIL_BYTES, os.SEEK_END) + _TAIL_BYTES
        return head, file.read(), size


def _decoding_problem(path: str | Path) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        return _NO_IMAGE
    except Exception as error:  # as above
        return f"cannot be decoded: {str(error).strip()}"
    return ""
