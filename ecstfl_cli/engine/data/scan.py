"""One sample read in full: every frame decoded, its pixels hashed, what it looks like kept in a few bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
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
from ecstfl_cli.media.packed import open_pack, split_packed
from ecstfl_cli.media.sources import PackedClip, is_video_file

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
    """What lies under a sample's path, without reading it: `stamp` changes with any file's name, size or time.

    `n_files` is the frames, but 1 of a video file.
    """

    n_files: int
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
    """The files of a sample. What is missing, empty or closed is told as a problem; of a pack, a damaged shard."""
    if packed := split_packed(path):
        return _look_in_pack(*packed)
    is_folder = modality == "video" and not is_video_file(path)
    try:
        names = frame_names(path) if is_folder else [""]
        stamp = hashlib.blake2b(digest_size=16)
        for name in names:
            found = os.stat(f"{path}/{name}" if name else path)  # noqa: PTH116 (a Path each is slow)
            stamp.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return Listing(0, b"", "no such folder" if is_folder else "no such file")
    except NotADirectoryError:
        return Listing(0, b"", "is a file, not a folder of frames")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        return Listing(0, b"", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not is_folder and os.path.isdir(path):  # noqa: PTH112 (as above)
        return Listing(0, b"", "is a folder, not a file")
    return Listing(len(names), stamp.digest(), "" if names else "folder holds no images")


def _look_in_pack(folder: Path, id: str) -> Listing:
    try:
        pack = open_pack(folder)
        if pack.damage:
            return Listing(0, b"", pack.damage)
        shards = "".join(shard["sha256"] for shard in pack.index["shards"])
        return Listing(pack.n_frames(id), hashlib.blake2b(f"{shards}{id}".encode(), digest_size=16).digest(), "")
    except DataError as error:
        return Listing(0, b"", error.message)


class _Frame(NamedTuple):
    """A frame as training reads it, `pixels` None where it cannot; what is wrong, and what is odd."""

    pixels: NDArray[np.uint8] | None
    problem: str = ""
    oddity: str = ""


def scan(path: str, modality: Modality) -> Scan:
    """Read a sample in full. Raises OSError where its folder cannot be read."""
    whole = hashlib.sha1(usedforsecurity=False)
    sizes: Counter[tuple[int, int]] = Counter()
    grey: list[NDArray[np.uint8]] = []
    wrong: list[str] = []
    odd: list[str] = []
    n_frames, is_whole = 0, True
    for name, is_key, (pixels, problem, oddity) in _frames(path, modality):
        if problem:
            wrong.append(f"{name}: {problem}" if name else problem)
        if oddity:
            odd.append(f"{name}: {oddity}" if name else oddity)
        if pixels is None:
            is_whole = False
            n_frames += bool(name) or modality == "img"  # where a video file breaks off is no frame
            continue
        n_frames += 1
        sizes[pixels.shape[0], pixels.shape[1]] += 1
        whole.update(f"{pixels.shape}".encode())
        whole.update(np.ascontiguousarray(pixels).data)
        if is_key:
            grey.append(grey_copy(pixels))
    keys = [grey[i] for i in _evenly(len(grey))]
    copies = np.stack(keys) if keys else np.empty((0, SIDE, SIDE), np.uint8)
    digest = whole.digest() if is_whole and n_frames else b""
    return Scan(
        n_frames,
        digest,
        dict(sizes),
        phash(copies),
        thumbnails(copies),
        len(wrong),
        wrong[:_KEPT],
        len(odd),
        odd[:_KEPT],
    )


def _frames(path: str, modality: Modality) -> Iterator[tuple[str, bool, _Frame]]:
    """(name, whether it may be a key frame, frame) of each frame; how many a video file has is known at its end."""
    if packed := split_packed(path):
        clip = PackedClip(*packed)
        keys = set(_evenly(len(clip)))
        for i in range(len(clip)):
            yield f"frame {i}", i in keys, _packed(clip, i)
    elif modality == "img":
        yield "", True, _image(path)
    elif is_video_file(path):
        for frame in _video(path):
            yield "", True, frame
    else:
        names = frame_names(path)
        keys = set(_evenly(len(names)))
        for i, name in enumerate(names):
            yield name, i in keys, _image(f"{path}/{name}")


def _packed(clip: PackedClip, i: int) -> _Frame:
    try:
        return _Frame(clip.read([i])[0])
    except DataError as error:
        return _Frame(None, error.message)


def _evenly(n: int) -> list[int]:
    """Indices of the key frames of n frames."""
    return sorted({round(k * (n - 1) / (KEY_FRAMES - 1)) for k in range(KEY_FRAMES)}) if n else []


def _video(path: str) -> Iterator[_Frame]:
    from ecstfl_cli.media.video import read_video

    try:
        for frame in read_video(path):
            yield _Frame(frame.pixels)
    except DataError as error:
        yield _Frame(None, error.message)


def _image(file: str) -> _Frame:
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        return _Frame(None, f"cannot be read: {error.strerror}")
    if not data:
        return _Frame(None, "is empty (0 bytes)")
    oddity = _format_oddity(path, data)
    damage = ""
    if simplejpeg is not None and data.startswith(b"\xff\xd8\xff"):
        try:
            pixels = simplejpeg.decode_jpeg(data)
            if b"Exif\0\0" not in data:
                return _Frame(pixels, "", oddity)
        except ValueError as error:  # also for what only Pillow decodes, such as CMYK
            damage = _damage(str(error))
    try:
        return _Frame(read_image(path), damage, oddity)
    except DataError as error:
        return _Frame(None, error.message.removeprefix(f"cannot read image {path}: "), oddity)


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
