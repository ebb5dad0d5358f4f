"""Faces of a video's frames joined to tracks: who is who over time, steady boxes, and which face is the main one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Face

# Seconds after which a face that is not seen has gone, and the time constant of steadied boxes.
MAX_GAP = 1.0
SMOOTHING = 0.15
# Where frames lie far apart a face has gone after so many times their distance instead.
_STEPS = 2.5
# Boxes are compared grown by half about their middle, so that a small face that moves fast still meets itself.
_GROWN = 1.5
_MIN_OVERLAP = 0.25
# A motion is believed for so many seconds without a sighting; after that the face is looked for where it was going.
_MAX_AHEAD = 0.25
# Time constant of the mean velocity that decides how much is steadied: long, or trembling would count as motion.
_DRIFT_SECONDS = 0.25


@dataclass(frozen=True)
class TrackedFace:
    """A face in one frame of a video; `id` is the same as long as the tracker follows it.

    `box` (left, top, right, bottom) and `landmarks`, as in Face, are steadied over time. `interpolated`: nothing was
    detected in this frame, and both are from frames before and after.
    """

    id: int
    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...] | None = None
    interpolated: bool = False


class FaceTracker:
    """Gives the faces of one video their ids, frame by frame, in playing order; causal, so that it serves streams.

    Detections and tracks are joined one to one, so that the sum of overlaps (IoU) with the places to which the tracks'
    motions lead is the greatest (Hungarian method). A track that is not seen for more than `max_gap` seconds, and 2.5
    times the time between frames, has ended; ids count from 0 and are not used again. Who sits in the same place after
    a cut is taken for the same face.

    `smoothing` seconds steady the boxes: an exponential mean with this time constant while a face is still, and with a
    shorter one the faster it moves, so that crops do not tremble and do not lag (the idea of the 1 euro filter, Casiez
    et al. 2012). 0 leaves boxes as detected.
    """

    def __init__(self, *, max_gap: float = MAX_GAP, smoothing: float = SMOOTHING) -> None:
        self._max_gap = self._gap = max_gap
        self._times: deque[float] = deque(maxlen=3)
        self._smoothing = smoothing
        self._ids = itertools.count()
        self._tracks: list[_Track] = []

    def update(self, time: float, faces: Sequence[Face]) -> list[TrackedFace]:
        """The faces that were found in the frame at `time` seconds, tracked, by id. Times must not fall."""
        self._times.append(time)
        # The smaller of two: a stream that stalls once does not lie far apart.
        apart = min((after - before for before, after in itertools.pairwise(self._times)), default=0.0)
        self._gap = max(self._max_gap, _STEPS * apart)
        self._tracks = [track for track in self._tracks if time - track.time <= self._gap]
        pairs = _matches([track.predicted(time) for track in self._tracks], [face.box for face in faces])
        track_of = {face: self._tracks[track] for track, face in pairs}
        for i, face in enumerate(faces):
            if i in track_of:
                track_of[i].see(time, face, self._smoothing)
            else:
                track_of[i] = _Track(next(self._ids), time, face)
                self._tracks.append(track_of[i])
        return sorted((track_of[i].shown(face) for i, face in enumerate(faces)), key=lambda tracked: tracked.id)

    def is_following(self, time: float) -> bool:
        """Whether a face that was seen before has not gone by `time`."""
        return any(time - track.time <= self._gap for track in self._tracks)


class _Track:
    """What is remembered of one face: its last detection, its velocity in pixels a second, and its steadied points."""

    def __init__(self, id: int, time: float, face: Face) -> None:
        self.id = id
        self.time = time
        self._box = np.array(face.box)
        self._velocity = np.zeros(4)
        self._drift = np.zeros(2)
        self._steady = _points(face)

    def predicted(self, time: float) -> NDArray[np.float64]:
        return self._box + self._velocity * min(time - self.time, _MAX_AHEAD)

    def see(self, time: float, face: Face, smoothing: float) -> None:
        """Take a new detection in."""
        elapsed = max(time - self.time, 1e-3)
        box = np.array(face.box)
        # Half from the new motion, half from the old: detections tremble by a pixel or two.
        motion = (box - self._box) / elapsed
        self._velocity = 0.5 * self._velocity + 0.5 * motion
        share = 1 - np.exp(-elapsed / _DRIFT_SECONDS)
        self._drift = (1 - share) * self._drift + share * (motion[:2] + motion[2:]) / 2
        self._box, self.time = box, time
        points = _points(face)
        if len(points) != len(self._steady):
            self._steady = points
        else:
            self._steady = self._steady + _share(self._drift, box, elapsed, smoothing) * (points - self._steady)

    def shown(self, face: Face) -> TrackedFace:
        left, top, right, bottom = map(float, self._steady[:4])
        pairs = self._steady[4:].reshape(-1, 2)
        landmarks = tuple((float(x), float(y)) for x, y in pairs) if len(pairs) else None
        return TrackedFace(self.id, (left, top, right, bottom), face.score, landmarks)


def _points(face: Face) -> NDArray[np.float64]:
    return np.concatenate([np.array(face.box), np.array(face.landmarks or ()).reshape(-1)])


def _share(drift: NDArray[np.float64], box: NDArray[np.float64], elapsed: float, smoothing: float) -> float:
    """How much of a new detection is taken, 0 to 1. A steadied box lags by 5% of its side at most at 0.15 seconds."""
    if smoothing <= 0:
        return 1.0
    side = max(box[2] - box[0], box[3] - box[1], 1.0)
    constant = smoothing / (1 + 3 * float(np.hypot(*drift)) / side)
    return float(1 - np.exp(-elapsed / constant))


def _matches(
    tracks: Sequence[NDArray[np.float64]], boxes: Sequence[tuple[float, float, float, float]]
) -> list[tuple[int, int]]:
    """Pairs (track, box) that overlap most in sum, each at most once."""
    if not tracks or not boxes:
        return []
    overlap = _overlaps(_grown(np.stack(tracks)), _grown(np.array(boxes)))
    if overlap.shape == (1, 1):
        pairs = [(0, 0)]
    else:
        from scipy.optimize import linear_sum_assignment

        # What is below the threshold must not be chosen for the sake of the sum.
        rows, columns = linear_sum_assignment(np.where(overlap >= _MIN_OVERLAP, overlap, 0.0), maximize=True)
        pairs = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
    return [pair for pair in pairs if overlap[pair] >= _MIN_OVERLAP]


def _grown(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * _GROWN
    return np.concatenate([middle - half, middle + half], axis=1)


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=-1), np.prod(b[:, 2:] - b[:, :2], axis=-1)
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)


def interpolate(before: Sequence[TrackedFace], after: Sequence[TrackedFace], share: float) -> list[TrackedFace]:
    """The faces between two frames, for those that are in both; `share` is how far from `before` to `after`, 0 to 1."""
    later = {face.id: face for face in after}
    return [_between(face, later[face.id], share) for face in before if face.id in later]


def _between(a: TrackedFace, b: TrackedFace, share: float) -> TrackedFace:
    def mixed(p: float, q: float) -> float:
        return p + share * (q - p)

    (left, top, right, bottom) = (mixed(p, q) for p, q in zip(a.box, b.box, strict=True))
    landmarks = None
    if a.landmarks and b.landmarks:
        pairs = zip(a.landmarks, b.landmarks, strict=True)
        landmarks = tuple((mixed(px, qx), mixed(py, qy)) for (px, py), (qx, qy) in pairs)
    return TrackedFace(a.id, (left, top, right, bottom), min(a.score, b.score), landmarks, interpolated=True)


def prominence(box: tuple[float, float, float, float], width: int, height: int) -> float:
    """How much a face takes the eye in a picture of `width` x `height` pixels.

    It is the longer side of the box times a weight that falls from 1 in the middle of the picture to a half in its
    corners. The main face of a video has the largest sum over its frames: there for long, large and central.
    """
    left, top, right, bottom = box
    off_x, off_y = (left + right) / width - 1, (top + bottom) / height - 1
    distance = min(1.0, float(np.hypot(off_x, off_y) / np.sqrt(2)))
    return max(right - left, bottom - top) * (1 - 0.5 * distance)
