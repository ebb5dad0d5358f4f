"""Face crops of many pictures and videos: on all cores, resumable, with boxes and scores in a table."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.engine.preparation.face_clip import (
    FOLDER_FPS,
    JPEG_QUALITY,
    PARTIAL,
    SEEN,
    CropJob,
    Cropped,
    FaceCropper,
    stamp_of,
)
from ecstfl_cli.engine.processes import cores, end_with_parent
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.files import complete_file
from ecstfl_cli.media.faces.finding import PHOTO_SIZES, VIDEO_SIZES
from ecstfl_cli.media.faces.following import MAX_FILL
from ecstfl_cli.media.faces.tracking import MAX_GAP, SMOOTHING

JOURNAL = "faces.jsonl"
TABLE = "faces.parquet"


@dataclass(frozen=True)
class FaceCropping:
    """How `prepare` crops: `folder` is where to (None: beside the path files), `workers` the processes (None: a core
    each), `device` the detector's."""

    crop: FaceCrop = field(default_factory=FaceCrop)
    folder: Path | None = None
    workers: int | None = None
    device: str = "auto"

    def settings(self) -> dict[str, Any]:
        """Everything that decides what the crops look like; goes into the manifest."""
        return {
            "face_crop": asdict(self.crop),
            "face_tracking": {
                "main_face": "largest sum over frames of box side times centrality",
                "video_sizes": list(VIDEO_SIZES),
                "photo_sizes": list(PHOTO_SIZES),
                "detect_every": 1,
                "max_gap": MAX_GAP,
                "smoothing": SMOOTHING,
                "max_fill": MAX_FILL,
                "folder_fps": FOLDER_FPS,
                "jpeg_quality": JPEG_QUALITY,
            },
        }


def crop_sources(jobs: Sequence[CropJob], folder: Path, cropping: FaceCropping, reporter: Reporter) -> list[Cropped]:
    """Crop every source into `folder`, each once, in the order of `jobs`.

    What was done there before, with the same settings and the same source, is not done again: `faces.jsonl` has a line
    for each. `faces.parquet` has a row for each crop. Raises DataError where the folder holds crops of other settings,
    is used by another run or cannot be written to; EcstflError where the detector is not available.
    """
    wanted = {job.source: job for job in jobs}
    with _in_use(folder):
        journal = _Journal(folder / JOURNAL, cropping.settings())
        done = {
            source: journal.done[source]
            for source, job in wanted.items()
            if source in journal.done and _still_holds(journal.done[source], job, folder)
        }
        left = [job for source, job in wanted.items() if source not in done]
        if done:
            reporter.note(f"{len(done)} of {len(wanted)} are in {folder} already")
        with journal.appending() as append, reporter.progress("cropping faces", len(left), "sources") as advance:
            for cropped in _computed(left, folder, cropping):
                append(cropped)
                done[cropped.source] = cropped
                advance(1)
        results = [done[job.source] for job in jobs]
        _write_table(list(done.values()), folder / TABLE)
    return results


