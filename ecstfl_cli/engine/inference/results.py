"""What recognition gives: one row for each face in each frame or window of frames, as objects and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.row_tables import TEXT, WHOLE

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class FaceResult:
    """One face in one frame, or in a window of `frames` frames whose middle frame this is.

    `source` is as the user named it, `frame` counts from 0, `time` is in seconds from the start (0 for images), `face`
    is the same for one face within a source. `box` is (left, top, right, bottom) in pixels of the upright frame; where
    the picture is the face, the whole of it with `score` 1. `probs` (K,) sum to 1, in the order of the label map; those
    of videos are smoothed over time.
    """

    source: str
    frame: int
    time: float
    face: int
    box: tuple[float, float, float, float]
    score: float
    probs: tuple[float, ...]
    frames: int = 1

    @property
    def expression(self) -> int:
        """Index of the most probable class."""
        return max(range(len(self.probs)), key=self.probs.__getitem__)


_COLUMNS = ("source", "frame", "time", "face", "left", "top", "right", "bottom", "score", "frames", "expression")


class Problem(NamedTuple):
    """A source that gave nothing, or less than it should have, and why."""

    source: str
    text: str


def columns(labels: LabelMap) -> list[str]:
    """Names of the columns of `to_row`, in order."""
    return [*_COLUMNS, *(f"prob_{name}" for name in labels.names)]


def to_row(result: FaceResult, labels: LabelMap) -> dict[str, Any]:
    """A result as plain values: pixels with one decimal, seconds with four, score and probs with six."""
    values: list[Any] = [
        result.source,
        result.frame,
        round(result.time, 4),
        result.face,
        *(round(edge, 1) for edge in result.box),
        round(result.score, 6),
        result.frames,
        labels.names[result.expression],
        *(round(p, 6) for p in result.probs),
    ]
    return dict(zip(columns(labels), values, strict=True))


class Results(list[FaceResult]):
    """A list of FaceResult. `labels` names their classes, `problems` says what was not read and where no face was."""

    def __init__(
        self, results: Iterable[FaceResult] = (), *, labels: LabelMap, problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(results)
        self.labels = labels
        self.problems = list(problems)

    def name(self, result: FaceResult) -> str:
        """The most probable class of a result, by name."""
        return self.labels.names[result.expression]

    def rows(self) -> list[dict[str, Any]]:
        """The results as plain values, for JSON; see `to_row`."""
        return [to_row(result, self.labels) for result in self]

    def to_dataframe(self) -> DataFrame:
        """The results as a table, one row each, with the columns of `to_row`; of the same types without rows, too."""
        import pandas as pd

        names = columns(self.labels)
        kinds = {name: int if name in WHOLE else object if name in TEXT else float for name in names}
        table = pd.DataFrame(self.rows(), columns=names)
        return table if len(table) else table.astype(kinds)
