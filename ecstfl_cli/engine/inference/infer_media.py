"""`ecstfl infer` on pictures, videos, folders, cameras and streams: rows of faces, and a summary of each source."""

from __future__ import annotations

import functools
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO

import torch

from ecstfl_cli.api import Modality
from ecstfl_cli.engine.inference.defaults import BATCH_SIZE
from ecstfl_cli.engine.inference.infer import model_summary, require_modality
from ecstfl_cli.engine.inference.media_job import (
    RESULT,
    FinishedError,
    Job,
    MediaSettings,
    Shard,
    is_unfinished,
)
from ecstfl_cli.engine.inference.media_pool import look_at_units, media_workers
from ecstfl_cli.engine.inference.media_result import MediaResult, finished_result, put_together
from ecstfl_cli.engine.inference.media_worker import OnLive, Worker, nothing
from ecstfl_cli.engine.inference.recogniser import Recogniser
from ecstfl_cli.engine.inference.result_folder import result_folder
from ecstfl_cli.engine.inference.sources import ANNOTATED, Found, find_sources, read_list
from ecstfl_cli.engine.inference.stop_signals import ends_on_interrupt, interrupted_on_termination
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.model_source import InferenceModel
from ecstfl_cli.errors import DataError, EcstflError, OutputError, listing
from ecstfl_cli.files import sha256
from ecstfl_cli.labels import LabelMap


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
            opened, found = _opened(folder, settings, recogniser.model, shard, stdin, null)
            if isinstance(opened, MediaResult):
                reporter.note(f"{folder} is finished already")
                return opened
            job = opened
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


def _opened(
    folder: Path, settings: MediaSettings, model: InferenceModel, shard: Shard, stdin: IO[bytes] | None, null: bool
) -> tuple[Job | MediaResult, Found | None]:
    """The job in `folder`, begun where it is not there yet, with what was found for it.

    Or its result, where the other shards have left nothing for this one.
    """
    as_videos = settings.frame_rate is not None or model.input.modality == "video"
    looked_for: list[str] = []

    def find() -> Found:
        listed = read_list(stdin, null) if stdin else []
        named = [name for name in settings.inputs if name != "-"]
        found = find_sources(named, listed=listed, camera=settings.camera, folders_are_videos=as_videos)
        looked_for.extend(source.name for source in found.sources)
        return found

    about = {**model_summary(model), "card": model.card, "measured": model.measured}
    try:
        return Job.open(folder, settings, about, find, shard)
    except FinishedError:
        finished = finished_result(folder, settings, model) if shard.count > 1 else None
        if finished is None or [source.name for source in finished.sources] != looked_for:
            raise
        return finished, None


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
