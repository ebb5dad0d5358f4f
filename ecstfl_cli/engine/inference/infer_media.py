"""`ecstfl infer` on pictures, videos, folders, cameras and streams: rows of faces, and a summary of each source."""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock

from ecstfl_cli.api import Modality
from ecstfl_cli.engine.inference.defaults import BATCH_SIZE
from ecstfl_cli.engine.inference.infer import model_summary, require_modality, result_folder
from ecstfl_cli.engine.inference.media_job import (
    RESULT,
    UNFINISHED,
    FinishedError,
    Job,
    MediaSettings,
    Shard,
    is_unfinished,
)
from ecstfl_cli.engine.inference.media_pool import look_at_units, media_workers
from ecstfl_cli.engine.inference.media_worker import OnLive, Worker, nothing
from ecstfl_cli.engine.inference.recogniser import Recogniser
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.engine.inference.sources import ANNOTATED, Found, find_sources, read_list
from ecstfl_cli.engine.inference.stop_signals import ends_on_interrupt, interrupted_on_termination
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.model_source import InferenceModel
from ecstfl_cli.errors import DataError, EcstflError, OutputError, listing
from ecstfl_cli.files import complete_file, sha256
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.row_tables import convert_table, join_tables


@dataclass(frozen=True)
class Compute:
    """How a job is computed, which does not change its result but for rounding.

    `workers` processes look at several sources at the same time; None chooses by the machine.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int = BATCH_SIZE
    workers: int | None = None
    backbone: str | None = None
    model_label_map: LabelMap | None = None


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


def infer_media(
    settings: MediaSettings,
    *,
    compute: Compute = Compute(),
    modality: Modality | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    stdin: IO[bytes] | None = None,
    null: bool = False,
    shard: Shard | None = None,
    on_live: OnLive | None = None,
    reporter: Reporter,
) -> MediaResult:
    """Look at everything that `settings.inputs` and `settings.camera` name.

    The input `-` stands for the paths that `stdin` lists, one a line or, with `null`, ended by NUL characters.

    Results go to `out`, a new folder under runs/infer if not given; an unfinished result there of the same settings is
    gone on with. `resume` names such a folder, whose settings are taken. `shard` is this process's part, that of
    torchrun's environment if not given; whoever is done last puts the parts together. `on_live` hears of each frame of
    a camera or stream. A source that cannot be read is one of the result's problems. Raises EcstflError where nothing
    could be read, or nothing can be written.
    """
    for name in ("fps", "frame_rate", "max_seconds"):
        if (value := getattr(settings, name)) is not None and not 0 < value < math.inf:
            raise EcstflError(f"--{name.replace('_', '-')} is {value}", "It must be a number above 0.")
    shard = shard or launched_shard()
    job = Job.resume(resume, shard) if resume else None
    if job:
        settings = _resumed(job.settings, settings, job.out)
    elif out is None and shard.count > 1:
        raise EcstflError("the parts of a job need one folder", "Name it, the same for all: --out DIR.")
    with ExitStack() as held:
        if job:
            folder = job.out
        elif out and (is_unfinished(out) or (shard.count > 1 and (out / RESULT).exists())):
            folder = out
        else:
            folder = held.enter_context(result_folder(out))
        recogniser = _recogniser(settings, compute, reporter)
        require_modality(recogniser.model, modality)
        reporter.note(f"model {recogniser.model.describe()}" + ("" if settings.model else " (none was named)"))
        settings = replace(settings, weights=_digest(recogniser.model.source))
        if job is None:
            as_videos = settings.frame_rate is not None or recogniser.model.input.modality == "video"

            looked_for: list[str] = []

            def find() -> Found:
                listed = read_list(stdin, null) if stdin else []
                named = [name for name in settings.inputs if name != "-"]
                found = find_sources(named, listed=listed, camera=settings.camera, folders_are_videos=as_videos)
                looked_for.extend(source.name for source in found.sources)
                return found

            model = recogniser.model
            about = {**model_summary(model), "card": model.card, "measured": model.measured}
            try:
                job, found = Job.open(folder, settings, about, find, shard)
            except FinishedError:  # By the other shards, where nothing was left for this one.
                finished = _finished(folder, settings, model) if shard.count > 1 else None
                if finished is None or [source.name for source in finished.sources] != looked_for:
                    raise
                reporter.note(f"{folder} is finished already")
                return finished
            _tell_found(job, found, reporter)
        elif job.settings.weights == settings.weights:
            _tell_found(job, None, reporter)
        else:
            raise EcstflError(f"{job.out} was begun with other weights than {recogniser.model.source} has now")
        job.require_sources()
        copies = job.out / ANNOTATED
        had_copies = copies.exists()
        try:
            _look(job, recogniser, compute, on_live, reporter)
        except BaseException as error:
            # What another process has begun it may be working at.
            if shard.count == 1 and job.is_begun_here and not job.done():
                if not had_copies:
                    shutil.rmtree(copies, ignore_errors=True)
                job.remove()
                if isinstance(error, KeyboardInterrupt):
                    reporter.warn("stopped before any source was done; nothing was written")
            elif isinstance(error, KeyboardInterrupt | OutputError):
                reporter.warn(
                    f"stopped; {len(job.done())} of {len(job.sources)} sources are done. "
                    f"Go on with: ecstfl infer --resume {job.out}"
                )
            raise
        return put_together(job)


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


def parse_shard(text: str) -> Shard:
    """The part that `2/4` means, the second of four. Raises EcstflError for what means none."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise EcstflError(
            f"--shard {text} is no part", "It is I/N, from 1/N to N/N: --shard 2/4 is the second of four."
        )
    return Shard(int(number) - 1, int(count))


