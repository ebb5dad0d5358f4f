"""What is worth saying of a source: how long, how many faces, and how long each shows which expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from statistics import median
from typing import Any

from ecstfl_cli.engine.inference.results import FaceResult
from ecstfl_cli.report.timeline import GAP_SECONDS, GAP_STEPS, SHORTEST

# Faces of a source that a summary tells of, those seen longest.
FACES = 20
# How far rows of a face usually lie apart is the median of so many.
STEPS = 1000
# Seconds that a frame lasts which is the only one.
ONE_FRAME = 0.04


@dataclass(frozen=True)
class FaceSummary:
    """One face: seen from `first` to `last` seconds, `seconds` (K,) of that with each class the likeliest.

    In a still `seconds` is 1 for the likeliest class, and `prob` its probability; it is None in a video.
    """

    face: int
    first: float
    last: float
    seconds: tuple[float, ...]
    prob: float | None = None


@dataclass(frozen=True)
class SourceSummary:
    """One source: its kind, rows, frames looked at and seconds (None for stills); `faces` of them, the longest `shown`.

    `seconds` (K,) are those of all faces together. `problem` is why there is nothing, or less than there should be.
    """

    name: str
    kind: str
    rows: int = 0
    frames: int = 0
    duration: float | None = None
    faces: int = 0
    shown: tuple[FaceSummary, ...] = ()
    seconds: tuple[float, ...] = ()
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether nothing of it could be looked at."""
        return bool(self.problem) and self.frames == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SourceSummary:
        """A SourceSummary from `to_dict`'s result."""
        shown = tuple(FaceSummary(**{**face, "seconds": tuple(face["seconds"])}) for face in values["shown"])
        return cls(**{**values, "shown": shown, "seconds": tuple(values["seconds"])})


@dataclass
class _Face:
    first: float
    last: float
    expression: int
    seconds: list[float]


@dataclass
class Tally:
    """Sums a source's frames up while they go by; `classes` is K.

    A row of a face stands until its next one; where that is so far away that the face was gone in between, for as long
    as rows usually are apart: as in `report.timeline.timelines`.
    """

    name: str
    kind: str
    classes: int
    rows: int = 0
    frames: int = 0
    last: float = 0.0
    first: float | None = None
    _faces: dict[int, _Face] = field(default_factory=dict)
    # Seconds that rows of a face are apart, until it is known how far they usually are: the face, its class, seconds.
    _apart: list[tuple[_Face, int, float]] = field(default_factory=list)
    _step: float = 0.0

    def add(self, time: float, results: Sequence[FaceResult]) -> None:
        """Take in a frame and its results; frames come in the order of their times."""
        self.frames += 1
        self.first = time if self.first is None else self.first
        self.last = time
        self.rows += len(results)
        for result in results:
            face = self._faces.get(result.face)
            if face is None:
                self._faces[result.face] = _Face(time, time, result.expression, [0.0] * self.classes)
                continue
            self._count(face, face.expression, time - face.last)
            face.last, face.expression = time, result.expression

    def _count(self, face: _Face, expression: int, apart: float) -> None:
        if self._step:
            is_gone = apart > max(GAP_STEPS * self._step, GAP_SECONDS)
            face.seconds[expression] += self._step if is_gone else apart
            return
        self._apart.append((face, expression, apart))
        if len(self._apart) == STEPS:
            self._settle()

    def _settle(self) -> None:
        if not self._apart:
            return
        steps = [apart for _, _, apart in self._apart if apart > 0]
        self._step = median(steps) if steps else 0.0
        waiting, self._apart = self._apart, []
        for one in waiting if self._step else ():
            self._count(*one)

    def finish(self, problem: str = "", seconds: float | None = None, *, exact: bool = False) -> SourceSummary:
        """The summary of a video or stream; each face's last row counts for as long as its others, to the end at most.

        `seconds` is how long it lasts by its header, if that says so. Of a thinned video the frames looked at lie
        apart: the last one does not last beyond that. Where it is the only one, and nothing was wrong, it stands for
        all. `exact`: the last frame lasts until then, however long the others do.
        """
        exact = exact and seconds is not None and not problem
        last = ONE_FRAME if seconds is None or problem else max(ONE_FRAME, seconds - self.last)
        step = (self.last - (self.first or 0.0)) / (self.frames - 1) if self.frames > 1 else last
        end = max(self.last, min(inf if exact else self.last + step, inf if seconds is None else seconds))
        self._settle()
        faces = []
        for id, face in self._faces.items():
            own = inf if exact and face.last == self.last else self._step or step
            # A row at the very end counts, too.
            stands = max(min(own, end - face.last), SHORTEST)
            face.seconds[face.expression] += stands
            faces.append(FaceSummary(id, face.first, face.last + stands, tuple(face.seconds)))
        return self._summary(faces, end if self.frames else None, problem)

    def finish_still(self, results: Sequence[FaceResult], problem: str = "", *, read: bool = True) -> SourceSummary:
        """The summary of an image, `read` or not."""
        self.frames, self.rows = int(read), len(results)
        faces = []
        for result in results:
            shows = tuple(float(k == result.expression) for k in range(self.classes))
            faces.append(FaceSummary(result.face, 0.0, 0.0, shows, result.probs[result.expression]))
        return self._summary(faces, None, problem)

    def _summary(self, faces: Sequence[FaceSummary], duration: float | None, problem: str) -> SourceSummary:
        totals = tuple(sum(column) for column in zip(*(face.seconds for face in faces), strict=True))
        longest = sorted(faces, key=lambda face: (-sum(face.seconds), face.face))[:FACES]
        return SourceSummary(
            self.name, self.kind, self.rows, self.frames, duration, len(faces), tuple(longest), totals, problem
        )