def _computed(jobs: Sequence[CropJob], folder: Path, cropping: FaceCropping) -> Iterator[Cropped]:
    """Results as they come: in this process for one worker, else from a pool."""
    workers = max(1, min(cropping.workers or cores(), len(jobs)))
    if not jobs:
        return
    if workers == 1:
        cropper = FaceCropper(cropping.crop, folder, cropping.device, cropping.workers)
        yield from map(cropper, jobs)
        return
    arguments = (cropping.crop, folder, cropping.device, max(1, cores() // workers))
    # Loaded here too, so that a missing detector is one clear error and not one of each worker.
    FaceCropper(*arguments)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=arguments) as pool:
        futures: list[Future[Cropped]] = [pool.submit(_crop, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise EcstflError(
                "a worker process ended unexpectedly, perhaps because memory ran out",
                "Run the same command again with fewer --workers: it continues where it stopped.",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_cropper: FaceCropper


def _start(crop: FaceCrop, folder: Path, device: str, threads: int) -> None:
    global _cropper
    # Ctrl-C ends workers without a traceback each.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    _cropper = FaceCropper(crop, folder, device, threads)


def _crop(job: CropJob) -> Cropped:
    return _cropper(job)


def _still_holds(cropped: Cropped, job: CropJob, folder: Path) -> bool:
    there = not cropped.rows or (folder / cropped.target).exists()
    return there and cropped.target == job.target and cropped.stamp == stamp_of(job)


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """The folder, made and held against other runs, and cleared of what an interrupted one has left half-done."""
    from filelock import FileLock, Timeout

    try:
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / PARTIAL / "lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"another run is writing face crops to {folder}", "Wait for it, or end it.") from error
    except OSError as error:
        raise DataError(
            f"cannot write face crops to {folder}: {error.strerror}", "Choose another --faces-out."
        ) from error
    try:
        for path in (folder / PARTIAL).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        lock.release()
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)


class _Journal:
    """One JSON object a line: the settings, then each source as it is done."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))
        self.done: dict[str, Cropped] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        entries = [entry for line in lines if (entry := _parsed(line)) is not None]
        if entries and entries[0] != self._settings:
            changed = _changes(entries[0], self._settings)
            raise DataError(
                f"{path.parent} holds face crops made otherwise: {changed}",
                "Choose another --faces-out or --name, or delete that folder.",
            )
        for entry in entries[1:]:
            self.done[entry["source"]] = Cropped(**entry)

    @contextmanager
    def appending(self) -> Iterator[Any]:
        """Gives `append(cropped)`. The file is begun anew, without lines that were torn or have been replaced."""
        try:
            with complete_file(self._path) as partial, partial.open("w", encoding="utf-8") as file:
                for entry in (self._settings, *(asdict(cropped) for cropped in self.done.values())):
                    file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            with self._path.open("a", encoding="utf-8") as file:

                def append(cropped: Cropped) -> None:
                    file.write(json.dumps(asdict(cropped), ensure_ascii=False) + "\n")
                    file.flush()

                yield append
        except OSError as error:
            raise DataError(
                f"cannot write {self._path}: {error.strerror}",
                "Make room or choose another --faces-out; the same command continues where it stopped.",
            ) from error


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changes = [
        f"{key} {before.get(part, {}).get(key)}, now {value}"
        for part, values in now.items()
        for key, value in values.items()
        if before.get(part, {}).get(key) != value
    ]
    return "; ".join(changes) or "by another version"


def _write_table(results: Sequence[Cropped], path: Path) -> None:
    """A row for each crop: source, crop (below the folder), SEEN, and landmarks as ten numbers, x before y."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [(cropped, row) for cropped in results for row in cropped.rows]
    numbers = range(len(SEEN))
    columns: dict[str, Any] = {
        "source": pa.array([cropped.source for cropped, _ in rows], pa.string()).dictionary_encode(),
        "crop": pa.array([name for cropped in results for name in _names(cropped)], pa.string()),
    }
    kinds = {"frame": pa.int32(), "time": pa.float64(), "face": pa.int32(), "interpolated": pa.bool_()}
    for i, name in zip(numbers, SEEN, strict=True):
        values = [bool(row[i]) if name == "interpolated" else row[i] for _, row in rows]
        columns[name] = pa.array(values, kinds.get(name, pa.float32()))
    landmarks = [row[len(SEEN) :] or None for _, row in rows]
    columns["landmarks"] = pa.array(landmarks, pa.list_(pa.float32()))
    try:
        with complete_file(path) as partial:
            parquet.write_table(pa.table(columns), partial)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _names(cropped: Cropped) -> list[str]:
    if cropped.target.endswith(".jpg"):
        return [cropped.target] * len(cropped.rows)
    name = Path(cropped.target).name
    return [f"{cropped.target}/{name}_{i:05d}.jpg" for i in range(1, len(cropped.rows) + 1)]
