"""Videos with faces drawn on them: a sink for frames, and one call for a whole file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecstfl_cli.errors import DataError, EcstflError, OutputError, suggest
from ecstfl_cli.files import complete_file
from ecstfl_cli.media.annotate import AnnotatedFace, Annotator
from ecstfl_cli.media.video import av_name, first_time, probe, read_video

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

VIDEO_OUTPUTS = (".mp4", ".mkv", ".mov", ".m4v")
# The first one that this build of FFmpeg has, with its options.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "mpeg4": {},
}
# Ticks a second: a whole number of them for each of 24, 25, 30, 50 and 60 frames a second and for 30000/1001, and the
# most that MPEG-4 can count.
TICKS = 60000
# Bits a pixel, for the encoders that do not choose by quality.
BITS_PER_PIXEL = 0.2


class TimedFace(AnnotatedFace, Protocol):
    """A row of a video: a face with the number of its frame, from 0, its time in seconds, and the frames it spans."""

    @property
    def frame(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def frames(self) -> int: ...


class AnnotatedVideo:
    """Writes frames with their faces drawn on them to a video file; a context manager.

    H.264, or MPEG-4 where this build of FFmpeg lacks it, with each frame at its own time. `sound_from` is a file whose
    first sound track is copied as it is where `path`'s container takes it (`sound` says whether). `path` appears when
    the context ends without error and a frame was written. Raises EcstflError for another ending than .mp4, .mkv, .mov
    and .m4v, OutputError where the file cannot be written, and DataError where the pictures cannot be encoded.
    `sound_until` is where the sound is to end, in seconds, if not with the file.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        *,
        fps: float | None = None,
        sound_from: str | Path | None = None,
        sound_until: float = inf,
    ) -> None:
        if path.suffix.lower() not in VIDEO_OUTPUTS:
            raise EcstflError(
                f"annotated videos cannot be written as {path.name}",
                f"{suggest(path.suffix, VIDEO_OUTPUTS)}Endings: {', '.join(VIDEO_OUTPUTS)}",
            )
        self.path, self.fps, self.sound_from, self.sound_until = path, fps, sound_from, sound_until
        self.sound = False
        self._annotator = Annotator(names)
        self._faces: Sequence[AnnotatedFace] = ()
        self._stack = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._packets: Iterator[tuple[float, Packet]] = iter(())
        self._next_sound: tuple[float, Packet] | None = None
        self._ticks = -1

    def __enter__(self) -> AnnotatedVideo:
        return self

    def write(self, time: float, pixels: NDArray[np.uint8], rows: Sequence[AnnotatedFace] | None) -> None:
        """Add an upright frame, (H, W, 3) uint8 RGB, shown from `time` seconds on, with `rows` drawn on it.

        None means that nobody looked for faces in this frame: the last ones are drawn again. A frame of another size
        than the first is scaled to that.
        """
        import av

        if rows is not None:
            self._faces = tuple(rows)
        pixels = self._annotator.draw(pixels, self._faces)
        try:
            if self._container is None:
                self._open(pixels.shape[1], pixels.shape[0])
            frame = av.VideoFrame.from_ndarray(self._fitted(pixels), format="rgb24")
            self._ticks = max(self._ticks + 1, round(time * TICKS))
            frame.pts, frame.time_base = self._ticks, Fraction(1, TICKS)
            self._mux(self._stream.encode(frame))
            self._copy_sound(time)
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import av

        try:
            if self._container is not None and kind is None:
                self._mux(self._stream.encode(None))
                # What sounds on after the last frame is a part of the video too, for as long as a frame lasts.
                self._copy_sound(self._ticks / TICKS + 1.0)
        except (av.FFmpegError, OSError) as problem:
            failed = self._failed(problem)
            with suppress(av.FFmpegError, OSError):  # Closing the file may need the room that there is not.
                self._stack.__exit__(type(failed), failed, failed.__traceback__)
            raise failed from problem
        try:
            self._stack.__exit__(kind, error, traceback)
        except (av.FFmpegError, OSError) as problem:
            raise self._failed(problem) from problem

    def abandon(self) -> None:
        """Give the file up; nothing is left of it."""
        error = DataError(f"{self.path} is given up")
        with suppress(Exception):  # What it held may be half written.
            self._stack.__exit__(type(error), error, None)
        self._container = None

    def _failed(self, error: Exception) -> EcstflError:
        """OutputError where the disk is what is wrong, DataError where the encoder does not take such pictures."""
        reason = getattr(error, "strerror", None) or str(error)
        what = f"cannot write annotated video {self.path}: {reason}"
        number = getattr(error, "errno", None)
        if number in errno.errorcode and number not in (errno.EINVAL, errno.ERANGE):
            return OutputError(what, "Is there room, and may you write there?")
        return DataError(what, "Its pictures may be too narrow or too wide to be encoded.")

    # --- the file ----------------------------------------------------------------------------------------------------

    def _open(self, width: int, height: int) -> None:
        import av

        partial = self._stack.enter_context(complete_file(self.path))
        container: OutputContainer = self._stack.enter_context(av.open(av_name(partial), "w"))
        self._stream = _video_stream(container, width + width % 2, height + height % 2, self.fps or 25.0)
        if self.sound_from is not None:
            self._open_sound(container, self.sound_from)
        self._container = container

    def _open_sound(self, container: OutputContainer, source: str | Path) -> None:
        import av

        try:
            given: InputContainer = self._stack.enter_context(av.open(av_name(source)))
        except (av.FFmpegError, OSError):
            return
        if not given.streams.audio or given.streams.audio[0].codec_context is None:
            return
        track = given.streams.audio[0]
        if track.codec_context.name not in container.supported_codecs:
            return
        copy: Any = container.add_stream_from_template(track)
        start = first_time(source)
        self.sound = True

        def packets() -> Iterator[tuple[float, Packet]]:
            for packet in given.demux(track):
                if packet.pts is None or packet.time_base is None:
                    continue
                shift = round(start / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.dts - shift if packet.dts is not None else packet.pts
                packet.stream = copy
                # What an encoder puts before the first sample to warm up its decoder lies a little before 0.
                if (time := float(packet.pts * packet.time_base)) > -0.15:
                    yield time, packet

        self._packets = packets()
        self._next_sound = next(self._packets, None)

    def _copy_sound(self, until: float) -> None:
        """Sound up to `until` seconds: the two go side by side, so that neither waits in memory.

        Damaged sound ends where the damage is; the pictures go on.
        """
        import av

        until = min(until, self.sound_until)
        while self._next_sound is not None and self._next_sound[0] <= until:
            try:
                self._mux(self._next_sound[1])
                self._next_sound = next(self._packets, None)
            except (av.error.InvalidDataError, av.error.ArgumentError):
                self._next_sound = None

    def _mux(self, packets: Any) -> None:
        assert self._container is not None
        self._container.mux(packets)

    def _fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of the stream's size: H.264 in 4:2:0 has even sides, so that an odd one repeats its last line."""
        height, width = pixels.shape[:2]
        wide, high = self._stream.width, self._stream.height
        if (wide - width, high - height) in ((0, 0), (0, 1), (1, 0), (1, 1)):
            return np.pad(pixels, ((0, high - height), (0, wide - width), (0, 0)), mode="edge")
        return np.asarray(Image.fromarray(pixels).resize((wide, high)))


def _video_stream(container: OutputContainer, width: int, height: int, fps: float) -> VideoStream:
    import av

    name = next(name for name in ENCODERS if name in av.codecs_available)
    stream: Any = container.add_stream(name, rate=Fraction(fps).limit_denominator(1001), options=ENCODERS[name])
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
    if name != "libx264":
        stream.bit_rate = round(width * height * min(fps, 60.0) * BITS_PER_PIXEL)
    return stream


def annotate_video(
    source: str | Path,
    rows: Sequence[TimedFace],
    names: Sequence[str],
    path: Path,
    *,
    hold: float | None = None,
    advance: Callable[[int], None] = lambda _n: None,
) -> AnnotatedVideo:
    """Read the video file `source` and write it to `path` with `rows` drawn on it, its sound copied.

    `rows` are in the order of their frames. Frames without rows, because frames were thinned or a window of frames has
    one row, show the last faces for up to `hold` seconds: half as long again as a face's rows are usually apart, where
    it is not given. A face whose row is of a window stays so long whatever rows of other faces come in between.
    `advance(n)` is called with the frames done. Frames before damage in `source` are written. Raises EcstflError as
    AnnotatedVideo and read_video do.
    """
    held = _usually_apart(rows) * 1.5 if hold is None else hold
    by_frame = _by_frame(rows)
    number, faces = next(by_frame, (-1, []))
    shown: dict[int, TimedFace] = {}
    with AnnotatedVideo(path, names, fps=probe(source).fps, sound_from=source) as video:
        for frame in _until_damage(source):
            while 0 <= number < frame.index:
                number, faces = next(by_frame, (-1, []))
            if number == frame.index:
                shown = {face: row for face, row in shown.items() if row.frames > 1}
                shown |= {row.face: row for row in faces}
            shown = {face: row for face, row in shown.items() if frame.time - row.time <= held + 1e-3}
            video.write(frame.time, frame.pixels, list(shown.values()))
            advance(1)
    return video


def _usually_apart(rows: Sequence[TimedFace]) -> float:
    """The median of the seconds between one row of a face and its next; 0 where none has two."""
    times: dict[int, list[float]] = {}
    for row in rows:
        times.setdefault(row.face, []).append(row.time)
    apart = np.concatenate([np.zeros(0), *(np.diff(of_face) for of_face in times.values())])
    return float(np.median(apart)) if len(apart) else 0.0


def _by_frame(rows: Iterable[TimedFace]) -> Iterator[tuple[int, list[TimedFace]]]:
    number = -1
    faces: list[TimedFace] = []
    for row in rows:
        if row.frame != number and faces:
            yield number, faces
            faces = []
        number = row.frame
        faces.append(row)
    if faces:
        yield number, faces


def _until_damage(source: str | Path) -> Iterator[Any]:
    started = False
    try:
        for frame in read_video(source):
            started = True
            yield frame
    except DataError:
        # Whoever made the rows has met the same damage and said so.
        if not started:
            raise
