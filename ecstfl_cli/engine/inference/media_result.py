"""The result of an `infer` job: its parts put together, and the files that hold it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ecstfl_cli.engine.inference.infer import model_summary
from ecstfl_cli.engine.inference.media_job import RESULT, UNFINISHED, Job, MediaSettings, Shard, is_unfinished
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.engine.inference.sources import ANNOTATED
from ecstfl_cli.engine.weights.model_source import InferenceModel
from ecstfl_cli.errors import DataError, EcstflError, OutputError, listing
from ecstfl_cli.files import complete_file
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.row_tables import convert_table, join_tables

_PARTIAL = re.compile(r"(.+)\.\d+\.part(\.\w+)")
# What a result holds, so far as it was asked for.
WRITTEN = frozenset(
    {
        *(f"predictions{ending}" for ending in (".csv", ".json", ".parquet")),
        *("summary.json", "problems.csv", "report.html", "errors.log", ANNOTATED),
    }
)


@dataclass(frozen=True)
class MediaResult:
    """What was seen; its files are in `out`. `sources` are those of the whole job.

    `finished` is False for a shard that others have not caught up with: the predictions are not put together yet.
    """

    out: Path
    labels: LabelMap
    model: dict[str, Any]
    settings: MediaSettings
    sources: list[SourceSummary]
    finished: bool = True
    missing: int = 0

    @property
    def files(self) -> list[Path]:
        """What was written to `out`."""
        return sorted(path for path in self.out.iterdir() if path.name in WRITTEN)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(source, what is wrong) of those that gave nothing, or less than they should have."""
        return [(source.name, source.problem) for source in self.sources if source.problem]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON, without the rows."""
        model = {key: value for key, value in self.model.items() if key not in ("card", "measured")}
        return {
            "model": model,
            "inputs": list(self.settings.inputs),
            "settings": asdict(self.settings),
            "out": str(self.out),
            "labels": list(self.labels.names),
            "sources": [source.to_dict() for source in self.sources],
        }


def describe_problem(source: str, problem: str) -> str:
    """One line: what is wrong with a source, which most messages name themselves."""
    return problem if source in problem else f"{source}: {problem}"


def merge(out: Path, formats: Sequence[str] = ()) -> MediaResult:
    """Put the parts of a job together that shards have left in `out`, in these formats besides those it was begun with.

    Raises EcstflError where some parts are missing.
    """
    job = Job.resume(out, Shard())
    job.settings = replace(job.settings, formats=tuple(dict.fromkeys((*job.settings.formats, *formats))))
    result = put_together(job)
    if not result.finished:
        raise EcstflError(
            f"{out} is not complete: {result.missing} of {len(job.sources)} sources are not done",
            f"Wait for the other shards, or do the rest here: ecstfl infer --resume {out}",
        )
    return result


def put_together(job: Job) -> MediaResult:
    """Write the result of a job whose units are all done, and remove its parts; otherwise say what is missing.

    Raises DataError where no source could be looked at, and leaves nothing then.
    """
    if not job.complete() and is_unfinished(job.out):
        return MediaResult(job.out, job.labels, job.model, job.settings, job.done(), False, job.missing())
    if not is_unfinished(job.out):
        return _put_together_by_another(job)
    result = MediaResult(job.out, job.labels, job.model, job.settings, job.done())
    with _alone_in(job):
        if not is_unfinished(job.out):
            return _put_together_by_another(job)
        if all(source.failed for source in result.sources):
            lines = [describe_problem(*problem) for problem in result.problems]
            job.remove()
            if len(lines) == 1:
                raise DataError(
                    describe_problem(*result.problems[0]), "No other input was given, so nothing was written."
                )
            raise DataError(f"none of the {len(lines)} sources could be looked at:\n" + listing(lines))
        _write(job, result)
        job.remove()
    return result


@contextmanager
def _alone_in(job: Job) -> Iterator[None]:
    """While no other process puts the job together; its folder is gone afterwards where nothing is in it."""
    lock = job.out / f".{UNFINISHED}.lock"
    try:
        with FileLock(lock):
            yield
    finally:
        with suppress(OSError):  # Another process may hold it, which Windows does not let go.
            lock.unlink(missing_ok=True)
            job.out.rmdir()


def finished_result(out: Path, settings: MediaSettings, model: InferenceModel) -> MediaResult | None:
    """The result in `out`, where it is of these settings."""
    written = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if written.get("settings") != json.loads(json.dumps(asdict(settings))):
        return None
    sources = [SourceSummary.from_dict(source) for source in written["sources"]]
    return MediaResult(out, model.labels, model_summary(model), settings, sources)


def _put_together_by_another(job: Job) -> MediaResult:
    """The result that another process, which was done at the same time, has written."""
    path = job.out / RESULT
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["sources"]
    except FileNotFoundError as error:
        raise DataError("no source could be looked at", "The part that was done last has said why.") from error
    shutil.rmtree(job.folder, ignore_errors=True)  # What this process has begun while that one removed it.
    sources = [SourceSummary.from_dict(source) for source in written]
    return MediaResult(job.out, job.labels, job.model, job.settings, sources)


def _write(job: Job, result: MediaResult) -> None:
    _remove_partial_copies(job)
    table = job.out / "predictions.csv"
    join_tables([job.rows(unit) for unit in job.units], job.columns, table)
    for format in job.settings.formats:
        if format != "csv":
            convert_table(table, table.with_suffix(f".{format}"))
    try:
        if job.settings.report:
            from ecstfl_cli.engine.inference.media_report import write_media_report

            write_media_report(job, result.sources, job.out / "report.html")
        if result.problems:
            with (
                complete_file(job.out / "problems.csv") as partial,
                partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
            ):
                csv.writer(file, lineterminator="\n").writerows([("source", "problem"), *result.problems])
        with complete_file(job.out / RESULT) as partial:
            text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError.of(job.out, error) from error


def _remove_partial_copies(job: Job) -> None:
    """Remove what processes that were ended while they wrote annotated pictures have left."""
    copies = job.out / ANNOTATED
    if not job.settings.annotate or not copies.is_dir():
        return
    named = {Path(source.name).name for source in job.sources}
    for path in copies.rglob("*.part.*"):
        found = _PARTIAL.fullmatch(path.name)
        # Somebody's own picture may be called so.
        if found and path.name not in named and path.with_name(found[1] + found[2]).exists():
            path.unlink(missing_ok=True)
