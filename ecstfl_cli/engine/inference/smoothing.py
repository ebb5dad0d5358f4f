"""Probabilities of a face over time, steadied."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.errors import DataError
from ecstfl_cli.media.faces.tracking import TrackedFace
from ecstfl_cli.media.video import VideoFrame

# A frame, its N faces, and their probs (N, K).
Looked = tuple[VideoFrame, list[TrackedFace], NDArray]
# A face that was away from a live source for longer starts afresh.
_FORGOTTEN = 2.0
# Time constants after which a frame counts for nothing, and frames that wait for those after them, at most: they have
# their pixels with them.
_REACH = 3
_WAITING = 32


def smoothed(looked: Iterable[Looked], seconds: float, *, live: bool = False) -> Iterator[Looked]:
    """The same frames, each face's probs being an exponential mean over time; 0 seconds change nothing.

    Of a file, frames before and after count alike, by exp(-|dt| / tau) with tau = `seconds` / 2, so that a change shows
    when it happens; as 32 frames wait at most, none that is further away than those counts, on either side. A live
    source has no frames after; there, tau is `seconds`, which steadies as much, and a change shows about tau late. A
    DataError of `looked` is raised after the frames before it.
    """
    if seconds <= 0:
        return iter(looked)
    return _backward(looked, seconds) if live else _centred(looked, seconds / 2)


def _backward(looked: Iterable[Looked], tau: float) -> Iterator[Looked]:
    """s = s + (1 - exp(-dt / tau)) (p - s), at a time dt after the frame before."""
    last: dict[int, tuple[float, NDArray]] = {}
    for frame, faces, probs in looked:
        means = probs.astype(np.float64)
        for face, mean in zip(faces, means, strict=True):
            before = last.get(face.id)
            if before is not None and frame.time - before[0] <= max(_FORGOTTEN, 4 * tau):
                share = 1 - math.exp(-max(frame.time - before[0], 0.0) / tau)
                mean[:] = before[1] + share * (mean - before[1])
            last[face.id] = frame.time, mean
        if len(last) > 1000:  # A crowd that passes a camera for days.
            last = dict(list(last.items())[-500:])
        yield frame, faces, means


def _centred(looked: Iterable[Looked], tau: float) -> Iterator[Looked]:
    waiting: deque[Looked] = deque()
    # (time, probs) of each face in the frames that are near enough to count.
    near: defaultdict[int, deque[tuple[float, NDArray]]] = defaultdict(deque)

    # Seconds to either side that count: fewer where the frames that wait span less. At the end it stays as it was.
    reach = _REACH * tau

    def steadied() -> Looked:
        frame, faces, probs = waiting.popleft()
        means = np.empty(probs.shape)
        for face, mean in zip(faces, means, strict=True):
            times, around = zip(*near[face.id], strict=True)
            away = np.abs(np.array(times) - frame.time)
            weights = np.exp(-away / tau) * (away <= reach + 1e-6)
            mean[:] = weights @ np.stack(around) / weights.sum()
        for id, run in list(near.items()):
            while run and run[0][0] < frame.time - reach:
                run.popleft()
            if not run:
                del near[id]
        return frame, faces, means

    damage: DataError | None = None
    try:
        for frame, faces, probs in looked:
            waiting.append((frame, faces, probs))
            for face, own in zip(faces, probs, strict=True):
                near[face.id].append((frame.time, own))
            while len(waiting) > _WAITING or waiting[0][0].time + _REACH * tau < frame.time:
                reach = min(_REACH * tau, frame.time - waiting[0][0].time)
                yield steadied()
    except DataError as error:  # What was read before it is yielded first.
        damage = error
    while waiting:
        yield steadied()
    if damage:
        raise damage
