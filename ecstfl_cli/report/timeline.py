"""Rows of a video as timelines: how each face's expression goes, in segments, shares of time and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Seconds that an expression lasts before it is a segment of its own.
MIN_DURATION = 0.5
# By how much another class has to be likelier than the present one to take over.
HYSTERESIS = 0.1
# A face that was not seen for longer than this many steps between frames, and this many seconds, was away.
GAP_STEPS, GAP_SECONDS = 3.0, 0.5
# Seconds that a row lasts at least.
SHORTEST = 1e-3


class TimedRow(Protocol):
    """What a timeline needs of a row: `face` id, `time` in seconds, `probs` (K,)."""

    @property
    def face(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def probs(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Segment:
    """A stretch of `start` to `end` seconds in which a face shows one expression, class `expression`.

    `mean` is that class's mean probability there and `peak` its largest, at `peak_time`.
    """

    start: float
    end: float
    expression: int
    mean: float
    peak: float
    peak_time: float


@dataclass(frozen=True)
class FaceTimeline:
    """One face over time. `times` (N,) seconds, `durations` (N,) how long each row stands for, `probs` (N, K).

    `shares` (K,) are the parts of that time with each class the likeliest, row by row, so that what is too short for a
    segment counts too; they sum to 1.
    """

    face: int
    times: NDArray[np.float64]
    durations: NDArray[np.float64]
    probs: NDArray[np.float64]
    segments: tuple[Segment, ...]
    shares: NDArray[np.float64]

    @property
    def dominant(self) -> int:
        """The class that is the likeliest for the longest time."""
        return int(self.shares.argmax())

    @property
    def seconds(self) -> float:
        """How long the face is seen."""
        return float(self.durations.sum())


def timelines(
    rows: Sequence[TimedRow],
    end: float | None = None,
    *,
    min_duration: float = MIN_DURATION,
    hysteresis: float = HYSTERESIS,
) -> list[FaceTimeline]:
    """The timeline of each face in one source's rows, the one that is seen longest first.

    A row stands for the time until the face's next one, and not beyond `end`, the source's length in seconds. Where the
    next one is more than 3 usual steps and 0.5 s away the face was away: a segment ends there. Within a stretch, the
    expression at first is the likeliest; another one takes over when it is likelier by `hysteresis` (0 to 1). Of what
    that gives, stretches shorter than `min_duration` seconds join what comes before, or after at the start; several
    short ones in a row that are long enough together become one segment of the class whose mean probability is largest
    there.
    """
    if not rows:
        return []
    faces = np.array([row.face for row in rows])
    times = np.array([row.time for row in rows], dtype=np.float64)
    probs = np.array([row.probs for row in rows], dtype=np.float64)
    # Stable, so that two rows at one time keep their order.
    order = np.lexsort((times, faces))
    faces, times, probs = faces[order], times[order], probs[order]
    step = _usual_step(faces, times)
    bounds = [0, *(np.flatnonzero(np.diff(faces)) + 1).tolist(), len(faces)]
    found = [
        _timeline(int(faces[a]), times[a:b], probs[a:b], step, end, min_duration, hysteresis)
        for a, b in pairwise(bounds)
    ]
    return sorted(found, key=lambda timeline: (-timeline.seconds, timeline.face))


def _usual_step(faces: NDArray[np.int_], times: NDArray[np.float64]) -> float:
    """Median time between two rows of one face; 1/25 s where no face has two."""
    steps = np.diff(times)[np.diff(faces) == 0]
    steps = steps[steps > 0]
    return float(np.median(steps)) if steps.size else 0.04


def _timeline(
    face: int,
    times: NDArray[np.float64],
    probs: NDArray[np.float64],
    step: float,
    end: float | None,
    min_duration: float,
    hysteresis: float,
) -> FaceTimeline:
    gap = max(GAP_STEPS * step, GAP_SECONDS)
    durations = np.append(np.diff(times), step)
    away = durations > gap
    durations[away] = step
    if end is not None:
        # A row at the very end counts, too.
        durations[-1] = max(min(step, end - times[-1]), SHORTEST)
    # The first row of each stretch without a gap.
    begins = np.append(0, np.flatnonzero(away[:-1]) + 1)
    starts, classes = _runs(probs, begins, hysteresis)
    starts, classes = _long_runs(starts, classes, begins, durations, probs, min_duration)
    segments = _segments(starts, classes, times, durations, probs)
    shares = np.bincount(probs.argmax(axis=1), weights=durations, minlength=probs.shape[1])
    return FaceTimeline(face, times, durations, probs, segments, shares / max(shares.sum(), 1e-12))


def _runs(
    probs: NDArray[np.float64], begins: NDArray[np.int_], hysteresis: float
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First rows and classes of the runs; the work is one step a run, not one a row."""
    likeliest = probs.argmax(axis=1)
    best = probs.max(axis=1)
    # For each class, the rows at which it would be left.
    leaves = [np.flatnonzero((best - probs[:, k] >= hysteresis) & (likeliest != k)) for k in range(probs.shape[1])]
    starts, classes = [], []
    ends = np.append(begins[1:], len(probs))
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        row = begin
        while row < end:
            k = int(likeliest[row])
            starts.append(row)
            classes.append(k)
            place = np.searchsorted(leaves[k], row)
            row = int(leaves[k][place]) if place < len(leaves[k]) else end
    return np.array(starts), np.array(classes)


