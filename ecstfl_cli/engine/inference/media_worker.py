"""Looking at one unit of a job: its rows, its summary, and annotated copies and thumbnails where they are asked for."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.inference.media_job import Job, Unit, normal_path
from ecstfl_cli.engine.inference.recogniser import AHEAD, Recogniser
from ecstfl_cli.engine.inference.results import FaceResult, to_row
from ecstfl_cli.engine.inference.source_summary import SourceSummary, Tally
from ecstfl_cli.engine.inference.sources import ANNOTATED, MediaSource
from ecstfl_cli.errors import DataError, EcstflError, OutputError
from ecstfl_cli.files import complete_file, remove_partial
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.annotate import AnnotatedFace, annotate_image
from ecstfl_cli.media.annotated_video import VIDEO_OUTPUTS, AnnotatedVideo
from ecstfl_cli.media.camera import camera_input
from ecstfl_cli.media.frames import is_address
from ecstfl_cli.media.moving import FOLDER_FPS, is_animated, read_moving, seconds_of
from ecstfl_cli.media.prefetch import prefetched
from ecstfl_cli.media.row_tables import RowTable
from ecstfl_cli.media.video import VideoFrame, probe
from ecstfl_cli.report.thumbnails import Thumbnail, ThumbnailKeeper

Pixels = NDArray[np.uint8]
# Called with the time in seconds, the results and their classes, for each frame of a live source as it comes.
OnLive = Callable[[float, Sequence[FaceResult], LabelMap], None]
# Of an address as a file's name; file systems take 255 bytes, a character may be four, and endings come behind it.
LONGEST_NAME = 50
_NOT_DRAWN = "its annotated copy could not be made"
# A network that says nothing for so many microseconds has gone. FFmpeg calls it differently for each protocol.
_SILENCE = {"rw_timeout": "15000000", "timeout": "15000000"}
# Where `timeout` is to wait for somebody who sends.
_RTMP_SILENCE = {"rw_timeout": "15000000"}
# Over UDP, frames that come while earlier ones are looked at are lost.
_RTSP = {"rtsp_flags": "prefer_tcp"}


def _stream_options(address: str) -> dict[str, str]:
    scheme = address.partition(":")[0].lower()
    if scheme.startswith("rtmp"):
        return _RTMP_SILENCE
    return _SILENCE | (_RTSP if scheme.startswith("rtsp") else {})


def nothing(*_: Any) -> None:
    """Listens to what nobody wants to hear."""


@dataclass
class Worker:
    """Looks at units with one recogniser.

    `on_live` hears of each frame of live sources, and `stopped` says whether they are to end now. `on_time` hears how
    many seconds of a video have been looked at.
    """

    job: Job
    recogniser: Recogniser
    on_live: OnLive = nothing
    stopped: Callable[[], bool] = bool
    on_time: Callable[[float], None] = nothing

    def look_at(self, unit: Unit) -> list[SourceSummary]:
        """Write a unit's rows, and what else the job's settings ask for; its sources' summaries.

        What is wrong with a source is in its summary. Raises OutputError where something cannot be written.
        """
        labels = self.recogniser.labels
        with RowTable(self.job.rows(unit), self.job.columns) as table, self._thumbnails(unit) as keep:

            def take(results: Sequence[FaceResult]) -> None:
                table.write([to_row(result, labels) for result in results])

            if unit.sources[0].kind == "image":
                return self._images(unit, take, keep)
            return [self._moving(unit.sources[0], take, keep)]

    # --- images ------------------------------------------------------------------------------------------------------

    def _images(self, unit: Unit, take: Callable, keep: Callable) -> list[SourceSummary]:
        summaries = []
        for source, pixels, results in self._seen(unit.sources):
            problem = _said(source, pixels) if isinstance(pixels, DataError) else ""
            take(results)
            keeper = ThumbnailKeeper()
            if isinstance(pixels, np.ndarray):
                keeper.add(0.0, pixels, results)
                if self.job.settings.annotate:
                    problem = self._drawn(source, pixels, results)
            keep(source, keeper)
            tally = Tally(source.name, source.kind, len(self.recogniser.labels))
            summaries.append(tally.finish_still(results, problem, read=isinstance(pixels, np.ndarray)))
        return summaries

    def _drawn(self, source: MediaSource, pixels: Pixels, results: Sequence[FaceResult]) -> str:
        """Write an image's annotated copy; why there is none."""
        try:
            with _writing():
                annotate_image(pixels, results, self.recogniser.labels.names, self._copy(source), self._copies)
        except (ValueError, MemoryError) as error:
            return f"{_NOT_DRAWN}: {error or type(error).__name__}"
        return ""

    def _seen(
        self, sources: Sequence[MediaSource]
    ) -> Iterator[tuple[MediaSource, Pixels | DataError, list[FaceResult]]]:
        """Each image with its results. Where a batch meets a bug, the rest is looked at one by one."""
        done = 0
        try:
            seen = self.recogniser.see_images((source.name, source.name) for source in sources)
            for source, (_, pixels, results) in zip(sources, seen, strict=True):
                yield source, pixels, results
                done += 1
            return
        except Exception as error:
            if len(sources) == 1:
                said = error.message if isinstance(error, EcstflError) else self._internal(sources[0], error)
                yield sources[0], DataError(said), []
                return
        for source in sources[done:]:
            yield from self._seen([source])

    # --- videos and streams ------------------------------------------------------------------------------------------

    def _moving(self, source: MediaSource, take: Callable, keep: Callable) -> SourceSummary:
        tally = Tally(source.name, source.kind, len(self.recogniser.labels))
        keeper = ThumbnailKeeper() if self.job.settings.report else None
        problem = ""
        with self._annotated(source) as copy, closing(self._every_frame(source)) as every_frame:
            try:
                seen = self.recogniser.see_frames(self._frames(source), source.name, live=source.live)
                for frame, results, faces in seen:
                    tally.add(frame.time, results)
                    take(results)
                    # A thinned video is decoded once more beside, so that none of it waits in memory.
                    copy.hold(every_frame, frame.index)
                    copy.write(frame, faces)
                    if keeper:
                        keeper.add(frame.time, frame.pixels, results)
                    self.on_time(frame.time)
                    if source.live:
                        self.on_live(frame.time, results, self.recogniser.labels)
            except KeyboardInterrupt:
                # The second one, where the stream does not even say that it has ended. What has come is kept.
                if not source.live:
                    raise
            except OutputError:
                raise
            except BrokenPipeError:
                # Nobody reads what is printed any more: the stream ends as with Ctrl-C.
                if not source.live:
                    raise
            except EcstflError as error:
                problem = _said(source, error)
            except Exception as error:
                problem = self._internal(source, error)
                every_frame.close()
            copy.hold(every_frame)
        if keeper:
            keep(source, keeper)
        exact = source.kind == "frames" or (source.kind == "video" and is_animated(Path(source.name)))
        return tally.finish(problem or copy.problem, self._end(source), exact=exact)

    def _end(self, source: MediaSource) -> float | None:
        """Seconds that a source lasts, or is looked at, as far as that is known without reading all of it."""
        settings = self.job.settings
        ends = [settings.max_seconds]
        if source.kind in ("video", "frames"):
            with suppress(DataError):
                ends.append(seconds_of(source.name, settings.frame_rate or FOLDER_FPS))
        return min((end for end in ends if end is not None), default=None)

    def _every_frame(self, source: MediaSource) -> Generator[VideoFrame, None, None]:
        """All frames, up to damage, of a source of which some are passed over. None of a live one, which comes once."""
        settings = self.job.settings
        if not source.live and settings.thinned:
            with suppress(DataError):
                yield from prefetched(self._frames(source, thinned=False), AHEAD)

    def _frames(self, source: MediaSource, thinned: bool = True) -> Iterator[VideoFrame]:
        settings = self.job.settings
        address, format, options = source.name, None, None
        if source.kind == "camera":
            camera = camera_input(source.name)
            address, format, options = camera.url, camera.format, camera.options
        elif is_address(source.name):
            options = _stream_options(source.name)
        frames: Iterator[VideoFrame] = read_moving(
            address,
            every=settings.every if thinned else 1,
            fps=settings.fps if thinned else None,
            folder_fps=settings.frame_rate or FOLDER_FPS,
            format=format,
            options=options,
        )
        if settings.max_seconds is not None:
            end = settings.max_seconds
            frames = takewhile(lambda frame: frame.time < end, frames)
        if source.live:
            frames = takewhile(lambda _: not self.stopped(), frames)
        return frames

    def _internal(self, source: MediaSource, error: Exception) -> str:
        """What is said of a bug, which must not end the batch either; its traceback goes to errors.log."""
        log = self.job.out / "errors.log"
        with _writing(), log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{source.name}\n{''.join(traceback.format_exception(error))}\n")
        return f"internal error: {type(error).__name__}: {error} (its traceback is in {log})"

    # --- beside the rows ---------------------------------------------------------------------------------------------

    @contextmanager
    def _annotated(self, source: MediaSource) -> Iterator[_Copy]:
        if not self.job.settings.annotate:
            yield _Copy(None)
            return
        path = self._copy(source)
        fps = self.job.settings.frame_rate
        sound = None
        if source.kind == "video" and not is_animated(Path(source.name)):
            sound = source.name
            try:
                fps = probe(source.name).fps
            except DataError:  # Reading it says what.
                yield _Copy(None)
                return
        if source.kind != "video" or path.suffix.lower() not in VIDEO_OUTPUTS:
            path = path.with_name(f"{path.name}.mp4")
            while path in self._copies:  # clip.mp4 may lie beside the frame folder clip.
                path = path.with_name(f"{path.stem}_.mp4")
        remove_partial(path)
        until = inf if self.job.settings.max_seconds is None else self.job.settings.max_seconds
        names = self.recogniser.labels.names
        copy = _Copy(AnnotatedVideo(path, names, fps=fps, sound_from=sound, sound_until=until))
        try:
            with _writing(), copy.video or nullcontext():
                yield copy
        except DataError as error:  # Its last pictures could not be encoded.
            copy.problem = f"{_NOT_DRAWN}: {error.message}"

    @functools.cached_property
    def _copies(self) -> set[Path]:
        return {self._copy(source) for source in self.job.sources}

    def _copy(self, source: MediaSource) -> Path:
        """Where a source's annotated copy goes: in OUT/annotated as it lies below the folder that all sources share."""
        folder = self.job.out / ANNOTATED
        if source.live:
            name = re.sub(r"[^\w.-]+", "_", source.name).strip("_")
            if len(name) <= LONGEST_NAME:
                return folder / name
            return folder / f"{name[:LONGEST_NAME]}_{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"
        return folder / normal_path(source.name).relative_to(self.job.common_folder)

    @contextmanager
    def _thumbnails(self, unit: Unit) -> Iterator[Callable[[MediaSource, ThumbnailKeeper], None]]:
        """A function that keeps a source's thumbnails for the report, which is written when all units are done."""
        if not self.job.settings.report:
            yield nothing
            return
        with _writing(), complete_file(self.job.thumbnails(unit)) as partial, partial.open("w") as file:

            def keep(source: MediaSource, keeper: ThumbnailKeeper) -> None:
                file.write(_thumbnails_line(source, keeper.thumbnails()))

            yield keep


