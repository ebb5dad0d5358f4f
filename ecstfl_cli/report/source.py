"""What a report keeps of a source: little, so that rows can go as soon as a source is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.report.thumbnails import Thumbnail
from ecstfl_cli.report.timeline import (
    GAP_SECONDS,
    GAP_STEPS,
    FaceTimeline,
    Segment,
    TimedRow,
    downsample,
    timelines,
)

# Points of a chart's lines: more than a screen shows at once, for zooming in.
POINTS = 6000
# Faces of one source that the report shows, those seen longest.
FACES = 24

# Seconds: times of rows come from a table with four decimals, those of thumbnails do not.
ROUNDING = 1e-4


@dataclass(frozen=True)
class FaceReport:
    """One face: when it is seen (seconds), `shares` (K,) of that time, segments, and its chart's points.

    `segments` are in the order of time; of more than the page can hold the longest of `n_segments`.
    `times` (M,) and `probs` (M, K) are means over `width` seconds each, 0 where every row is there; where two points
    are further apart than `gap` the face was away.
    """

    face: int
    first: float
    last: float
    seconds: float
    shares: NDArray[np.float64]
    segments: tuple[Segment, ...]
    n_segments: int
    times: NDArray[np.float64]
    probs: NDArray[np.float64]
    width: float
    gap: float
    thumbnails: tuple[Thumbnail, ...] = ()

    @property
    def dominant(self) -> int:
        """The class that is shown longest."""
        return int(self.shares.argmax())


@dataclass(frozen=True)
class SourceReport:
    """One video or image as the report shows it. `duration` in seconds is None for an image.

    `faces` are those seen longest; `more_faces` counts the others. `shares` (K,) are those of the time of all faces
    together, each counted for as long as it is seen; empty without faces. `read` says whether any of it could be read.
    """

    name: str
    duration: float | None
    n_rows: int
    faces: tuple[FaceReport, ...] = ()
    more_faces: int = 0
    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    problems: tuple[str, ...] = ()
    read: bool = True


def source_report(
    name: str,
    rows: Sequence[TimedRow],
    duration: float | None,
    thumbnails: Sequence[Thumbnail] = (),
    problems: Sequence[str] = (),
    *,
    read: bool = True,
) -> SourceReport:
    """Reduce one source's rows, in any order, to what the report shows.

    `duration` is the video's length in seconds, None for an image; `read` is False where nothing could be read.
    """
    found = timelines(rows, duration)
    by_face: dict[int, list[Thumbnail]] = {}
    for thumbnail in thumbnails:
        by_face.setdefault(thumbnail.face, []).append(thumbnail)
    faces = tuple(_face_report(one, by_face.get(one.face, [])) for one in found[:FACES])
    seconds = np.array([one.seconds for one in found])
    shares = (seconds / seconds.sum()) @ np.stack([one.shares for one in found]) if found else np.zeros(0)
    return SourceReport(name, duration, len(rows), faces, max(0, len(found) - FACES), shares, tuple(problems), read)


def _face_report(timeline: FaceTimeline, thumbnails: Sequence[Thumbnail]) -> FaceReport:
    times, probs, width = downsample(timeline.times, timeline.probs, POINTS)
    gap = max(GAP_STEPS * float(np.median(timeline.durations)), GAP_SECONDS, 2.5 * width)
    return FaceReport(
        face=timeline.face,
        first=float(timeline.times[0]),
        last=float(timeline.times[-1] + timeline.durations[-1]),
        seconds=timeline.seconds,
        shares=timeline.shares,
        segments=timeline.segments,
        n_segments=len(timeline.segments),
        times=times,
        probs=probs,
        width=width,
        gap=gap,
        thumbnails=_at_segments(timeline.segments, thumbnails),
    )


def _at_segments(segments: Sequence[Segment], thumbnails: Sequence[Thumbnail]) -> tuple[Thumbnail, ...]:
    """For each segment the clearest thumbnail of its class within it; of segments without one, none."""
    starts = np.array([segment.start for segment in segments])
    best: dict[int, Thumbnail] = {}
    for thumbnail in thumbnails:
        i = int(np.searchsorted(starts, thumbnail.time + ROUNDING)) - 1
        fits = i >= 0 and segments[i].expression == thumbnail.expression and thumbnail.time <= segments[i].end
        if fits and (i not in best or thumbnail.prob > best[i].prob):
            best[i] = thumbnail
    if not best and thumbnails:
        return (max(thumbnails, key=lambda thumbnail: thumbnail.prob),)
    return tuple(best[i] for i in sorted(best))


def longest(segments: Sequence[Segment], n: int) -> tuple[Segment, ...]:
    """The `n` longest of the segments, in the order of time."""
    kept = sorted(segments, key=lambda segment: segment.start - segment.end)[:n]
    return tuple(sorted(kept, key=lambda segment: segment.start))


def thinned(face: FaceReport, points: int, thumbnails: int, segments: int) -> FaceReport:
    """The face with at most so many points, thumbnails (those of the longest segments) and segments (the longest)."""
    times, probs, width = downsample(face.times, face.probs, points)
    kept = face.thumbnails
    if len(kept) > thumbnails:
        starts = np.array([segment.start for segment in face.segments])
        at = np.searchsorted(starts, [thumbnail.time + ROUNDING for thumbnail in kept]).clip(1) - 1
        lengths = [face.segments[i].end - face.segments[i].start for i in at.tolist()]
        order = np.argsort([-length for length in lengths], kind="stable")[:thumbnails]
        kept = tuple(kept[i] for i in sorted(order.tolist()))
    width = max(width, face.width)
    return replace(
        face,
        segments=longest(face.segments, segments),
        times=times,
        probs=probs,
        width=width,
        gap=max(face.gap, 2.5 * width),
        thumbnails=kept,
    )
