"""From the frames of a video to the frames with their tracked faces; what `prepare --faces` and `infer` share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from ecstfl_cli.errors import EcstflError
from ecstfl_cli.media.faces.finding import FaceFinder
from ecstfl_cli.media.faces.tracking import FaceTracker, TrackedFace, interpolate
from ecstfl_cli.media.video import VideoFrame

Followed = tuple[VideoFrame, list[TrackedFace]]

# Seconds for which a face that detection misses is filled in.
MAX_FILL = 0.3
# In a video without faces every so manyth detection searches the larger copies too.
_THOROUGH_EVERY = 5


def follow_faces(
    frames: Iterable[VideoFrame],
    finder: FaceFinder,
    *,
    detect_every: int = 1,
    batch_size: int = 8,
) -> Iterator[Followed]:
    """Each frame of one video with its faces, in order.

    Faces are detected in every `detect_every`-th frame and in the last; in between they are interpolated. So are faces
    that detection misses for up to MAX_FILL seconds: until it is known, frames are kept in memory, besides the
    `detect_every` * `batch_size` that are detected in together. Larger copies than the finder's first are searched
    where faces were seen in the last second, else in every fifth detection only. The result does not depend on
    `batch_size`.
    """
    return _without_gaps(_followed(frames, finder, detect_every, batch_size))


def _followed(
    frames: Iterable[VideoFrame], finder: FaceFinder, detect_every: int, batch_size: int
) -> Iterator[Followed]:
    tracker = FaceTracker()
    before: Followed | None = None
    quick_ones = _THOROUGH_EVERY
    for chunk, at in _chunks(iter(frames), detect_every, batch_size):
        found, unsure = finder.find_quickly([chunk[i].pixels for i in at])
        start = 0
        for k, i in enumerate(at):
            frame, faces = chunk[i], found[k]
            if k in unsure and (tracker.is_following(frame.time) or quick_ones >= _THOROUGH_EVERY - 1):
                faces = finder.find_thoroughly(frame.pixels, faces)
                quick_ones = 0
            else:
                quick_ones += 1
            after = frame, tracker.update(frame.time, faces)
            yield from _filled(before, chunk[start:i], after)
            yield after
            before, start = after, i + 1


def _without_gaps(followed: Iterator[Followed]) -> Iterator[Followed]:
    """Frames are held while a face that was just seen is missing, and it is put into them if it comes back in time."""
    held: deque[Followed] = deque()
    seen: dict[int, tuple[float, TrackedFace]] = {}
    try:
        for frame, faces in followed:
            for face in faces:
                if face.id in seen and held:
                    time, last = seen[face.id]
                    _fill(held, time, last, frame.time, face)
                seen[face.id] = frame.time, face
            held.append((frame, faces))
            seen = {id: (time, face) for id, (time, face) in seen.items() if frame.time - time <= MAX_FILL}
            # All that could still be filled comes after the last sighting of one that is missing.
            missing = [time for time, _ in seen.values() if time < frame.time]
            while held and (not missing or held[0][0].time <= min(missing)):
                yield held.popleft()
    except EcstflError:
        yield from held
        raise
    yield from held


def _fill(held: deque[Followed], before: float, last: TrackedFace, after: float, face: TrackedFace) -> None:
    for i, (frame, faces) in enumerate(held):
        if before < frame.time < after and all(other.id != face.id for other in faces):
            share = (frame.time - before) / (after - before)
            both = [*faces, *interpolate([last], [face], share)]
            held[i] = frame, sorted(both, key=lambda tracked: tracked.id)


def _chunks(
    frames: Iterator[VideoFrame], detect_every: int, batch_size: int
) -> Iterator[tuple[list[VideoFrame], list[int]]]:
    """Frames with the indices of those to detect in: each chunk ends with one of them. Errors come after the frames."""
    failure: EcstflError | None = None

    def until_failure() -> Iterator[VideoFrame]:
        nonlocal failure
        try:
            yield from frames
        except EcstflError as error:
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
