"""Path files: which images or clips there are, and their labels.

`.csv` lists images: a header with `filePath,expression` (or `path,label`), further columns are ignored. `.txt` lists
clips, one a line: `folder n_frames label`, read from the right, so that a folder may hold spaces and tabs. A clip may
also be a video file; 0 frames means that they were not counted. A label is an index or a class name; `-1` or nothing is
an unknown label. Where labels are not required, a `.txt` line is read as
the longest form it fits: three fields when its last word is a label and the one before it a whole number, else
`folder n_frames` when its last word is a whole number, else a plain `folder`.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli.api import Modality, PathRow
from ecstfl_cli.errors import DataError, LabelMapError, listing
from ecstfl_cli.files import complete_file
from ecstfl_cli.labels import INDEX, LabelMap
from ecstfl_cli.wording import counted

SUFFIXES: dict[Modality, str] = {"img": ".csv", "video": ".txt"}
PATH_COLUMNS = ("filepath", "path")
LABEL_COLUMNS = ("expression", "label")
UNKNOWN = "-1"

_COUNT = re.compile(r"[0-9]{1,18}")
_ABSOLUTE = re.compile(r"[\\/]|[A-Za-z]:[\\/]")
_SAMPLE = 64


class Problem(NamedTuple):
    """One thing that is wrong with a row: where, with which path, what, and how to mend it."""

    file: Path
    line: int
    path: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.file}:{self.line}", self.path, self.text) if part)


class Field(NamedTuple):
    """A row as written, before anything is looked up; `cells` are all columns of a `.csv`."""

    line: int
    path: str
    n_frames: str
    label: str
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """A path file as written. `path_column` indexes `header` and the rows' cells in a `.csv`."""

    path: Path
    modality: Modality
    header: list[str]
    path_column: int
    fields: list[Field]
    problems: list[Problem]


class Row(NamedTuple):
    """One sample: `location` is where it is on this machine, `label` an index of the label map, None where unknown.

    `n_frames` is None where the list does not say, or says 0: a video file whose frames were not counted.
    """

    path_as_written: str
    location: str
    label: int | None
    n_frames: int | None
    line: int

    @property
    def source(self) -> Path:
        """`location` as a Path; made on demand, because making it is half the time of reading a long list."""
        return Path(self.location)


@dataclass(frozen=True)
class PathFile:
    """A path file as read; `problems` are the rows that could not be."""

    path: Path
    modality: Modality
    rows: list[Row]
    problems: list[Problem]


def read(path: str | Path, *, root: Path | None, label_map: LabelMap | None, require_labels: bool = True) -> PathFile:
    """Read a path file whose every row must be right; see `scan` for the arguments.

    Raises DataError naming file and line of the first twenty problems and how many there are.
    """
    found = scan(path, root=root, label_map=label_map, require_labels=require_labels)
    if found.problems:
        raise problems_error(f"{found.path} has {counted(len(found.problems), 'wrong row')}", found.problems)
    return found


def scan(path: str | Path, *, root: Path | None, label_map: LabelMap | None, require_labels: bool = True) -> PathFile:
    """Read a path file, keeping rows that are wrong as problems; on disk only a sample of the paths is looked up.

    Relative paths start from one folder for the whole file: `root` if given, else the file's folder, else the current
    one, whichever holds most of an evenly spread sample of the rows. Without a `label_map` labels must be indices.
    Raises DataError where the file as a whole cannot be read or holds no rows.
    """
    table = read_table(path, label_map, require_labels)
    label_of = _label_reader(label_map, require_labels)
    problems = list(table.problems)
    locate = _locator(table, root)
    rows: list[Row] = []
    for line, written, n_frames, label, _ in table.fields:
        index, wrong, hint = label_of(label)
        if wrong:
            problems.append(Problem(table.path, line, written, wrong, hint))
            continue
        rows.append(Row(written, locate(written), index, int(n_frames or 0) or None, line))
    problems.sort(key=lambda problem: problem.line)
    return PathFile(table.path, table.modality, rows, problems)


def scan_paths(path: str | Path, *, root: Path | None) -> PathFile:
    """The same without the labels, whosever they are: that of each row is None."""
    table = read_table(path)
    locate = _locator(table, root)
    rows = [
        Row(field.path, locate(field.path), None, int(field.n_frames or 0) or None, field.line)
        for field in table.fields
    ]
    return PathFile(table.path, table.modality, rows, list(table.problems))


