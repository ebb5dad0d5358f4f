"""Everything that moves as frames with times: video files, streams, devices, animated images, folders of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, frame_names, is_address
from ecstfl_cli.media.video import VideoFrame, probe, read_video

ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng", ".avif"})
# Pillow's names of these; the frames of others are pages, or the same picture for each eye.
_ANIMATED_FORMATS = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
# Frames a second of a folder of frames, which does not say.
FOLDER_FPS = 25.0
# What Pillow's readers raise on damaged animations.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# What browsers take for frames of an animation that have no duration.
_ANIMATION_SECONDS = 0.1


def is_animated(path: Path) -> bool:
    """Whether an image file holds more than one frame. False where it cannot be read, or its ending says otherwise."""
    suffix = path.suffix.lower()
    if suffix not in ANIMATED_SUFFIXES and suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return False
    if not path.is_file():  # What was read of a pipe is gone.
        return False
    try:
        with Image.open(path) as image:
            return image.format in _ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1
    except Exception:  # Pillow's readers raise almost anything on broken files; reading it says what.
        return False


def read_moving(
    source: str | Path,
    *,
    every: int = 1,
    fps: float | None = None,
    folder_fps: float = FOLDER_FPS,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Iterator[VideoFrame]:
    """Frames of a source, one at a time; see read_video for the arguments. A folder plays at `folder_fps`.

    Raises DataError where it cannot be read.
    """
    path = Path(source)
    if not format and not is_address(source):
        if path.is_dir():
            yield from _thinned(_folder(path, folder_fps), every, fps)
            return
        if is_animated(path):
            yield from _thinned(_animation(path), every, fps)
            return
    yield from read_video(source, every=every, fps=fps, format=format, options=options)


def seconds_of(source: str | Path, folder_fps: float = FOLDER_FPS) -> float | None:
    """How long a video file, an animated image or a folder of frames lasts, by its header; None where that is not said.

    Raises DataError where it cannot be read.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return len(frame_names(path)) / folder_fps
        if is_animated(path):
            return sum(_durations(path))
    except _DAMAGE as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return probe(path).seconds


# Of these Pillow tells how long a frame lasts when it is decoded, of others when it is found.
_TOLD_BY_LOADING = ("WEBP", "AVIF")


def _durations(path: Path) -> list[float]:
    with Image.open(path) as image:
        found = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            if image.format in _TOLD_BY_LOADING:
                image.load()
            found.append(_seconds(image))
        return found


def _seconds(image: Image.Image) -> float:
    return (image.info.get("duration") or 1000 * _ANIMATION_SECONDS) / 1000


def _thinned(frames: Iterator[VideoFrame], every: int, fps: float | None) -> Iterator[VideoFrame]:
    taken = -1
    for frame in frames:
        if fps is None:
            if frame.index % every == 0:
                yield frame
        elif int((frame.time + 5e-4) * fps) > taken:
            taken = int((frame.time + 5e-4) * fps)
            yield frame


def _folder(path: Path, fps: float) -> Iterator[VideoFrame]:
    try:
        names = frame_names(path)
    except OSError as error:
        raise DataError(f"cannot read the folder {path}: {error.strerror}") from error
    if not names:
        raise DataError(f"folder {path} holds no images")
    bad: list[DataError] = []
    for index, name in enumerate(names):
        try:
            pixels = read_image(path / name)
        except DataError as error:  # It is passed over, as a broken packet of a video is.
            bad.append(error)
            continue
        yield VideoFrame(index, index / fps, pixels)
    if len(bad) == len(names):
        raise bad[0]
    if bad:
        raise DataError(f"{len(bad)} of {len(names)} frames of {path} were left out: {bad[0].message}")


def _animation(path: Path) -> Iterator[VideoFrame]:
    time = 0.0
    try:
        with Image.open(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                rgba = image.convert("RGBA")
                black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
                yield VideoFrame(index, time, np.array(Image.alpha_composite(black, rgba).convert("RGB")))
                time += _seconds(image)
    except _DAMAGE as error:
        raise DataError(f"cannot read animation {path}: {error}") from error
