"""Where the frames of a sample come from, a folder, a video file, an image or a pack: how many, and those asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.frames import VIDEO_SUFFIXES, frame_names
from ecstfl_cli.media.packed import open_pack, split_packed
from ecstfl_cli.media.video import count_frames, frames_at


class Clip(Protocol):
    """One clip; `read` gives frames (H, W, 3) uint8 RGB by rising indices from 0."""

    def __len__(self) -> int: ...
    def read(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]: ...


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """A folder of images; `names` are theirs in playing order as one string, because each worker keeps all clips'."""

    folder: Path
    names: str

    def __len__(self) -> int:
        return len(self.names.split("/"))

    def read(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Images by index. Raises DataError where one cannot be decoded."""
        names = self.names.split("/")
        return [read_image(self.folder / names[i]) for i in indices]


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file of `n_frames` frames that decode."""

    path: Path
    n_frames: int

    def __len__(self) -> int:
        return self.n_frames

    def read(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Frames by index, decoded up to the last of them. Raises DataError where the file cannot be decoded."""
        return frames_at(self.path, indices)


@dataclass(frozen=True, slots=True)
class PackedClip:
    """A sample of a pack, which stays open for the process; only its place is kept here."""

    folder: Path
    id: str

    def __len__(self) -> int:
        return open_pack(self.folder).n_frames(self.id)

    def read(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Frames by index. Raises DataError where the shard is damaged."""
        return open_pack(self.folder).read(self.id, indices)


def open_clip(source: Path, n_frames: int | None = None) -> Clip:
    """The clip at a path; the frames of a video file are counted unless `n_frames` says how many there are.

    Raises OSError where a folder cannot be listed, DataError where a video file or a pack cannot be read.
    """
    if packed := split_packed(source):
        return PackedClip(*packed)
    if is_video_file(source):
        return VideoFile(source, n_frames or count_frames(source))
    return FrameFolder(source, "/".join(frame_names(source)))


def read_still(source: Path) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8 RGB, of a file or of a pack. Raises DataError where it cannot be read."""
    if packed := split_packed(source):
        return PackedClip(*packed).read([0])[0]
    return read_image(source)


def is_video_file(path: str | Path) -> bool:
    """Whether a clip is a video file; a folder may have such a name too, and so may a clip of a pack."""
    has_name = os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122
    return has_name and not os.path.isdir(path) and split_packed(path) is None  # noqa: PTH112
