"""Knowledge distillation (Hinton et al. 2015) from what other models predicted: files of probabilities as soft labels.

A large model, or several, looks at the training list once, `ecstfl infer LIST --model TEACHER`; a small one learns from
their mean beside the labels. Nothing of the teachers is loaded in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecstfl_cli.engine.data.samples import Sample, class_shares
from ecstfl_cli.errors import DataError, listing
from ecstfl_cli.labels import LabelMap, join

PREFIX = "prob_"
_WRITE = "Write it with `ecstfl infer LIST --model TEACHER --out FOLDER`, LIST being the training list."


def with_teachers(
    samples: Sequence[Sample], files: Sequence[str], weight: float, labels: LabelMap
) -> tuple[list[Sample], float]:
    """Samples whose soft label is (1 - weight) x their own + weight x the mean of the teachers' probabilities.

    Their own is the votes where they have some, else the label. Samples are found by their path as the lists write it;
    classes by name, and those that `labels` lacks are left out of the probabilities. The second value is the share of
    samples whose label is the teachers' first choice. Raises DataError where a file is no such table, or misses a
    sample.
    """
    mean = np.mean([_probabilities(samples, Path(file), labels) for file in files], axis=0)
    own = class_shares(samples, len(labels))
    mixed = (1 - weight) * own + weight * mean
    agreed = float(np.mean(mean.argmax(axis=1) == [sample.label for sample in samples]))
    return [replace(s, soft_label=tuple(row)) for s, row in zip(samples, mixed.tolist(), strict=True)], agreed


def _probabilities(samples: Sequence[Sample], file: Path, labels: LabelMap) -> NDArray[np.float64]:
    """Probabilities (N, K) of the samples, over the classes of `labels`; each row sums to 1."""
    try:
        table = pd.read_csv(file, dtype={"path": str}, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{file}: predictions of a teacher not found", _WRITE) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a table of predictions: {error}", _WRITE) from error
    columns = [name for name in table.columns if name.startswith(PREFIX)]
    if "path" not in table.columns or not columns:
        raise DataError(f"{file} is no table of predictions: it needs the columns path and {PREFIX}<class>", _WRITE)
    joined = join(LabelMap(file.name, tuple(name.removeprefix(PREFIX) for name in columns)), labels)
    if joined.unused:
        raise DataError(
            f"{file}: the teacher has no class {', '.join(joined.unused)}; it has {', '.join(joined.source.names)}",
            "A teacher knows every class that its pupil learns.",
        )
    rows = {path: row for row, path in enumerate(table["path"])}
    missing = [sample.clip_id for sample in samples if sample.clip_id not in rows]
    if missing:
        raise DataError(f"{file} has no prediction for {len(missing)} of the samples:\n{listing(missing)}", _WRITE)
    try:
        found = table[columns].to_numpy(np.float64)[[rows[sample.clip_id] for sample in samples]] @ joined.matrix()
    except ValueError as error:
        raise DataError(f"{file}: a probability is no number: {error}", _WRITE) from error
    total = found.sum(axis=1, keepdims=True)
    if not (np.isfinite(found).all() and (found >= 0).all() and (total > 0).all()):
        raise DataError(f"{file}: probabilities are numbers from 0 to 1 that do not all vanish", _WRITE)
    return found / total