def read_table(path: str | Path, label_map: LabelMap | None = None, require_labels: bool = False) -> Table:
    """A path file's columns as text; labels are told from folder names by `label_map`, and not looked up.

    Raises DataError where the file is missing, empty, of another kind, without the header, or not UTF-8.
    """
    path = Path(path)
    modality = modality_of(path)
    text = _read_text(path)
    if not text.strip():
        raise DataError(f"path file {path} is empty", _expected(modality))
    if modality == "img":
        table = _csv_table(path, text, require_labels)
    else:
        table = _txt_table(path, text, label_map, require_labels)
    if "\0" in text:  # No file system has such a path; calls of the system fail on it in ways of their own.
        wrong = [field for field in table.fields if "\0" in field.path]
        problems = [Problem(path, field.line, field.path, "the path holds a NUL character") for field in wrong]
        kept = [field for field in table.fields if field not in wrong]
        table = replace(table, fields=kept, problems=[*table.problems, *problems])
    if not table.fields and not table.problems:
        raise DataError(f"path file {path} has a header but no rows", _expected(modality))
    return table


def modality_of(path: Path) -> Modality:
    """What a path file lists, by its ending. Raises DataError for any other."""
    for modality, suffix in SUFFIXES.items():
        if path.suffix.lower() == suffix:
            return modality
    raise DataError(f"{path} is not a path file", f"{_expected('img')} {_expected('video')}")


def write(
    path: str | Path,
    rows: Iterable[PathRow],
    modality: Modality,
    further: Sequence[str] = (),
    cells: Sequence[Sequence[str]] = (),
) -> None:
    """Write a path file: `.csv` for images, `.txt` for clips, moved into place when complete.

    A `.csv` may have `further` columns, with the `cells` of each row. Raises DataError for another ending, a clip
    without a frame count, or a path that the format cannot hold.
    """
    path = Path(path)
    if modality_of(path) != modality:
        raise DataError(f"{path} does not end in {SUFFIXES[modality]}", _expected(modality))
    out = io.StringIO(newline="")
    if modality == "img":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("filePath", "expression", *further))
        writer.writerows(
            (row.path, "" if row.label is None else row.label, *extra)
            for row, extra in zip(rows, cells if further else repeat(()), strict=False)
        )
    else:
        out.writelines(clip_line(row.path, row.n_frames, row.label) for row in rows)
    write_atomically(path, out.getvalue())


def has_indices(path: str | Path) -> bool:
    """Whether a path file has labels that are indices, which mean nothing without a map; class names do."""
    return any(field.label.isdigit() for field in read_table(path).fields)


