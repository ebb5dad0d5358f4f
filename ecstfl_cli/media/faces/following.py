"""From the frames of a video to the frames with their tracked faces; what `prepare --faces` and `infer` share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from ecstfl_cli.media.faces.finding import FaceFinder
from ecstfl_cli.media.faces.tracking import FaceTracker, TrackedFace, interpolate
from ecstfl_cli.media.video import VideoFrame

Followed = tuple[VideoFrame, list[TrackedFace]]


def follow_faces(
    frames: Iterable[VideoFrame],
    finder: FaceFinder,
    *,
    detect_every: int = 1,
    batch_size: int = 8,
    tracker: FaceTracker | None = None,
) -> Iterator[Followed]:
    """Each frame of one video with its faces, in order; at most `detect_every` * `batch_size` frames are in memory.

    Faces are detected in every `detect_every`-th frame and in the last; in between they are interpolated. The result
    does not depend on `batch_size`.
    """
    tracker = tracker or FaceTracker()
    before: Followed | None = None
    for chunk, at in _chunks(iter(frames), detect_every, batch_size):
        found = finder.find([chunk[i].pixels for i in at])
        start = 0
        for i, faces in zip(at, found, strict=True):
            after = chunk[i], tracker.update(chunk[i].time, faces)
            yield from _filled(before, chunk[start:i], after)
            yield after
            before, start = after, i + 1


def _chunks(
    frames: Iterator[VideoFrame], detect_every: int, batch_size: int
) -> Iterator[tuple[list[VideoFrame], list[int]]]:
    """Frames with the indices of those to detect in: each chunk ends with one of them. Errors come after the frames."""
    failure: Exception | None = None

    def until_failure() -> Iterator[VideoFrame]:
        nonlocal failure
        try:
            yield from frames
        except Exception as error:
            failure = error

    source = until_failure()
    first = list(islice(source, 1))
    if first:
        yield first, [0]
    while chunk := list(islice(source, detect_every * batch_size)):
        at = list(range(detect_every - 1, len(chunk), detect_every))
        if not at or at[-1] != len(chunk) - 1:
            at.append(len(chunk) - 1)
        yield chunk, at
    if failure:
        raise failure


def _filled(before: Followed | None, frames: list[VideoFrame], after: Followed) -> Iterator[Followed]:
    for frame in frames:
        if before is None:
            yield frame, []
            continue
        span = after[0].time - before[0].time
        share = (frame.time - before[0].time) / span if span > 0 else 0.5
        yield frame, interpolate(before[1], after[1], share)
