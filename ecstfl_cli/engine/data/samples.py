"""Path files to samples: labels joined by name, and every sample checked on disk before anything is trained."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli import pathfile
from ecstfl_cli.api import Modality
from ecstfl_cli.engine.data.scan import look as look_up
from ecstfl_cli.engine.data.scan_cache import ScanCache
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.frames import ends_digest, frame_names, image_state
from ecstfl_cli.media.packed import split_packed
from ecstfl_cli.media.sources import PackedClip, is_video_file
from ecstfl_cli.media.video import count_frames
from ecstfl_cli.pathfile import PathFile, Problem, Row

KIND = {"img": "images", "video": "clips"}
_THREADS = 8
# Rows that one thread checks at a time: small enough for a live rate, large enough to keep the hand-over cheap.
_CHUNK = {"img": 256, "video": 8}


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: an image file, or a folder or video file of `n_frames` frames; `label` indexes the model's map.

    A label of -1 is unknown. `clip_id` is the path as its path file writes it. `digest` is what copies of its files
    share, empty where unknown.
    `data_set` and `subject` say whose it is, empty where unknown. `soft_label` are K shares that sum to 1, of the
    model's map. `modality` is what its path file lists, where that is not what the model takes.
    """

    source: Path
    label: int
    clip_id: str
    n_frames: int | None = None
    digest: bytes = field(default=b"", compare=False, repr=False)
    data_set: str = field(default="", compare=False)
    subject: str = field(default="", compare=False)
    soft_label: tuple[float, ...] | None = field(default=None, compare=False, repr=False)
    modality: Modality | None = field(default=None, compare=False)


class Found(NamedTuple):
    """What is on disk under a row's path: frames of a clip, and what is wrong, if anything; `digest` as in Sample."""

    n_frames: int | None
    problem: str
    missing: bool = False
    digest: bytes = b""


def class_shares(samples: Sequence[Sample], num_classes: int) -> NDArray[np.float64]:
    """(N, K): the soft label of each sample, or where it has none all for its label."""
    hard = np.eye(num_classes)
    return np.array([sample.soft_label or hard[sample.label] for sample in samples]).reshape(-1, num_classes)


def load_samples(
    files: Sequence[str | Path],
    *,
    modality: Modality,
    root: Path | None,
    label_map: LabelMap,
    require_labels: bool = True,
    skip_bad: bool = False,
    rejects: Path | None = None,
    counts: Path | None = None,
    reporter: Reporter,
) -> list[Sample]:
    """Read path files and check every row on disk; labels are indices of `label_map`, the files' own.

    A frame count that differs
    from the list's is a problem like a missing file. With `skip_bad` wrong rows are left out and wrong counts taken
    from disk, both listed in `rejects` (columns file, line, path, problem). `counts` as in `check_on_disk`. Raises
    DataError naming the first twenty problems and their number, or where no row is left.
    """
    lists = [_scan(file, modality, root, label_map, require_labels) for file in files]
    locations = dict.fromkeys(row.location for file in lists for row in file.rows)
    found = check_on_disk(locations, modality, reporter, counts)
    samples: list[Sample] = []
    problems: list[Problem] = []
    for file in lists:
        wrong = list(file.problems)
        for row in file.rows:
            disk = found[row.location]
            if disk.problem:
                wrong.append(_disk_problem(file.path, row, disk))
                continue
            if row.n_frames not in (None, disk.n_frames):
                wrong.append(_count_problem(file.path, row, disk, skip_bad))
            label = -1 if row.label is None else row.label
            samples.append(Sample(row.source, label, row.path_as_written, disk.n_frames, disk.digest))
        problems += sorted(wrong, key=lambda problem: problem.line)
    total = sum(len(file.rows) + len(file.problems) for file in lists)
    if problems:
        _settle(problems, total, len(samples), skip_bad, rejects, reporter)
    return samples


def _scan(
    path: str | Path, modality: Modality, root: Path | None, label_map: LabelMap, require_labels: bool
) -> PathFile:
    file = pathfile.scan(path, root=root, label_map=label_map, require_labels=require_labels)
    if file.modality != modality:
        raise DataError(
            f"{path} lists {KIND[file.modality]}, but the model takes {KIND[modality]}",
            f"Give a {pathfile.SUFFIXES[modality]} path file, or a model for {KIND[file.modality]} "
            f"(--type {file.modality}). In a recipe, data.any_modality: true takes both.",
        )
    return file


