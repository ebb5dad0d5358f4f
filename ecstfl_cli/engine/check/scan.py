"""One sample read in full: every frame decoded, its pixels hashed, what it looks like kept in a few bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Modality
from ecstfl_cli.components.perceptual_hash import SIDE, grey_copy, phash, thumbnails
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.frames import frame_names

try:
    import simplejpeg
except ImportError:  # No wheel for this platform: Pillow finds truncated files, but not damage that it can paint over.
    simplejpeg = None

# Frames of a clip, evenly spread, by which it is compared with others.
KEY_FRAMES = 8
# Problems of one sample that are kept one by one.
_KEPT = 5
_DAMAGE = re.compile(r"corrupt|premature|inconsistent|invalid", re.IGNORECASE)
# Cameras leave a few bytes between the picture and its end mark, which every decoder skips.
_PADDING = re.compile(r"([0-9]+) extraneous bytes before marker 0xd9")
_PADDING_BYTES = 64
_FORMATS = {
    b"\xff\xd8\xff": (".jpg", ".jpeg"),
    b"\x89PNG": (".png",),
    b"BM": (".bmp",),
    b"GIF8": (".gif",),
    b"RIFF": (".webp",),
    b"II*\0": (".tif", ".tiff"),
    b"MM\0*": (".tif", ".tiff"),
}


class Listing(NamedTuple):
    """What lies under a sample's path, without reading it: `stamp` changes with any file's name, size or time."""

    n_frames: int
    stamp: bytes
    problem: str = ""


@dataclass(frozen=True)
class Scan:
    """What reading a sample found.

    `digest` is the SHA-1 of the decoded pixels of all frames, empty where one cannot be decoded. `sizes` counts frames
    by (height, width). `hashes` (k,) and `thumbs` (k, 16, 16) are of key frames, see components.perceptual_hash.
    `wrong` are frames that cannot be decoded or are damaged, `n_wrong` their number; `odd` are files of another format
    than their name says.
    """

    n_frames: int
    digest: bytes = b""
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    thumbs: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, SIDE // 2, SIDE // 2), np.uint8))
    n_wrong: int = 0
    wrong: list[str] = field(default_factory=list)
    n_odd: int = 0
    odd: list[str] = field(default_factory=list)


def look(path: str, modality: Modality) -> Listing:
    """The files of a sample. What is missing, empty or closed is told as a problem."""
    try:
        names = frame_names(path) if modality == "video" else [""]
        stamp = hashlib.blake2b(digest_size=16)
        for name in names:
            found = os.stat(f"{path}/{name}" if name else path)  # noqa: PTH116 (a Path each is slow)
            stamp.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return Listing(0, b"", "no such folder" if modality == "video" else "no such file")
    except NotADirectoryError:
        return Listing(0, b"", "is a file, not a folder of frames")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        return Listing(0, b"", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if modality == "img" and os.path.isdir(path):  # noqa: PTH112 (as above)
        return Listing(0, b"", "is a folder, not an image")
    return Listing(len(names), stamp.digest(), "" if names else "folder holds no images")


def scan(path: str, modality: Modality) -> Scan:
    """Read a sample in full. A file that goes missing meanwhile is told like one that cannot be decoded."""
    names = frame_names(path) if modality == "video" else [""]
    keys = set(np.unique(np.linspace(0, len(names) - 1, KEY_FRAMES).round().astype(int)).tolist())
    whole = hashlib.sha1(usedforsecurity=False)
    sizes: Counter[tuple[int, int]] = Counter()
    grey: list[NDArray[np.uint8]] = []
    wrong: list[str] = []
    odd: list[str] = []
    is_whole = True
    for i, name in enumerate(names):
        pixels, problem, oddity = _frame(f"{path}/{name}" if name else path)
        if problem:
            wrong.append(f"{name}: {problem}" if name else problem)
        if oddity:
            odd.append(f"{name}: {oddity}" if name else oddity)
        if pixels is None:
            is_whole = False
            continue
        height, width = pixels.shape[:2]
        sizes[height, width] += 1
        whole.update(f"{height}x{width}".encode())
        whole.update(np.ascontiguousarray(pixels).data)
        if i in keys:
            grey.append(grey_copy(pixels))
    copies = np.stack(grey) if grey else np.empty((0, SIDE, SIDE), np.uint8)
    return Scan(
        len(names),
        whole.digest() if is_whole and names else b"",
        dict(sizes),
        phash(copies),
        thumbnails(copies),
        len(wrong),
        wrong[:_KEPT],
        len(odd),
        odd[:_KEPT],
    )


def _frame(file: str) -> tuple[NDArray[np.uint8] | None, str, str]:
    """The pixels as training reads them, None where it cannot; what is wrong; what is odd."""
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, f"cannot be read: {error.strerror}", ""
    if not data:
        return None, "is empty (0 bytes)", ""
    oddity = _format_oddity(path, data)
    damage = ""
    if simplejpeg is not None and data.startswith(b"\xff\xd8\xff"):
        try:
            pixels = simplejpeg.decode_jpeg(data)
            if b"Exif\0\0" not in data:
                return pixels, "", oddity
        except ValueError as error:  # also for what only Pillow decodes, such as CMYK
            damage = _damage(str(error))
    try:
        return read_image(path), damage, oddity
    except DataError as error:
        return None, error.message.removeprefix(f"cannot read image {path}: "), oddity


def _damage(complaint: str) -> str:
    padding = _PADDING.search(complaint)
    is_harmless = padding is not None and int(padding[1]) <= _PADDING_BYTES
    return f"is damaged: {complaint}" if _DAMAGE.search(complaint) and not is_harmless else ""


def _format_oddity(path: Path, data: bytes) -> str:
    for magic, suffixes in _FORMATS.items():
        if data.startswith(magic):
            real = suffixes[0][1:].upper()
            return "" if path.suffix.lower() in suffixes else f"is a {real} file in spite of its name"
    return ""