def launched_shard() -> Shard:
    """The part of this process among those that torchrun or the like has started; all of it without one.

    Raises EcstflError where the environment names a part that there is not.
    """
    if "WORLD_SIZE" not in os.environ:
        return Shard()
    rank, count = os.environ.get("RANK", "0"), os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise EcstflError(
            f"RANK={rank} and WORLD_SIZE={count} in the environment name no part of this job",
            "RANK goes from 0 to WORLD_SIZE - 1, as torchrun sets them; without a launcher, unset both.",
        )
    return Shard(int(rank), int(count))


# --- beginning -------------------------------------------------------------------------------------------------------


def _recogniser(
    settings: MediaSettings, compute: Compute, reporter: Reporter, threads: int | None = None
) -> Recogniser:
    device = compute.device
    if device in ("auto", "gpu", "cuda") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return Recogniser(
        settings.model or None,
        device=device,
        precision=compute.precision,
        flip=settings.flip,
        faces=settings.faces,  # type: ignore[arg-type]
        every=settings.every,
        fps=settings.fps,
        detect_every=settings.detect_every,
        smoothing=settings.smoothing,
        window=settings.window,
        stride=settings.stride,
        batch_size=compute.batch_size,
        threads=threads,
        min_score=settings.min_score,
        model_label_map=compute.model_label_map,
        backbone=compute.backbone,
        reporter=reporter,
    )


def _digest(source: str) -> str:
    """What tells weights apart, as far as they are a file."""
    path = Path(source)
    if not path.is_file():
        return source
    return sha256(path)[:12]


def _resumed(there: MediaSettings, asked: MediaSettings, out: Path) -> MediaSettings:
    """The settings of an unfinished job. Raises EcstflError where others were asked for by the side of --resume."""
    default = MediaSettings()
    names = [field.name for field in fields(MediaSettings)]
    changed = {name: getattr(asked, name) for name in names if getattr(asked, name) != getattr(default, name)}
    if different := there.differences(replace(there, **changed)):
        raise EcstflError(
            f"{out} was begun with other settings:\n" + listing(different),
            "Leave them out: --resume goes on with those of the folder.",
        )
    return there


def _tell_found(job: Job, found: Found | None, reporter: Reporter) -> None:
    live = [f"{'camera ' * (source.kind == 'camera')}{source.name}" for source in job.sources if source.live]
    if live and len(job.sources) > 1:
        job.remove()
        raise EcstflError(f"{live[0]} is live and has to be the only input", "Start one command for each live source.")
    if found is None:
        reporter.note(f"going on in {job.out}: {len(job.done())} of {len(job.sources)} sources are done")
        return
    if not job.sources:
        job.remove()
        raise DataError("no input was named", "Name what to look at, e.g. `ecstfl infer talk.mp4`; see --help.")
    reporter.note(found.describe())
    if found.passed_over:
        reporter.note(found.describe_passed_over())
    if job.shard.count > 1:
        reporter.note(f"part {job.shard.describe()}")


# --- looking ---------------------------------------------------------------------------------------------------------


def _look(job: Job, recogniser: Recogniser, compute: Compute, on_live: OnLive | None, reporter: Reporter) -> None:
    units = job.left()
    if not units:
        return
    live = any(source.live for unit in units for source in unit.sources)
    workers = 1 if live else media_workers(compute.workers, len(units), recogniser.model.device)
    with ends_on_interrupt() if live else interrupted_on_termination() as stopped:
        here = Worker(job, recogniser, stopped=stopped, on_live=on_live or nothing)
        there = functools.partial(_worker, job, job.settings, compute)
        look_at_units(job, units, workers, here, there, reporter)


def _worker(job: Job, settings: MediaSettings, compute: Compute, threads: int) -> Worker:
    """The worker of another process."""
    return Worker(job, _recogniser(settings, compute, Reporter(), threads))


# --- putting together ------------------------------------------------------------------------------------------------


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


def _finished(out: Path, settings: MediaSettings, model: InferenceModel) -> MediaResult | None:
    """The result in `out`, where it is of these settings."""
    written = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if written["settings"] != json.loads(json.dumps(asdict(settings))):
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
    whole = {path for path in copies.rglob("*") if not _PARTIAL.fullmatch(path.name)}
    named = {Path(source.name).name for source in job.sources}
    for path in copies.rglob("*"):
        if path.name in named:  # Somebody's picture may be called so.
            continue
        if (found := _PARTIAL.fullmatch(path.name)) and path.with_name(found[1] + found[2]) in whole:
            path.unlink(missing_ok=True)