def check_on_disk(
    locations: Iterable[str], modality: Modality, reporter: Reporter, counts: Path | None = None
) -> dict[str, Found]:
    """What is found under each of these paths of images, or of clips, by path.

    Frames of video files are kept in the folder `counts`, where `prepare --check` keeps what it has read, and counted
    again only where a file is new or has changed.
    """
    paths = list(locations)
    with _kept_counts(paths, modality, counts, reporter) as cache:
        return _looked_at(paths, modality, cache, reporter)


def _kept_counts(
    paths: Sequence[str], modality: Modality, folder: Path | None, reporter: Reporter
) -> AbstractContextManager[ScanCache | None]:
    """The cache of video frames; None where there is nothing to keep, or it cannot be written."""
    if folder and modality == "video" and any(map(is_video_file, paths)):
        with suppress(DataError):
            return ScanCache(folder, reporter)
    return nullcontext()


def _looked_at(
    paths: Sequence[str], modality: Modality, cache: ScanCache | None, reporter: Reporter
) -> dict[str, Found]:
    look = _look_at_image if modality == "img" else partial(_look_at_clip, cache=cache)
    size = _CHUNK[modality]
    chunks = [paths[i : i + size] for i in range(0, len(paths), size)]
    found: list[Found] = []
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        reporter.progress(f"checking {KIND[modality]}", len(paths), KIND[modality]) as advance,
    ):
        for results in pool.map(partial(_each, look), chunks):
            found += results
            advance(len(results))
    return dict(zip(paths, found, strict=True))


def _each(look: Callable[[str], Found], paths: Sequence[str]) -> list[Found]:
    return [look(path) for path in paths]


def _look_in_pack(pack: tuple[Path, str]) -> Found:
    try:
        return Found(len(PackedClip(*pack)), "", digest=hashlib.blake2b("/".join(map(str, pack)).encode()).digest())
    except DataError as error:
        return Found(None, f"{error.message}. {error.hint}")


def _look_at_image(path: str) -> Found:
    if packed := split_packed(path):
        return _look_in_pack(packed)
    problem, digest = image_state(path)
    return Found(None, problem, missing=bool(problem) and not os.path.exists(path), digest=digest)  # noqa: PTH110


def _look_at_video(path: str, cache: ScanCache | None) -> Found:
    try:
        return Found(_frames_of_video(path, cache), "", digest=ends_digest(path))
    except FileNotFoundError:
        return Found(None, "no such file", missing=True)
    except OSError as error:
        return Found(None, f"cannot be read: {error.strerror}")
    except DataError as error:
        return Found(None, error.message)


def _frames_of_video(path: str, cache: ScanCache | None) -> int:
    if cache is None:
        return count_frames(path)
    stamp = look_up(path, "video").stamp
    known = cache.n_frames(path, stamp)
    if known is None:
        known = count_frames(path)
        cache.put_n_frames(path, stamp, known)
    return known


def _look_at_clip(folder: str, cache: ScanCache | None = None) -> Found:
    if packed := split_packed(folder):
        return _look_in_pack(packed)
    if is_video_file(folder) and os.path.exists(folder):  # noqa: PTH110
        return _look_at_video(folder, cache)
    try:
        names = frame_names(folder)
    except FileNotFoundError:
        return Found(None, "no such file" if is_video_file(folder) else "no such folder", missing=True)
    except NotADirectoryError:
        return Found(None, "is a file, not a folder of frames")
    except OSError as error:
        return Found(None, f"cannot be read: {error.strerror}")
    if not names:
        return Found(0, "folder holds no images")
    states = [image_state(f"{folder}/{name}") for name in names]
    bad = [(name, state.problem) for name, state in zip(names, states, strict=True) if state.problem]
    if bad:
        name, problem = bad[0]
        return Found(len(names), f"{len(bad)} of {len(names)} frames unreadable: {name} {problem}")
    whole = hashlib.blake2b(b"".join(state.digest for state in states), digest_size=16)
    return Found(len(names), "", digest=whole.digest())


