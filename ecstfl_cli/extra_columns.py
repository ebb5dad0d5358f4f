"""What is known of the rows of a path file beyond path and label: subjects and soft labels, by one function.

They are further columns: `subject`, and one column a class (`happy`, `sad`, …) with its share of the votes. A `.csv`
holds them itself; for a `.txt`, which cannot, they lie beside it in `<stem>.extra.csv`, whose first column is `path`.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecstfl_cli import pathfile
from ecstfl_cli.api import Modality, PathRow
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUBJECT = "subject"


@dataclass(frozen=True)
class ExtraColumns:
    """The extra columns of N rows; `row` finds one by its path as written, which is a sample's `clip_id`.

    `subjects` are empty strings where unknown; what they are (a person, a film) is the data set's. `soft_labels` is
    float32 (N, K) over the classes of the label map it was read with; its rows sum to 1, or are NaN where nobody
    voted. Either is None where the file has none.
    """

    row: dict[str, int]
    subjects: list[str] | None
    soft_labels: NDArray[np.float32] | None


def read_extra_columns(path: str | Path, label_map: LabelMap | None = None, *, skip_bad: bool = False) -> ExtraColumns:
    """Subjects and soft labels of a path file; soft labels only with the `label_map` of the file's own indices.

    Columns named by every class of the map, in any order and spelling, are soft labels; votes are divided by their sum.
    Raises DataError where the file cannot be read, has wrong rows (`skip_bad` leaves these out), or holds a number that
    is negative or none.
    """
    path = Path(path)
    source = path if pathfile.modality_of(path) == "img" else sidecar(path)
    if source is not path and not source.is_file():
        return ExtraColumns({}, None, None)
    table = pathfile.read_table(source)
    if table.problems and not skip_bad:
        raise pathfile.problems_error(f"{source} has wrong rows", table.problems)
    names = [name.strip().lower() for name in table.header]
    cells = [field.cells + [""] * (len(names) - len(field.cells)) for field in table.fields]
    row = {field.path: i for i, field in enumerate(table.fields)}
    subjects = [line[names.index(SUBJECT)].strip() for line in cells] if SUBJECT in names else None
    columns = _class_columns(source, names, label_map) if label_map else []
    lines = [field.line for field in table.fields]
    soft = _shares([[line[i] for i in columns] for line in cells], source, lines) if columns else None
    return ExtraColumns(row, subjects, soft)


def read_rows(path: Path, root: Path | None, label_map: LabelMap | None, *, require_labels: bool) -> list[PathRow]:
    """The rows of a path file with absolute paths, labels, subjects and, with a `label_map`, soft labels.

    Raises DataError as `pathfile.read` and `read_extra_columns` do.
    """
    extra = read_extra_columns(path, label_map)
    rows = []
    for row in pathfile.read(path, root=root, label_map=label_map, require_labels=require_labels).rows:
        at = extra.row.get(row.path_as_written)
        subject = extra.subjects[at] if extra.subjects and at is not None else ""
        votes = extra.soft_labels[at].tolist() if extra.soft_labels is not None and at is not None else [math.nan]
        # A data root that is given relative to the current folder must not be put before these paths once more.
        location = os.path.abspath(row.location)  # noqa: PTH100 (Path.resolve would replace links)
        soft_label = None if math.isnan(votes[0]) else tuple(votes)
        rows.append(PathRow(location, row.label, row.n_frames, subject or None, soft_label))
    return rows


def sidecar(path: Path) -> Path:
    """Where the extra columns of a `.txt` path file lie."""
    return path.with_name(f"{path.stem}.extra.csv")


def sidecar_of(path: Path, rows: Sequence[PathRow]) -> Path | None:
    """The sidecar that `write` will write with these rows, if any."""
    needed = pathfile.modality_of(path) == "video" and any(row.subject or row.soft_label for row in rows)
    return sidecar(path) if needed else None


def write(path: Path, rows: Sequence[PathRow], modality: Modality, classes: Sequence[str]) -> None:
    """Write a path file with the extra columns that its rows have; `classes` names those of `PathRow.soft_label`."""
    header, cells = _columns_of(rows, classes)
    if modality == "img":
        pathfile.write(path, rows, modality, header, cells)
        return
    pathfile.write(path, rows, modality)
    if beside := sidecar_of(path, rows):
        _write_sidecar(beside, ["path", *header], ([row.path, *extra] for row, extra in zip(rows, cells, strict=True)))


def carry_over(old: Path, new: Path, moves: Mapping[str, str]) -> None:
    """Write the sidecar of the `.txt` file `old`, if it has one, for `new`: `moves` are new paths by old ones.

    A `.csv` holds its extra columns itself. Raises DataError where the sidecar cannot be read.
    """
    if pathfile.modality_of(old) == "img" or not sidecar(old).is_file():
        return
    table = pathfile.read_table(sidecar(old))
    rows = []
    for field in table.fields:
        if field.path in moves:
            cells = list(field.cells)
            cells[table.path_column] = moves[field.path]
            rows.append(cells)
    _write_sidecar(sidecar(new), table.header, rows)


def _write_sidecar(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    pathfile.write_atomically(path, out.getvalue())


def _columns_of(rows: Sequence[PathRow], classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    has_subjects = any(row.subject for row in rows)
    has_votes = bool(classes) and any(row.soft_label for row in rows)
    header = [*([SUBJECT] if has_subjects else []), *(classes if has_votes else [])]
    cells = []
    for row in rows:
        if has_votes and row.soft_label and len(row.soft_label) != len(classes):
            raise DataError(
                f"{row.path} has {len(row.soft_label)} votes, where the label map has {len(classes)} classes"
            )
        votes = normalised(row.soft_label) if row.soft_label else [""] * len(classes)
        cells.append([*([row.subject or ""] if has_subjects else []), *(votes if has_votes else [])])
    return header, cells


def normalised(votes: Iterable[float]) -> list[str]:
    """Shares of the votes as text, to six digits; empty where there are none."""
    counted = list(votes)
    total = sum(counted)
    return [f"{vote / total:.6g}" if total else "" for vote in counted]


def _class_columns(source: Path, names: Sequence[str], label_map: LabelMap) -> list[int]:
    """The column of each class, in the map's order; none at all unless every class has one."""
    found: dict[int, int] = {}
    for column, name in enumerate(names):
        if (index := label_map.find(name)) is None:
            continue
        if index in found:
            raise DataError(f"{source} has two columns of the class {label_map.names[index]!r}")
        found[index] = column
    return [found[i] for i in range(len(label_map))] if len(found) == len(label_map) else []


def _shares(cells: Sequence[Sequence[str]], source: Path, lines: Sequence[int]) -> NDArray[np.float32]:
    try:
        votes = np.array([[cell.strip() or "0" for cell in line] for line in cells]).astype(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(votes) & (votes >= 0)).all(axis=1))
    except ValueError:
        wrong = np.array([next(i for i, line in enumerate(cells) if not all(map(_is_number, line)))])
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"{source}:{lines[i]}: soft labels must be numbers from 0 up, not {', '.join(cells[i])}",
            "Leave the cells of a row without soft labels empty.",
        )
    total = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0).astype(np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text.strip() or "0")
    except ValueError:
        return False
    return True