def clip_line(folder: str, n_frames: int | str | None, label: int | str | None) -> str:
    """One line of a `.txt`; an unknown label is written as -1, so that the fields stay countable from the right."""
    if n_frames in (None, ""):
        raise DataError(f"clip {folder!r} has no frame count", _expected("video"))
    if not folder.strip() or folder != folder.strip() or "\n" in folder or "\r" in folder:
        raise DataError(f"a .txt path file cannot hold the folder name {folder!r}", "Rename the folder.")
    return f"{folder} {n_frames} {UNKNOWN if label in (None, '') else label}\n"


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text and move it into place when complete. Raises DataError where the file cannot be written."""
    try:
        with complete_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}", "Choose a folder that can be written to.") from error


def portable(text: str) -> str:
    """A path as this system reads it: on POSIX single or doubled backslashes become slashes, `C:` and UNC stay."""
    if "\\" not in text or os.name == "nt":
        return text
    slashed = text.replace("\\", "/")
    while "//" in slashed:
        slashed = slashed.replace("//", "/")
    return f"/{slashed}" if text.startswith("\\\\") else slashed


def problems_error(what: str, problems: Sequence[Problem], *advice: str) -> DataError:
    """One DataError for all problems: the first twenty, how many more, and each distinct way to mend them."""
    hints = [*dict.fromkeys(problem.hint for problem in problems if problem.hint)][:3]
    return DataError(f"{what}:\n{listing([str(problem) for problem in problems])}", "\n".join([*hints, *advice]))


def _expected(modality: Modality) -> str:
    if modality == "img":
        return "A .csv path file has the header `filePath,expression` and one image a line."
    return "A .txt path file has one clip a line: `folder n_frames label`."


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"there is no path file {path}",
            "Check the name, or write path files with `ecstfl prepare --data-root DIR`.",
        ) from None
    except OSError as error:
        raise DataError(f"cannot read path file {path}: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "perhaps CP1252 or GB18030"
        raise DataError(
            f"path file {path} is not UTF-8 but {guess}: byte 0x{raw[error.start]:02x} in line {line}",
            f"Convert it, for example with `iconv -f ENCODING -t UTF-8 {path.name} > converted{path.suffix}`.",
        ) from None


def _csv_table(path: Path, text: str, require_labels: bool) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    fields: list[Field] = []
    problems: list[Problem] = []
    header: list[str] = []
    path_column = label_column = -1
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if not header:
                header = cells
                path_column, label_column = _columns(path, header, require_labels)
                continue
            if len(cells) <= path_column or any(cells[len(header) :]):
                counts = f"{len(cells)} columns where the header has {len(header)}"
                problems.append(Problem(path, reader.line_num, cells[0], counts, "Quote a path that holds a comma."))
                continue
            written = cells[path_column].strip()
            if not written:
                problems.append(Problem(path, reader.line_num, "", "no path"))
                continue
            label = cells[label_column].strip() if 0 <= label_column < len(cells) else ""
            fields.append(Field(reader.line_num, written, "", label, cells))
    except csv.Error as error:
        problems.append(Problem(path, reader.line_num, "", f"cannot be read from here on: {error}"))
    return Table(path, "img", header, path_column, fields, problems)


def _columns(path: Path, header: Sequence[str], require_labels: bool) -> tuple[int, int]:
    names = [name.strip().lower() for name in header]
    for name in (*PATH_COLUMNS, *LABEL_COLUMNS):
        if names.count(name) > 1:
            raise DataError(f"{path} has {names.count(name)} columns {name!r}", "Remove or rename all but one.")
    path_column = next((names.index(name) for name in PATH_COLUMNS if name in names), -1)
    label_column = next((names.index(name) for name in LABEL_COLUMNS if name in names), -1)
    if path_column < 0 or (require_labels and label_column < 0):
        missing = "path" if path_column < 0 else "label"
        raise DataError(
            f"{path} has no {missing} column; its first line is {','.join(header)!r}",
            _expected("img")
            + " `path,label` is read too."
            + (" Columns are separated by commas." if len(header) == 1 and re.search(r"[;\t|]", header[0]) else ""),
        )
    return path_column, label_column


def _txt_table(path: Path, text: str, label_map: LabelMap | None, require_labels: bool) -> Table:
    fields: list[Field] = []
    problems: list[Problem] = []
    # Not str.splitlines, which also splits at characters that a folder name may hold.
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        words = line.rsplit(None, 2)
        if not words:
            continue
        if len(words) == 3 and _COUNT.fullmatch(words[1]) and (require_labels or _may_be_label(words[2], label_map)):
            fields.append(Field(number, words[0].lstrip(), words[1], words[2], []))
        elif require_labels:
            found = f"expected `folder n_frames label`, found {line.strip()!r}"
            problems.append(Problem(path, number, "", found))
        elif len(words) > 1 and _COUNT.fullmatch(words[-1]):
            fields.append(Field(number, line.rsplit(None, 1)[0].lstrip(), words[-1], "", []))
        else:
            fields.append(Field(number, line.strip(), "", "", []))
    return Table(path, "video", [], -1, fields, problems)


def _may_be_label(word: str, label_map: LabelMap | None) -> bool:
    """Whether a last word is a label; without a map any word may be one, and is asked for a map later."""
    if label_map is None or INDEX.fullmatch(word):
        return True
    try:
        label_map.index(word)
    except LabelMapError:
        return False
    return True


def _label_reader(label_map: LabelMap | None, require_labels: bool) -> Callable[[str], tuple[int | None, str, str]]:
    """A function from a label as written to (index, what is wrong, how to mend it); each spelling is looked up once."""

    @functools.cache
    def look_up(text: str) -> tuple[int | None, str, str]:
        if text in ("", UNKNOWN):
            return None, "has no label" if require_labels else "", ""
        if label_map is not None:
            try:
                return label_map.parse(text), "", ""
            except (LabelMapError, ValueError):
                fit = f"label {text!r} is not in label map {label_map.name!r}"
                return None, fit, f"Classes of {label_map.name}: {label_map.describe()}."
        if not _COUNT.fullmatch(text):
            is_index = INDEX.fullmatch(text)
            wrong = f"label {text!r} is negative" if is_index else f"label {text!r} is a class name"
            return None, wrong, "" if is_index else "Name the label map of the file with --label-map."
        return int(text), "", ""

    return look_up


def _locator(table: Table, root: Path | None) -> Callable[[str], str]:
    """A function from a path as written to where it lies."""
    base = _base([field.path for field in table.fields], _bases(table.path, root))

    def locate(written: str) -> str:
        local = portable(written)
        return local if _ABSOLUTE.match(local) else f"{base}/{local}"

    return locate


def _bases(path: Path, root: Path | None) -> list[Path]:
    return [*([root] if root else []), path.parent, Path()]


def _base(written: Sequence[str], candidates: Sequence[Path]) -> Path:
    """The folder under which most of an evenly spread sample of the relative paths exist; the first one on a tie."""
    relative = [path for path in written if not _ABSOLUTE.match(path)]
    n = min(_SAMPLE, len(relative))
    sample = [portable(relative[i * len(relative) // n]) for i in range(n)]
    return max(candidates, key=lambda base: sum((base / local).exists() for local in sample))