def _disk_problem(file: Path, row: Row, disk: Found) -> Problem:
    again = f"`ecstfl prepare --data-root DIR {file} --out NEW_FOLDER`"
    hint = f"If the data lies elsewhere, re-root the list, and use the one that is written: {again}."
    return Problem(file, row.line, row.path_as_written, disk.problem, hint if disk.missing else "")


def _count_problem(file: Path, row: Row, disk: Found, corrected: bool) -> Problem:
    text = (
        f"list says {row.n_frames} frames, {'video' if is_video_file(row.location) else 'folder'} has {disk.n_frames}"
    )
    return Problem(file, row.line, row.path_as_written, f"count corrected: {text}" if corrected else text)


def _settle(
    problems: Sequence[Problem], total: int, kept: int, skip_bad: bool, rejects: Path | None, reporter: Reporter
) -> None:
    """Stop on problems, or with `skip_bad` write and report them."""
    if not skip_bad:
        advice = "Mend them, or pass --skip-bad to leave wrong rows out and take frame counts from disk."
        raise pathfile.problems_error(f"{len(problems)} of {total} rows are wrong", problems, advice)
    if rejects:
        write_rejects(rejects, problems)
    if not kept:
        raise pathfile.problems_error(f"none of {total} rows can be used", problems)
    left_out = total - kept
    corrected = f", frame counts corrected: {len(problems) - left_out}" if len(problems) > left_out else ""
    where = f"; listed in {rejects}" if rejects else ""
    reporter.warn(f"{left_out} of {total} rows left out{corrected}{where}")


def write_rejects(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems as csv with the columns file, line, path, problem."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("file", "line", "path", "problem"))
    writer.writerows((problem.file, problem.line, problem.path, problem.text) for problem in problems)
    pathfile.write_atomically(path, out.getvalue())


def class_counts(samples: Iterable[Sample], num_classes: int) -> list[int]:
    """Samples of each of K classes; unknown labels are not counted."""
    counts = [0] * num_classes
    for sample in samples:
        if sample.label >= 0:
            counts[sample.label] += 1
    return counts


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 of a list's clip ids and labels in order; see `fingerprint_of`."""
    return fingerprint_of((sample.clip_id, sample.label) for sample in samples)


def fingerprint_of(pairs: Iterable[tuple[str, int]]) -> str:
    """SHA-256 over (path, label) in order, without the folder that all paths share: that is where the data lies."""
    rows = [(pathfile.portable(path), label) for path, label in pairs]
    paths = [path for path, _ in rows]
    first, last = min(paths, default=""), max(paths, default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = first.rfind("/", 0, same) + 1
    text = "".join(f"{path[shared:]}\0{label}\n" for path, label in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def soft_fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 of a list's soft labels in order, votes or what teachers say, to six digits; empty where none has any."""
    labels = [sample.soft_label for sample in samples]
    classes = max((len(label) for label in labels if label), default=0)
    if not classes:
        return ""
    shares = np.array([label or (-1.0,) * classes for label in labels])
    return hashlib.sha256(shares.round(6).astype("<f4").tobytes()).hexdigest()


def stratified_split(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples, about `fraction` of each class in the latter; the order of `samples` is kept.

    Each class keeps a sample in training and, where it has two or more, gives one to validation. The same seed gives
    the same split on every machine.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the validation fraction must lie between 0 and 1, not {fraction}")
    by_class: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        by_class.setdefault(sample.label, []).append(i)
    generator = random.Random(seed)
    held_out = set(chain.from_iterable(_draw(by_class[label], fraction, generator) for label in sorted(by_class)))
    train = [sample for i, sample in enumerate(samples) if i not in held_out]
    return train, [sample for i, sample in enumerate(samples) if i in held_out]


def _draw(members: Sequence[int], fraction: float, generator: random.Random) -> list[int]:
    # Sorting by random() and not sample(): only the stream of random() is promised to stay the same between versions.
    shuffled = sorted(members, key=lambda _: generator.random())
    wanted = round(fraction * len(members))
    return shuffled[: min(max(wanted, 1), len(members) - 1)]
