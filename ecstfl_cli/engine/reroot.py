"""Path files from another machine: find their images and clips under a data root, whatever prefix the rows carry."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli import pathfile
from ecstfl_cli.api import Modality
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.frames import frame_names
from ecstfl_cli.pathfile import Field, Problem, Table

# A folder with more subfolders than this holds clips, not parts of a release: its subfolders are no place to start from.
_MAX_CHILDREN = 256
_MAX_BASES = 1024
_DEPTH = 2
_PREFIXES_SHOWN = 3


@dataclass(frozen=True)
class RerootedRow:
    """A row and where it now is: an absolute path, or None with the `problem`. `n_frames` is counted on disk."""

    field: Field
    path: str | None
    dropped: int = 0
    n_frames: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class RerootResult:
    """A path file re-rooted. `prefix_note` says which old prefixes became which folders; `recounted` clips got another
    frame count than the list's.
    """

    table: Table
    rows: list[RerootedRow]
    resolved: int
    total: int
    prefix_note: str
    recounted: int

    def problems(self) -> list[Problem]:
        """Rows that do not resolve, in the order of the file."""
        lost = [
            Problem(self.table.path, row.field.line, row.field.path, row.problem)
            for row in self.rows
            if row.path is None
        ]
        return sorted([*self.table.problems, *lost], key=lambda problem: problem.line)

    def text(self, keep_unresolved: bool = True) -> str:
        """The new file: resolved rows with absolute paths and counts from disk, the others as they were or left out.

        Labels and further columns stay as written.
        """
        rows = [row for row in self.rows if keep_unresolved or row.path is not None]
        if self.table.modality == "video":
            return "".join(map(_clip_line, rows))
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.table.header)
        column = self.table.path_column
        for row in rows:
            cells = list(row.field.cells)
            cells[column] = row.path or cells[column]
            writer.writerow(cells)
        return out.getvalue()


def _clip_line(row: RerootedRow) -> str:
    field = row.field
    if row.path is None:
        return " ".join(part for part in (field.path, field.n_frames, field.label) if part) + "\n"
    return pathfile.clip_line(row.path, row.n_frames, field.label)


class _Base(NamedTuple):
    """A folder that remainders of paths are looked up in: the data root (depth 0) or one below it."""

    path: str
    depth: int


def reroot(file: str | Path, data_root: str | Path, label_map: LabelMap | None = None) -> RerootResult:
    """Find every row of a path file under `data_root`; the file itself is only read.

    Of a row's path the longest remainder counts that exists under the root or a folder up to two levels below it,
    there the nearest one. What could be two things stays unresolved: a bare name found in two folders, a row that is
    found only by dropping more of its path than its neighbours in the list, two rows that would become one path.
    `label_map` only tells labels from folder names. Raises DataError where the root is no folder.
    """
    root = Path(os.path.abspath(data_root))  # noqa: PTH100 (resolve() would replace the user's links)
    if not root.is_dir():
        raise DataError(f"the data root {data_root} is not a folder", "Give the folder that holds the data set.")
    table = pathfile.read_table(file, label_map)
    places = _places(root)
    known: dict[str, tuple[str | None, int, str]] = {}
    rows = []
    for field in table.fields:
        if field.path not in known:
            known[field.path] = _find(_parts(field.path), places, table.modality)
        path, dropped, problem = known[field.path]
        rows.append(RerootedRow(field, path, dropped, problem=problem))
    rows = _drop_strays(rows)
    rows = _drop_shared(rows)
    note = _prefix_note(rows)
    if table.modality == "video":
        rows = [_with_count(row) for row in rows]
    recounted = sum(1 for row in rows if row.path and row.field.n_frames not in ("", str(row.n_frames)))
    resolved = sum(1 for row in rows if row.path)
    return RerootResult(table, rows, resolved, len(rows) + len(table.problems), note, recounted)


def _parts(written: str) -> list[str]:
    """Components of a path as written, the drive or share included; what stands before a `..` says nothing here."""
    parts = [part for part in re.split(r"[\\/]+", written) if part not in ("", ".")]
    after = max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0)
    return ["", *parts] if written[:1] in "\\/" and not after else [".." if after else "."][:after] + parts[after:]


def _places(root: Path) -> dict[str, list[_Base]]:
    """For each name that lies in the root or a folder below it the folders that hold it, nearest first."""
    places: dict[str, list[_Base]] = defaultdict(list)
    for base, names in _bases(root):
        for name in names:
            places[name].append(base)
    return places
