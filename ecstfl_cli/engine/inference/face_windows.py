"""Sliding windows over the crops of each face of a video, for models that see clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.sampling import evaluation_indices
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.faces.tracking import TrackedFace
from ecstfl_cli.media.video import VideoFrame

Pixels = NDArray[np.uint8]
Probs = NDArray[np.float32]
# A frame, a face in it, its probs (K,), and how many frames they are of.
FaceProbs = tuple[VideoFrame, TrackedFace, Probs, int]


class Window(NamedTuple):
    """A clip (T, H, W, 3) of one face, its middle frame, the face there, and how many frames it spans."""

    clip: Pixels
    frame: VideoFrame
    face: TrackedFace
    frames: int


@dataclass
class _Face:
    frames: deque[tuple[VideoFrame, TrackedFace, Pixels]] = field(default_factory=deque)
    # When the next window is due, and whether the frames since the last one have been in any.
    due: float | None = None
    fresh: int = 0


class FaceWindows:
    """Cuts the run of each face into windows of `seconds`, one every `stride` seconds, sampled as `spec` says.

    A window has at least as many frames as the sampling takes where the run is long enough. A run that ends before its
    first window, or with at least half a stride after its last, gives one of what there is.
    """

    def __init__(self, spec: InputSpec, seconds: float, stride: float) -> None:
        self._spec, self._seconds, self._stride = spec, seconds, stride
        self._faces: dict[int, _Face] = {}
        self._ready: list[Window] = []
        self._next = 0

    @property
    def settled(self) -> int:
        """Frames before this index can no longer be the middle of a window."""
        return min([self._next, *(face.frames[0][0].index for face in self._faces.values() if face.frames)])

    def add(self, frame: VideoFrame, faces: Sequence[TrackedFace], crops: Pixels) -> None:
        """Take in a frame's faces with their crops (N, H, W, 3) of the model's size."""
        self._next = frame.index + 1
        for id in [id for id in self._faces if id not in {face.id for face in faces}]:
            self._end(self._faces.pop(id))
        small = VideoFrame(frame.index, frame.time, np.empty((0, 0, 3), np.uint8))  # Its pixels are kept elsewhere.
        for face, crop in zip(faces, crops, strict=True):
            run = self._faces.setdefault(face.id, _Face())
            run.frames.append((small, face, crop))
            run.fresh += 1
            if run.due is None:
                run.due = frame.time + self._seconds
            if frame.time + 1e-6 >= run.due and len(run.frames) >= self._needed:
                self._cut(run)
                run.due = frame.time + self._stride
            while len(run.frames) > self._needed and run.frames[0][0].time < run.due - self._seconds:
                run.frames.popleft()

    def finish(self) -> None:
        """The video has ended."""
        for run in self._faces.values():
            self._end(run)
        self._faces.clear()

    def take(self) -> list[Window]:
        """The windows that are complete, in the order of their completion."""
        ready, self._ready = self._ready, []
        return ready

    @property
    def _needed(self) -> int:
        return self._spec.sampling.num_frames

    def _end(self, run: _Face) -> None:
        if not run.frames:
            return
        first, last = run.frames[0][0].time, run.frames[-1][0].time
        is_first = run.due is not None and run.fresh == len(run.frames)
        if is_first or (run.fresh and last - first > 0 and run.due is not None and last > run.due - self._stride / 2):
            self._cut(run)

    def _cut(self, run: _Face) -> None:
        frames = list(run.frames)
        chosen = evaluation_indices(self._spec.sampling, len(frames))
        clip = np.stack([frames[i][2] for i in chosen])
        frame, face, _ = frames[len(frames) // 2]
        self._ready.append(Window(clip, frame, face, frames[-1][0].index - frames[0][0].index + 1))
        run.fresh = 0


class WindowProbs:
    """The probs of each face's windows, to be asked for on the frames in between, one after the other.

    A frame has those of the last window whose middle is not after it, and before the first one's middle those of the
    first. What a face that was gone had shown before is forgotten.
    """

    def __init__(self) -> None:
        self._of: dict[int, deque[tuple[Window, Probs]]] = {}

    def add(self, window: Window, probs: Probs) -> None:
        """Take in a window's probs (K,). Those of one face come in the order of their middles."""
        self._of.setdefault(window.face.id, deque()).append((window, probs))

    def at(self, frame: int, faces: Sequence[TrackedFace]) -> list[tuple[TrackedFace, Window, Probs]]:
        """The faces of frame number `frame` with a window and its probs each; frames come in order."""
        there = {face.id for face in faces}
        for id, told in list(self._of.items()):
            while told and told[0][0].frame.index <= frame and (id not in there or _middle(told, 1) <= frame):
                told.popleft()
            if not told:
                del self._of[id]
        return [(face, *self._of[face.id][0]) for face in faces if face.id in self._of]


def look_at_windows(
    batches: Iterable[Sequence[tuple[VideoFrame, Sequence[TrackedFace], Pixels]]],
    windows: FaceWindows,
    probs: Callable[[Pixels], Probs],
) -> Iterator[tuple[VideoFrame, list[FaceProbs], list[FaceProbs]]]:
    """(frame, the windows that have their middle there, all faces there that a window is known of), frame by frame.

    `batches` are frames with their faces and the crops (N, H, W, 3) of these; `probs` looks at clips (N, T, H, W, 3).
    A frame waits until no window can have its middle there any more. A DataError of `batches` is raised after the
    frames before it.
    """
    waiting: dict[int, tuple[VideoFrame, Sequence[TrackedFace], list[FaceProbs]]] = {}
    told = WindowProbs()
    damage: DataError | None = None

    def look() -> None:
        ready = windows.take()
        found = probs(np.stack([window.clip for window in ready])) if ready else ()
        for window, p in zip(ready, found, strict=True):
            told.add(window, p)
            waiting[window.frame.index][2].append((window.frame, window.face, p, window.frames))

    def settled(before: float) -> Iterator[tuple[VideoFrame, list[FaceProbs], list[FaceProbs]]]:
        for index in [index for index in waiting if index < before]:
            frame, faces, own = waiting.pop(index)
            yield frame, own, [(frame, face, p, window.frames) for face, window, p in told.at(index, faces)]

    try:
        for batch in batches:
            for frame, faces, crops in batch:
                waiting[frame.index] = frame, faces, []
                windows.add(frame, faces, crops)
            look()
            yield from settled(windows.settled)
    except DataError as error:  # What was read before it is looked at first.
        damage = error
    windows.finish()
    look()
    yield from settled(inf)
    if damage:
        raise damage


def _middle(told: Sequence[tuple[Window, Probs]], at: int) -> float:
    return told[at][0].frame.index if len(told) > at else inf
