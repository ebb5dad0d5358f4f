"""Video files and streams as upright RGB frames with their times, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.media.frames import is_address

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame as AVFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class VideoFrame:
    """One decoded frame: its number from 0 in playing order, its time in seconds, and pixels (H, W, 3) uint8 RGB."""

    index: int
    time: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoInfo:
    """What a container says: upright size in square pixels, mean frames a second, frames and seconds if known."""

    width: int
    height: int
    fps: float | None
    n_frames: int | None
    seconds: float | None


def probe(path: str | Path) -> VideoInfo:
    """What the header says; only the first frame is decoded, for how it lies. Raises DataError as `read_video`."""
    with _opened(path) as (container, stream):
        lies = next((_how_it_lies(frame) for frame in _decoded(container, stream, path)), UPRIGHT)
        width, height = _square_size(stream.width, stream.height, stream)
        if lies.transposed:
            width, height = height, width
        rate = stream.average_rate or stream.guessed_rate
        seconds = _seconds(container, stream)
        return VideoInfo(width, height, float(rate) if rate else None, stream.frames or None, seconds)


def read_video(
    source: str | Path,
    *,
    every: int = 1,
    fps: float | None = None,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Iterator[VideoFrame]:
    """Frames of a video file, a stream's address or a device, one at a time, so that memory stays flat.

    Every `every`-th frame, or with `fps` at most so many a second, by the frames' own times (a variable frame rate is
    thinned evenly in time). Of several tracks it is the one with the largest pictures. Frames are turned upright as the
    container says, and pixels that are not square made so. `format` and `options` are FFmpeg's, for devices. Times
    start at 0 and rise. Raises DataError where the source cannot be opened or holds no video; and, when all frames that
    can be read are out, where the file is damaged, or truncated by what its header tells.
    """
    if every < 1 or (fps is not None and fps <= 0):
        raise EcstflError("every must be 1 or more, and fps above 0")
    with _opened(source, format, options) as (container, stream):
        start: float | None = None
        last, taken = 0.0, -1
        upright = _Upright(stream)
        for index, frame in enumerate(_decoded(container, stream, source)):
            time = _time(frame, index, stream)
            start = time if start is None else start
            time -= start
            if index and time <= last:  # Some of its frames have no times.
                time = last + _interval(stream)
            last = time
            if fps is None:
                if index % every:
                    continue
            # Half a millisecond, because 1/30 s is not a whole number of a container's ticks.
            elif int((time + 5e-4) * fps) <= taken:
                continue
            else:
                taken = int((time + 5e-4) * fps)
            yield VideoFrame(index, time, upright(frame))


def first_time(source: str | Path) -> Fraction:
    """The time of the first picture in the file's own count, where `read_video` begins to count; 0 without one."""
    try:
        with _opened(source) as (container, stream):
            for frame in _decoded(container, stream, source):
                if frame.pts is not None and frame.time_base is not None:
                    return frame.pts * frame.time_base
                break
    except DataError:  # Whoever reads it is told.
        pass
    return Fraction(0)


def count_frames(path: str | Path) -> int:
    """Frames of a video file that decode, all of it decoded, because headers lie. Raises DataError as `read_video`."""
    with _opened(path) as (container, stream):
        return sum(1 for _ in _decoded(container, stream, path))


