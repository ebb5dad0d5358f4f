"""The units of a job in this process, or several at a time in processes of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

import torch

from ecstfl_cli.engine.inference.media_job import Job, Unit
from ecstfl_cli.engine.inference.media_worker import Worker, write_thumbnails
from ecstfl_cli.engine.inference.source_summary import SourceSummary
from ecstfl_cli.engine.inference.sources import MediaSource
from ecstfl_cli.engine.processes import cores, end_with_parent
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.row_tables import RowTable
from ecstfl_cli.media.video import probe

# Cores that decoding, detection and recognition of one video keep busy together.
CORES_A_VIDEO = 4
MOST_WORKERS = 8


def media_workers(wanted: int | None, units: int, device: torch.device) -> int:
    """Processes that look at `units` units: `wanted`, else one for every four cores, at most eight, on a GPU at most
    four; never more than there are units."""
    if wanted is None:
        wanted = min(max(1, cores() // CORES_A_VIDEO), MOST_WORKERS if device.type == "cpu" else 4)
    return max(1, min(wanted, units))


def look_at_units(
    job: Job,
    units: Sequence[Unit],
    workers: int,
    here: Worker,
    there: Callable[[int], Worker],
    reporter: Reporter,
) -> None:
    """Look at `units` and record each in the job as soon as it is done.

    `here` is the worker of this process, `there(threads)`, which is pickled, makes one in each of several processes.
    A process that dies takes one source with it at most: that is said in its summary. Raises OutputError.
    """
    if len(units) == 1 and units[0].sources[0].kind != "image":
        with _seconds_of(units[0].sources[0], job.settings.max_seconds, reporter) as here.on_time:
            job.record(units[0], here.look_at(units[0]))
        return
    total = sum(len(unit.sources) for unit in units)
    with reporter.progress("looking", total, "files") as advance:
        done = ((unit, here.look_at(unit)) for unit in units) if workers == 1 else _pooled(job, units, workers, there)
        for unit, summaries in done:
            job.record(unit, summaries)
            advance(len(unit.sources))


@contextmanager
def _seconds_of(source: MediaSource, at_most: float | None, reporter: Reporter) -> Iterator[Callable[[float], None]]:
    """Progress through a single video, in seconds of it, where its length is known; a function that takes the time."""
    try:
        seconds = probe(source.name).seconds if source.kind == "video" else None
    except DataError:
        seconds = None
    if seconds is None:
        yield lambda _: None
        return
    with reporter.progress("looking", round(seconds if at_most is None else min(seconds, at_most)), "s") as advance:
        reached = 0

        def at(time: float) -> None:
            nonlocal reached
            if int(time) > reached:
                advance(int(time) - reached)
                reached = int(time)

        yield at


# --- processes -------------------------------------------------------------------------------------------------------

_worker: Worker | None = None


def _start(make: Callable[[int], Worker], workers: int) -> None:
    global _worker
    # Ctrl-C reaches every process; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    threads = max(1, torch.get_num_threads() // workers)
    torch.set_num_threads(threads)
    _worker = make(threads)


def _look_at(unit: Unit) -> list[SourceSummary]:
    assert _worker is not None
    return _worker.look_at(unit)


def _pooled(
    job: Job, units: Sequence[Unit], workers: int, make: Callable[[int], Worker]
) -> Iterator[tuple[Unit, list[SourceSummary]]]:
    left = list(units)
    while left:
        finished: set[int] = set()
        try:
            with _pool(make, workers) as pool:
                for unit, summaries in _completed(pool, left, workers):
                    finished.add(unit.index)
                    yield unit, summaries
            return
        except BrokenProcessPool:
            left = [unit for unit in left if unit.index not in finished]
            # One of those that were begun has ended its process: they are looked at alone.
            for unit in left[: 2 * workers]:
                yield unit, _alone(job, unit, make)
            left = left[2 * workers :]


def _completed(
    pool: ProcessPoolExecutor, units: Sequence[Unit], workers: int
) -> Iterator[tuple[Unit, list[SourceSummary]]]:
    """Units as they are done; twice as many as there are workers are under way."""
    waiting = iter(units)
    running: dict[Future[list[SourceSummary]], Unit] = {}
    while True:
        while len(running) < 2 * workers and (unit := next(waiting, None)):
            running[pool.submit(_look_at, unit)] = unit
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _alone(job: Job, unit: Unit, make: Callable[[int], Worker]) -> list[SourceSummary]:
    """A unit in a process of its own; where that dies, too, its halves, and so on.

    A source whose own process dies has that problem, and no rows.
    """
    try:
        with _pool(make, 1) as pool:
            return pool.submit(_look_at, unit).result()
    except BrokenProcessPool:
        if len(unit.sources) > 1:
            halves = unit.halves()
            summaries = [summary for half in halves for summary in _alone(job, half, make)]
            job.join(halves, unit)
            return summaries
        with RowTable(job.rows(unit), job.columns):
            pass
        if job.settings.report:
            write_thumbnails(job.thumbnails(unit), [(source, ()) for source in unit.sources])
        text = "the process that looked at it died; perhaps it needs more memory than there is"
        return [SourceSummary(source.name, source.kind, problem=text) for source in unit.sources]


@contextmanager
def _pool(make: Callable[[int], Worker], workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once where the block is left by an error or by Ctrl-C."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (make, workers))
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()
