"""What the data set plugins share: folders that may be spelt in several ways, lists in several encodings, folds."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli import pathfile
from ecstfl_cli.api import PathRow
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.frames import natural_key
from ecstfl_cli.pathfile import Problem, portable

_NOT_DATA = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class Line(NamedTuple):
    """One line of a list: its number and its columns, without the spaces around them."""

    number: int
    cells: list[str]


# --- folders ---------------------------------------------------------------------------------------------------------


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `folder`, in natural order; hidden ones and broken links are left out.

    Empty where there is no such folder.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith(".") or entry.name in _NOT_DATA:
                    continue
                try:
                    (folders if entry.is_dir() else files if entry.is_file() else []).append(entry.name)
                except OSError:  # a link that leads round in a circle
                    continue
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    return sorted(folders, key=natural_key), sorted(files, key=natural_key)


def first_existing(root: Path, *candidates: str) -> Path | None:
    """The first of some relative paths that there is, upper and lower case being the same."""
    return next((found for candidate in candidates if (found := _existing(root, candidate))), None)


def _existing(root: Path, relative: str) -> Path | None:
    found = root
    for part in relative.split("/"):
        if not part:
            continue
        if not (found / part).exists():
            folders, files = entries(found)
            part = next((name for name in [*folders, *files] if name.lower() == part.lower()), "")
            if not part:
                return None
        found = found / part
    return found


def required(root: Path, what: str, *candidates: str) -> Path:
    """As `first_existing`. Raises DataError, saying what was looked for, where there is none."""
    found = first_existing(root, *candidates)
    if found is None:
        raise DataError(
            f"{root} holds no {what}: wanted {' or '.join(candidates)}",
            "Give the folder that holds them as --data-root; docs/datasets.md shows the layout of each data set.",
        )
    return found


def below(folder: Path, root: Path) -> str:
    """The path of a folder of the release relative to its root, with slashes, as it begins the rows' paths."""
    return folder.relative_to(root).as_posix()


# --- lists -----------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A list of a release: UTF-8, with or without a byte order mark, UTF-16 with one, else GB18030.

    Raises DataError where it is missing, empty, or in none of them.
    """
    raw, encoding = _read(path)
    return raw.decode(encoding)


def read_lines(path: Path) -> list[Line]:
    """The lines of a list that are not blank, each as one cell. Raises DataError as `read_text` does."""
    lines = re.split(r"\r\n|\n|\r", read_text(path))
    return [Line(i, [line.strip()]) for i, line in enumerate(lines, start=1) if line.strip()]


def read_table(path: Path, columns: Sequence[str], without_header: Sequence[int] = ()) -> Iterator[Line]:
    """Rows of a csv with just these columns, found by name in any case and order.

    `without_header` is where they are, from 0, in a file that has no header; else it must have one. Raises DataError as
    `read_text` does, and for a missing column, a row that is too short, or what is no csv.
    """
    raw, encoding = _read(path)
    # Not a StringIO, which takes four bytes a character: a table of pixels has hundreds of megabytes.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(raw), encoding, newline=""), strict=True)
    places: list[int] | None = None
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if places is None:
                names = [cell.strip().lower() for cell in cells]
                if not without_header or columns[0].lower() in names:
                    places = _places(path, columns, names)
                    continue
                places = [*without_header]
            if len(cells) <= max(places):
                raise _damaged(f"{path}:{reader.line_num}: {len(cells)} columns, wanted {', '.join(columns)}")
            yield Line(reader.line_num, [cells[place].strip() for place in places])
    except csv.Error as error:
        raise _damaged(f"{path}:{reader.line_num}: cannot be read from here on: {error}") from error


def _read(path: Path) -> tuple[bytes, str]:
    """A file's bytes, and the encoding that they are text in."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not raw or raw.isspace():
        raise _damaged(f"{path} is empty")
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "gb18030"):
        try:
            if "\0" not in raw.decode(encoding):
                return raw, encoding
        except UnicodeDecodeError:
            continue
    raise _damaged(f"{path} is no text in UTF-8, UTF-16 or GB18030")


def _places(path: Path, columns: Sequence[str], names: Sequence[str]) -> list[int]:
    missing = [column for column in columns if column.lower() not in names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; its first line is {','.join(names)[:200]!r}",
            f"Wanted: {', '.join(columns)}.",
        )
    return [names.index(column.lower()) for column in columns]


def _damaged(message: str) -> DataError:
    return DataError(message, "Unpack the release again; the file is damaged.")


def inside(text: str) -> str:
    """A path of a list as one below the data root, with slashes; empty where it leaves the root."""
    local = portable(text.strip()).replace("\\", "/")
    parts = [part for part in local.split("/") if part not in ("", ".")]
    leaves = local.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", local)
    return "" if leaves else "/".join(parts)


def settle(problems: Sequence[Problem], root: Path) -> None:
    """Raises DataError with the wrong rows of a release's lists, if there are any."""
    if problems:
        rows = "row" if len(problems) == 1 else "rows"
        raise pathfile.problems_error(
            f"the lists in {root} have {len(problems)} wrong {rows}",
            problems,
            "Unpack the release again, or mend these rows.",
        )


LEAVES = "leads out of the data root"


# --- labels, folds, options ------------------------------------------------------------------------------------------


def labelled_folders(folder: Path, label_map: LabelMap) -> tuple[list[tuple[str, int]], list[str]]:
    """The folders that are named like classes, each with its label, and those that are not."""
    names, _ = entries(folder)
    labels = [(name, label_map.find(name)) for name in names]
    return [(name, label) for name, label in labels if label is not None], [n for n, label in labels if label is None]


def subject_folds(rows: Sequence[PathRow], folds: int) -> dict[str, list[PathRow]]:
    """Rows as `fold1_train`, `fold1_test` …: subject i of the sorted ones is tested in fold i modulo `folds`."""
    subjects = sorted({row.subject or "" for row in rows}, key=natural_key)
    if not 2 <= folds <= max(2, len(subjects)):
        raise DataError(
            f"{len(subjects)} subjects cannot make {folds} folds", f"Give --option folds=2 to {len(subjects)}."
        )
    fold = {subject: i % folds + 1 for i, subject in enumerate(subjects)}
    return {
        f"fold{k}_{split}": [row for row in rows if (fold[row.subject or ""] == k) == (split == "test")]
        for k in range(1, folds + 1)
        for split in ("train", "test")
    }


def require_choice(option: str, value: str | int, allowed: Sequence[str | int]) -> None:
    """Raises DataError for a value that an option does not take."""
    if value not in allowed:
        raise DataError(f"option {option!r} cannot be {value!r}", f"It may be {', '.join(map(str, allowed))}.")