def _long_runs(
    starts: NDArray[np.int_],
    classes: NDArray[np.int_],
    begins: NDArray[np.int_],
    durations: NDArray[np.float64],
    probs: NDArray[np.float64],
    min_duration: float,
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """The runs without those shorter than `min_duration`, as `timelines` says."""
    begin = np.isin(starts, begins)
    short = np.add.reduceat(durations, starts) < min_duration - 1e-9
    # Short runs in a row become one, with the class that is likeliest in it on average.
    first = begin | ~short | ~np.append(False, short[:-1])
    starts, begin, short = starts[first], begin[first], short[first]
    weighted = np.add.reduceat(probs * durations[:, None], starts)
    classes = np.where(short, weighted.argmax(axis=1), classes[first])
    short = np.add.reduceat(durations, starts) < min_duration - 1e-9
    # Still short: the class before it in the same stretch, else the one after.
    index = np.arange(len(starts))
    stretch = np.cumsum(begin)
    before = np.maximum.accumulate(np.where(short, -1, index))
    after = np.minimum.accumulate(np.where(short, len(index), index)[::-1])[::-1].clip(max=len(index) - 1)
    has_before = (before >= 0) & (stretch[before] == stretch)
    has_after = ~short[after] & (stretch[after] == stretch)
    source = np.where(has_before, before, np.where(has_after, after, index))
    classes = classes[source]
    changed = begin | np.append(True, classes[1:] != classes[:-1])
    return starts[changed], classes[changed]


def _segments(
    starts: NDArray[np.int_],
    classes: NDArray[np.int_],
    times: NDArray[np.float64],
    durations: NDArray[np.float64],
    probs: NDArray[np.float64],
) -> tuple[Segment, ...]:
    ends = np.append(starts[1:], len(times))
    segments = []
    for a, b, k in zip(starts.tolist(), ends.tolist(), classes.tolist(), strict=True):
        values = probs[a:b, k]
        peak = a + int(values.argmax())
        weights = durations[a:b]
        mean = float(np.average(values, weights=weights) if weights.sum() else values.mean())
        end = float(times[b - 1] + durations[b - 1])
        segments.append(Segment(float(times[a]), end, k, mean, float(probs[peak, k]), float(times[peak])))
    return tuple(segments)


def downsample(
    times: NDArray[np.float64], probs: NDArray[np.float64], points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """`times` (N,) and `probs` (N, K) as at most `points` points, and the seconds that one stands for.

    Means over equal parts of the time; parts without a row are left out. 0 seconds: nothing was left out.
    """
    if len(times) <= points:
        return times, probs, 0.0
    width = float(times[-1] - times[0]) / points
    part = np.minimum(((times - times[0]) / width).astype(np.int64), points - 1)
    first = np.flatnonzero(np.append(True, np.diff(part) > 0))
    counts = np.diff(np.append(first, len(part)))[:, None]
    return np.add.reduceat(times, first) / counts[:, 0], np.add.reduceat(probs, first) / counts, width
