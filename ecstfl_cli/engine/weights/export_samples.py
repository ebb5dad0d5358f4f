"""Real samples for exporters that need them: some hundred at random, a part for them, the others for the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli import pathfile
from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset
from ecstfl_cli.engine.data.samples import KIND, Sample
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, listing
from ecstfl_cli.pathfile import Problem

# For the exporter at most half of what there is: the comparison is about samples that it has not seen.
FOR_EXPORTER, TO_COMPARE = 128, 384
LEAST = 64
_THREADS = 8

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class ExportSamples:
    """Frames (N, T, H, W, 3) or (N, H, W, 3) uint8 that the exporter sees, and others to compare with PyTorch on."""

    shown: Frames
    held_out: Frames


def read_samples(
    files: Sequence[str | Path], spec: InputSpec, *, root: Path | None, reporter: Reporter
) -> ExportSamples:
    """Samples of path files at random, as the model takes them; nobody asks for their labels.

    What cannot be read is named, and another sample is taken. Raises DataError where too few are left, or a list is not
    of what the model takes.
    """
    listed, problems = _listed(files, spec, root)
    order = np.random.default_rng(0).permutation(len(listed))
    samples = [listed[i] for i in order]
    frames, unreadable = _read(samples, spec, reporter)
    problems += unreadable
    kind = KIND[spec.modality]
    if len(frames) < LEAST:
        names = ", ".join(map(str, files))
        raise DataError(
            f"{len(frames)} {kind} of {names} can be used, at least {LEAST} are needed"
            + (":\n" + listing([str(problem) for problem in problems]) if problems else ""),
            "Name longer lists, or further ones, with --samples; labels are not needed. If the data lies elsewhere, "
            "name its folder with --data-root.",
        )
    if problems:
        listed_problems = listing([str(problem) for problem in problems])
        reporter.warn(f"{len(problems)} {kind} cannot be read and are left out:\n{listed_problems}")
    shown = min(FOR_EXPORTER, len(frames) // 2)
    return ExportSamples(np.stack(frames[:shown]), np.stack(frames[shown:]))


def _listed(
    files: Sequence[str | Path], spec: InputSpec, root: Path | None
) -> tuple[list[tuple[Path, pathfile.Row]], list[Problem]]:
    """Each sample of the lists once, with the list that names it, and the rows that are wrong."""
    rows: dict[str, tuple[Path, pathfile.Row]] = {}
    problems: list[Problem] = []
    for file in files:
        read = pathfile.scan_paths(file, root=root)
        if read.modality != spec.modality:
            raise DataError(
                f"{file} lists {KIND[read.modality]}, but the model takes {KIND[spec.modality]}",
                f"Give a {pathfile.SUFFIXES[spec.modality]} path file.",
            )
        problems += read.problems
        for row in read.rows:
            rows.setdefault(row.location, (read.path, row))
    return list(rows.values()), problems


def _read(
    listed: Sequence[tuple[Path, pathfile.Row]], spec: InputSpec, reporter: Reporter
) -> tuple[list[Frames], list[Problem]]:
    """The first samples that can be read, as many as are wanted, and what is wrong with those that cannot."""
    wanted = min(FOR_EXPORTER + TO_COMPARE, len(listed))
    data = SampleDataset([Sample(row.source, -1, row.path_as_written, row.n_frames) for _, row in listed], spec)
    frames: list[Frames] = []
    problems: list[Problem] = []
    left = iter(range(len(listed)))
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        reporter.progress("reading samples", wanted, KIND[spec.modality]) as advance,
    ):
        while len(frames) < wanted and (indices := list(islice(left, min(_THREADS * 4, wanted - len(frames))))):
            for i, found in zip(indices, pool.map(partial(_frames, data), indices), strict=True):
                if isinstance(found, str):
                    file, row = listed[i]
                    problems.append(Problem(file, row.line, "", found))
                else:
                    frames.append(found)
                    advance(1)
    return frames, problems


def _frames(data: SampleDataset, index: int) -> Frames | str:
    """A sample's frames, or why they cannot be read."""
    try:
        return data[0, index].frames
    except DataError as error:
        return error.message
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
