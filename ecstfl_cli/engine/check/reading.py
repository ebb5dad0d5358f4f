"""All samples read in full, by threads, each once: what was read before and has not changed is not read again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Modality
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.data.scan import Listing, Scan, look, scan
from ecstfl_cli.engine.data.scan_cache import ScanCache
from ecstfl_cli.engine.processes import cores
from ecstfl_cli.engine.reporter import Reporter

# Decoding releases the interpreter's lock, so threads use all cores; a few more keep them busy while a disk is slow.
_EXTRA_THREADS = 2
# Samples that one thread takes at a time.
_CHUNK = {"img": 64, "video": 1}
_SAVE_SECONDS = 5.0

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Readings:
    """What is known of each sample, in the order of CheckTarget.locations; `scans` are None where there is a problem.

    `n_read` frames were read now, in `seconds`; the rest was known.
    """

    listings: list[Listing]
    scans: list[Scan | None]
    n_read: int
    seconds: float

    def frames(self) -> NDArray[np.int64]:
        """Frames of each sample (N,); 0 where there is a problem."""
        return np.array([scan.n_frames if scan else 0 for scan in self.scans], dtype=np.int64)


def read_all(locations: Sequence[str], modality: Modality, folder: Path, reporter: Reporter) -> Readings:
    """Read every sample; what is read is kept in `folder` every few seconds, so that little is lost when stopped."""
    with ScanCache(folder, reporter) as cache:
        listings = _look_at_all(locations, modality, reporter)
        scans = [
            None if listing.problem else cache.get(path, listing.stamp)
            for path, listing in zip(locations, listings, strict=True)
        ]
        known = sum(scan is not None for scan in scans)
        new = [i for i, listing in enumerate(listings) if scans[i] is None and not listing.problem]
        if known:
            reporter.note(f"{known} {KIND[modality]} were read before, {len(new)} are new")
        started = time.monotonic()
        try:
            # Closed, not left to the garbage collector: what was read is saved then.
            with (
                reporter.progress("reading", sum(listings[i].n_files for i in new), "files") as advance,
                closing(_scanned(new, locations, modality, listings, cache)) as results,
            ):
                for i, result in results:
                    scans[i] = result
                    advance(listings[i].n_files)
        except KeyboardInterrupt:
            reporter.note(f"stopped: what was read is kept in {cache.path}; the same command goes on from there")
            raise
        n_read = sum(scan.n_frames for i in new if (scan := scans[i]))
        return Readings(listings, scans, n_read, time.monotonic() - started)


def _look_at_all(locations: Sequence[str], modality: Modality, reporter: Reporter) -> list[Listing]:
    listings: list[Listing] = []
    with reporter.progress("looking up", len(locations), KIND[modality]) as advance:
        for found in _in_threads(partial(look, modality=modality), locations, 64):
            listings += found
            advance(len(found))
    return listings


def _scanned(
    new: Sequence[int], locations: Sequence[str], modality: Modality, listings: Sequence[Listing], cache: ScanCache
) -> Generator[tuple[int, Scan], None, None]:
    """(index, scan) of new samples; saved every few seconds, and when stopped."""
    unsaved: list[tuple[str, bytes, Scan]] = []
    saved = time.monotonic()
    numbers = iter(new)
    chunks = _in_threads(partial(_scan, modality), [locations[i] for i in new], _CHUNK[modality])
    try:
        for found in chunks:
            for result in found:
                i = next(numbers)
                if not result.n_wrong:  # a file that was closed may have been opened since, under the same stamp
                    unsaved.append((locations[i], listings[i].stamp, result))
                yield i, result
            if time.monotonic() - saved > _SAVE_SECONDS:
                cache.put(unsaved)
                unsaved, saved = [], time.monotonic()
    finally:
        chunks.close()
        cache.put(unsaved)


def _scan(modality: Modality, path: str) -> Scan:
    try:
        return scan(path, modality)
    except OSError as error:  # it was there when it was looked up
        return Scan(0, n_wrong=1, wrong=[f"cannot be read: {error.strerror}"])


def _in_threads(work: Callable[[In], Out], items: Sequence[In], size: int) -> Generator[list[Out], None, None]:
    """Results of chunks of `size` items, in order; when stopped, what has not begun is dropped."""
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    pool = ThreadPoolExecutor(cores() + _EXTRA_THREADS)
    try:
        yield from pool.map(partial(_each, work), chunks)
    finally:
        pool.shutdown(cancel_futures=True)


def _each(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    return [work(item) for item in items]
