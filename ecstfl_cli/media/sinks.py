"""Predictions as tables: csv, json and parquet, one row a sample."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.errors import EcstflError, suggest
from ecstfl_cli.files import complete_file

DECIMALS = 6


class PredictionTable(Protocol):
    """What is written: N names, targets (N,) with -1 where unknown, predicted indices (N,) and probs (N, K)."""

    @property
    def clip_ids(self) -> list[str]: ...
    @property
    def target(self) -> NDArray[np.int64]: ...
    @property
    def predicted(self) -> NDArray[np.int64]: ...
    @property
    def probs(self) -> NDArray[np.float32]: ...


def write_predictions(predictions: PredictionTable, label_names: Sequence[str], path: Path) -> None:
    """Write `path`, `label`, `predicted`, `predicted_name`, `prob_<class>` … as the ending of `path` says.

    Label and predicted are indices into `label_names`; an unknown label is empty (null in JSON and parquet). Probs have
    six decimals. Endings: `.csv`, `.json` (a list of rows), `.parquet`. Raises EcstflError for any other.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise EcstflError(
            f"predictions cannot be written as {path.name}",
            f"{suggest(path.suffix, _WRITERS)}Endings: {', '.join(_WRITERS)}",
        )
    rows = prediction_rows(predictions, label_names)
    with complete_file(path) as partial:
        writer(rows, label_names, partial)


def read_predictions(
    path: Path, label_names: Sequence[str]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
    """Names (N), targets (N,) with -1 where unknown and probs (N, K) of a csv that `write_predictions` wrote."""
    import pandas as pd

    frame = pd.read_csv(path, dtype={"path": str}, keep_default_na=False, na_values={"label": [""]})
    probs = frame[[f"prob_{name}" for name in label_names]].to_numpy(np.float32)
    return frame["path"].tolist(), frame["label"].fillna(-1).to_numpy(np.int64), probs


def prediction_rows(predictions: PredictionTable, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of `write_predictions` as plain values, for JSON; an unknown label is None."""
    columns = [f"prob_{name}" for name in label_names]
    rows = []
    for clip_id, label, predicted, probs in zip(
        predictions.clip_ids,
        predictions.target.tolist(),
        predictions.predicted.tolist(),
        predictions.probs.tolist(),
        strict=True,
    ):
        row = {
            "path": clip_id,
            "label": label if label >= 0 else None,
            "predicted": predicted,
            "predicted_name": label_names[predicted],
        }
        row |= {column: round(p, DECIMALS) for column, p in zip(columns, probs, strict=True)}
        rows.append(row)
    return rows


def _columns(label_names: Sequence[str]) -> list[str]:
    return ["path", "label", "predicted", "predicted_name", *(f"prob_{name}" for name in label_names)]


def _write_csv(rows: list[dict[str, Any]], label_names: Sequence[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_columns(label_names))
        for row in rows:
            values = [f"{v:.{DECIMALS}f}" if isinstance(v, float) else v for v in row.values()]
            writer.writerow(values)


def _write_json(rows: list[dict[str, Any]], label_names: Sequence[str], path: Path) -> None:  # noqa: ARG001
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_parquet(rows: list[dict[str, Any]], label_names: Sequence[str], path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=_columns(label_names))
    # Int64 with a capital I has a missing value; int64 would turn the column into floats.
    frame.astype({"label": "Int64", "predicted": "Int64"}).to_parquet(path, index=False)


_WRITERS: dict[str, Callable[[list[dict[str, Any]], Sequence[str], Path], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".parquet": _write_parquet,
}