class _Copy:
    """An annotated copy in the making, if wanted; given up where it cannot be encoded: `problem` says why."""

    def __init__(self, video: AnnotatedVideo | None) -> None:
        self.video = video
        self.problem = ""

    def write(self, frame: VideoFrame, faces: Sequence[AnnotatedFace] | None) -> None:
        """Add a frame; None for faces that nobody looked for, which shows the last ones."""
        if self.video is None:
            return
        try:
            with _writing():
                self.video.write(frame.time, frame.pixels, faces)
        except (DataError, ValueError, MemoryError) as error:
            self.video.abandon()
            self.video = None
            self.problem = f"{_NOT_DRAWN}: {error.message if isinstance(error, DataError) else error}"

    def hold(self, frames: Iterator[VideoFrame], until: float = inf) -> None:
        """Add frames that nobody looked at, and pass over number `until`, which somebody did."""
        if self.video:
            for frame in takewhile(lambda frame: frame.index < until, frames):
                self.write(frame, None)


def _said(source: MediaSource, error: EcstflError) -> str:
    """What is wrong with a source, in one line."""
    if source.kind in ("image", "video") and Path(source.name).is_file() and not Path(source.name).stat().st_size:
        return "is empty (0 bytes)"
    return " ".join(error.message.split("\n"))