def frames_at(path: str | Path, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """The frames (H, W, 3) uint8 RGB of a video file at rising `indices` from 0, as `read_video` gives them.

    Decoded up to the last of them, because seeking is not exact in every container; only these become RGB. Raises
    DataError as `read_video`, and where there are fewer frames.
    """
    wanted, found = set(indices), []
    last = max(wanted, default=-1)
    with _opened(path) as (container, stream):
        upright = _Upright(stream)
        for index, frame in enumerate(_decoded(container, stream, path)):
            if index in wanted:
                found.append(upright(frame))
            if index >= last:
                break
    if len(found) < len(wanted):
        raise DataError(f"video {path} has no frame {last}", "Was it changed? Run `ecstfl prepare --check`.")
    return found


@contextmanager
def _opened(
    source: str | Path, format: str | None = None, options: dict[str, str] | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A source, and its track with the largest pictures."""
    import av

    try:
        container = av.open(source if format else av_name(source), format=format, options=options or {})
        if container.format.name == "mpjpeg" and "use_wallclock_as_timestamps" not in (options or {}):
            # A camera's pictures have no times, and FFmpeg takes 25 a second: they are of when they come.
            container.close()
            container = av.open(av_name(source), options={**(options or {}), "use_wallclock_as_timestamps": "1"})
    except (av.FFmpegError, OSError, ValueError) as error:
        why = "it was cut off before its index (moov)" if _lacks_index(Path(source)) else _reason(error)
        raise DataError(f"cannot open video {source}: {why}", "Check that it plays elsewhere.") from error
    with container:
        # The cover of a song is a track, too.
        cover = av.stream.Disposition.attached_pic
        tracks = [track for track in container.streams.video if not track.disposition & cover]
        if not tracks:
            raise DataError(f"{source} holds no video", "It may be a sound file.")
        stream = max(tracks, key=lambda track: track.width * track.height)
        stream.thread_type = "AUTO"
        yield container, stream


def av_name(source: str | Path) -> str:
    """What FFmpeg calls a source: a path with a colon would be an address, and an address begins in small letters."""
    if not is_address(source):
        return f"file:{source}"
    scheme, colon, rest = str(source).partition(":")
    return scheme.lower() + colon + rest


def _lacks_index(path: Path) -> bool:
    """Whether a file is an MP4 or MOV without the box that says where its frames are, which most writers put last."""
    try:
        with path.open("rb") as file:
            end = path.stat().st_size
            while (at := file.tell()) < end:
                head = file.read(8)
                size, kind = int.from_bytes(head[:4], "big"), head[4:]
                if kind == b"moov" or (at == 0 and kind != b"ftyp"):
                    return False
                if size == 1:  # The size follows in 64 bits.
                    size = int.from_bytes(file.read(8), "big")
                if size < 8:
                    return size == 0  # It reaches to the end of the file.
                file.seek(at + size)
            return end > 0
    except OSError:
        return False


def _decoded(container: InputContainer, stream: VideoStream, source: str | Path) -> Iterator[AVFrame]:
    """Frames in playing order. A broken packet is passed over as players do, and told of when all frames are out.

    So is an end before the time that the header tells. No frame at all is an error.
    """
    import av

    count = broken = 0
    first: AVFrame | None = None
    last: AVFrame | None = None
    damage = ""
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                broken, damage = broken + 1, _reason(error)
                continue
            for frame in frames:
                count += 1
                first, last = first or frame, frame
                yield frame
    except (av.FFmpegError, OSError) as error:
        if count == 0:
            raise DataError(f"cannot decode video {source}: {_reason(error)}", "It may be truncated.") from error
        raise DataError(f"video {source} is damaged after {count} frames: {_reason(error)}") from error
    if first is None or last is None:
        reason = f"cannot decode video {source}: {damage}" if damage else f"video {source} holds no frames"
        raise DataError(reason, "It may be truncated.")
    if broken:
        raise DataError(f"video {source} is damaged: parts could not be decoded ({broken}), {count} frames could")
    _require_whole(container, stream, first, last, source)
    if last.is_corrupt and not is_address(source):
        raise DataError(f"the last frame of video {source} is damaged; it may be truncated")


def _require_whole(
    container: InputContainer, stream: VideoStream, first: AVFrame, last: AVFrame, source: str | Path
) -> None:
    """Raises DataError where a tenth of the time that the header tells is missing, and more than half a second."""
    seconds = _stream_seconds(container, stream)
    if seconds is None or first.time is None or last.time is None or last.time_base is None or is_address(source):
        return
    # Matroska's tag is the time of the end, which need not begin at 0.
    start = 0.0 if stream.duration is None else first.time
    reached = last.time - start + float((last.duration or 0) * last.time_base)
    if seconds - reached > max(0.5, 0.1 * seconds):
        raise DataError(f"video {source} ends after {reached:.1f} of {seconds:.1f} seconds; it is truncated")


def _stream_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the pictures last by the header; sound may last longer."""
    if container.format.name != "avi" and stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    written = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska.
    if written:
        hours, minutes, seconds = map(float, written.groups())
        return 3600 * hours + 60 * minutes + seconds
    if container.format.name == "avi" and stream.time_base is not None:
        return float(stream.frames * stream.time_base)  # A frame for each tick.
    if container.format.name == "flv" and container.duration:  # Others guess it from the size.
        return float(container.duration) / 1e6
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _time(frame: AVFrame, index: int, stream: VideoStream) -> float:
    if frame.time is not None:
        return float(frame.time)
    rate = stream.average_rate or stream.guessed_rate
    return index / float(rate) if rate else 0.0


def _seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _interval(stream: VideoStream) -> float:
    """Seconds from one frame to the next, on average."""
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else 0.04


class Lie(NamedTuple):
    """How decoded pixels lie: with rows and columns changed over, and after that mirrored along either."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False


UPRIGHT = Lie()


def _how_it_lies(frame: AVFrame) -> Lie:
    """By the display matrix, x' = ax + cy and y' = bx + dy (ISO/IEC 14496-12), to the nearest quarter of a turn."""
    side: Any
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack_from("=5i", bytes(side))
            if abs(a) >= abs(b):
                return Lie(False, a < 0, d < 0)
            return Lie(True, c < 0, b < 0)
    return UPRIGHT


def _square_size(width: int, height: int, stream: VideoStream) -> tuple[int, int]:
    """Width and height with square pixels: the shorter side of a pixel is drawn out."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 0.1 < aspect < 10:  # Nobody means that.
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


class _Upright:
    """The pixels of a stream's frames, (H, W, 3) uint8 RGB, square and as they are to be seen."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        # Reading a frame's matrix ties it into a cycle that keeps its pixels until Python collects garbage: one frame's
        # for each rotation is enough.
        self._lies: dict[int, Lie] = {}

    def __call__(self, frame: AVFrame) -> NDArray[np.uint8]:
        width, height = _square_size(frame.width, frame.height, self._stream)
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        if (rotation := frame.rotation) not in self._lies:
            self._lies[rotation] = _how_it_lies(frame)
        lies = self._lies[rotation]
        if lies.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if lies.mirrored_y else 1, :: -1 if lies.mirrored_x else 1], np.uint8)
