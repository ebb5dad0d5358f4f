"""What is worth saying of a source: how long, how many faces, and how long each shows which expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from ecstfl_cli.engine.inference.results import FaceResult
from ecstfl_cli.report.timeline import SHORTEST

# Faces of a source that a summary tells of, those seen longest.
FACES = 20
# Seconds: where a face's next row is further away, and further than the next frame, it was gone in between.
GONE = 1.0
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
    rows: int = 1


@dataclass
class Tally:
    """Sums a source's frames up while they go by; `classes` is K."""

    name: str
    kind: str
    classes: int
    rows: int = 0
    frames: int = 0
    last: float = 0.0
    first: float | None = None
    _faces: dict[int, _Face] = field(default_factory=dict)

    def add(self, time: float, results: Sequence[FaceResult]) -> None:
        """Take in a frame and its results; frames come in the order of their times."""
        reach = max(GONE, time - self.last) if self.frames else GONE
        self.frames += 1
        self.first = time if self.first is None else self.first
        self.last = time
        self.rows += len(results)
        for result in results:
            face = self._faces.get(result.face)
            if face is None:
                self._faces[result.face] = _Face(time, time, result.expression, [0.0] * self.classes)
                continue
            face.seconds[face.expression] += min(time - face.last, reach)
            face.last, face.expression, face.rows = time, result.expression, face.rows + 1

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
        faces = []
        for id, face in self._faces.items():
            own = min((face.last - face.first) / (face.rows - 1), max(GONE, step)) if face.rows > 1 else step
            if exact and face.last == self.last:
                own = inf
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
