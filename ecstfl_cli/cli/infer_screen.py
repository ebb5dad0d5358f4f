"""What `ecstfl infer` shows of pictures, videos and streams."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ecstfl_cli.cli import console
from ecstfl_cli.wording import clock, counted

if TYPE_CHECKING:
    from ecstfl_cli.engine.inference.media_result import MediaResult
    from ecstfl_cli.engine.inference.results import FaceResult
    from ecstfl_cli.engine.inference.source_summary import FaceSummary, SourceSummary
    from ecstfl_cli.labels import LabelMap

SOURCES, FACES, CLASSES, PROBLEMS = 20, 5, 3, 20


def print_media_result(result: MediaResult) -> None:
    """Each source's faces with what they show and for how long, all together, problems, and the files."""
    from ecstfl_cli.engine.inference.media_result import describe_problem

    names = result.labels.names
    for source in result.sources[:SOURCES]:
        _print_source(source, names)
    if len(result.sources) > SOURCES:
        _line(f"… and {len(result.sources) - SOURCES} more, in {result.out / 'summary.json'}")
    if len(result.sources) > 1:
        _print_all(result, names)
    for problem in result.problems[:PROBLEMS]:
        console.out.print(f"problem: {describe_problem(*problem)}", markup=False, style="yellow")
    if len(result.problems) > PROBLEMS:
        _line(f"… and {len(result.problems) - PROBLEMS} more, in {result.out / 'problems.csv'}")
    _line("")
    for path in result.files:
        _line(f"wrote {path}")


def tell_part(result: MediaResult) -> None:
    """On stderr, for a part whose others are not done: there is no result yet."""
    console.err.print(
        f"this part is done; {result.missing} of {len(result.sources) + result.missing} sources are other parts' and "
        f"not done yet. Whoever is done last writes the predictions to {result.out}",
        markup=False,
    )


def _print_source(source: SourceSummary, names: Sequence[str]) -> None:
    if source.failed:
        return
    still = source.kind == "image"
    length = "" if still else f"  {clock(source.duration or 0.0)}"
    if not source.faces:
        _line(f"{source.name}{length}  no face was found")
        return
    if still and source.faces == 1:
        _line(f"{source.name}  {_likeliest(source.shown[0], names)}")
        return
    console.out.print(f"{source.name}{length}  {counted(source.faces, 'face')}", markup=False, style="bold")
    for face in source.shown[:FACES]:
        if still:
            _line(f"  face {face.face}  {_likeliest(face, names)}")
        else:
            _line(f"  face {face.face}  {clock(face.first)} to {clock(face.last)}  {_shares(face.seconds, names)}")
    if source.faces > FACES:
        _line(f"  … and {source.faces - FACES} more")


def _print_all(result: MediaResult, names: Sequence[str]) -> None:
    """One line each for stills and for videos: how much of what."""
    _line("")
    for stills, what in ((True, "image"), (False, "video")):
        of_kind = [source for source in result.sources if (source.kind == "image") == stills]
        if not of_kind:
            continue
        seen = [source.seconds for source in of_kind if source.seconds]
        totals = [sum(column) for column in zip(*seen, strict=True)]
        faces = sum(source.faces for source in of_kind)
        length = "" if stills else f", {clock(sum(source.duration or 0.0 for source in of_kind))}"
        text = f"{counted(len(of_kind), what)}{length}, {counted(faces, 'face')}"
        console.out.print(f"{text}  {_shares(totals, names, len(names))}".rstrip(), markup=False, style="bold")


def _likeliest(face: FaceSummary, names: Sequence[str]) -> str:
    return f"{names[max(range(len(names)), key=face.seconds.__getitem__)]} {face.prob or 0.0:.2f}"


def _shares(seconds: Sequence[float], names: Sequence[str], most: int = CLASSES) -> str:
    """The classes that are shown longest, with their shares of the time."""
    total = sum(seconds)
    if not total:
        return ""
    order = sorted(range(len(seconds)), key=lambda k: -seconds[k])[:most]
    return "  ".join(f"{names[k]} {100 * seconds[k] / total:.0f}%" for k in order if seconds[k] >= 0.005 * total)


def _line(text: str) -> None:
    console.out.print(text, markup=False)


def print_lines(time: float, results: Sequence[FaceResult], labels: LabelMap) -> None:  # noqa: ARG001
    """A live frame's rows as JSON, one a line."""
    from ecstfl_cli.engine.inference.results import to_row
    from ecstfl_cli.media.row_tables import json_line

    for result in results:
        sys.stdout.write(json_line(to_row(result, labels)) + "\n")
    sys.stdout.flush()


def print_media_json(result: MediaResult) -> None:
    """The result as one JSON document on stdout; its rows, which may be many, are copied from predictions.json.

    What it holds no rows of is said on stderr.
    """
    for source in result.sources[:SOURCES]:
        if not source.faces and not source.problem:
            console.err.print(f"{source.name}: no face was found", markup=False)
    head = json.dumps(result.to_dict(), indent=2, ensure_ascii=False).removesuffix("\n}")
    sys.stdout.write(f'{head},\n  "predictions": ')
    with (result.out / "predictions.json").open(encoding="utf-8") as rows:
        shutil.copyfileobj(rows, sys.stdout)
    sys.stdout.write("}\n")


class LiveScreen:
    """Says of a live source when a face comes and when its expression changes, as it happens."""

    # Seconds that an expression lasts before it is told.
    LASTS = 0.3

    def __init__(self) -> None:
        self._told: dict[int, int] = {}
        self._since: dict[int, tuple[int, float]] = {}

    def __call__(self, time: float, results: Sequence[FaceResult], labels: LabelMap) -> None:
        for result in results:
            expression, since = self._since.get(result.face, (-1, time))
            if expression != result.expression:
                since = time
                self._since[result.face] = (result.expression, time)
            if self._told.get(result.face) != result.expression and time - since >= self.LASTS:
                self._told[result.face] = result.expression
                prob = result.probs[result.expression]
                _line(f"{clock(time)}  face {result.face}  {labels.names[result.expression]} {prob:.2f}")
                sys.stdout.flush()