def write_thumbnails(path: Path, of_sources: Sequence[tuple[MediaSource, Sequence[Thumbnail]]]) -> None:
    """Write the thumbnails of a unit's sources as `read_thumbnails` reads them."""
    with complete_file(path) as partial:
        partial.write_text("".join(_thumbnails_line(source, kept) for source, kept in of_sources))


def _thumbnails_line(source: MediaSource, kept: Sequence[Thumbnail]) -> str:
    thumbnails = [_thumbnail_to_dict(thumbnail) for thumbnail in kept]
    return json.dumps({"source": source.name, "thumbnails": thumbnails}) + "\n"


def _thumbnail_to_dict(thumbnail: Thumbnail) -> dict[str, Any]:
    return {**vars(thumbnail), "jpeg": base64.b64encode(thumbnail.jpeg).decode()}


def read_thumbnails(path: Path) -> Iterator[list[Thumbnail]]:
    """The thumbnails of each source of a unit, in order."""
    if not path.exists():  # The process that looked at the unit has died.
        return
    with path.open() as file:
        for line in file:
            kept = json.loads(line)["thumbnails"]
            yield [Thumbnail(**{**values, "jpeg": base64.b64decode(values["jpeg"])}) for values in kept]


@contextmanager
def _writing() -> Iterator[None]:
    """Failures in it are OutputErrors, which end the job, but for pictures that cannot be encoded."""
    try:
        yield
    except (OutputError, DataError):
        raise
    except EcstflError as error:
        raise OutputError(error.message, error.hint) from error
    except OSError as error:
        if error.errno is None:  # Pillow's, of a picture that a format does not take.
            raise ValueError(str(error)) from error
        raise OutputError.of(Path(error.filename or "the results"), error) from error
