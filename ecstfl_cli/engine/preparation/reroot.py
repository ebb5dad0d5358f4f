"""Path files from another machine: find their images and clips under a data root, whatever prefix the rows carry."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ecstfl_cli import pathfile
from ecstfl_cli.errors import DataError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.frames import VIDEO_SUFFIXES, frame_names
from ecstfl_cli.pathfile import Field, Problem, Table

_DEPTH = 2
# A folder with more subfolders than this holds clips, not parts of a release: no remainder starts below it.
_MAX_CHILDREN = 256
_MAX_PLACES = 1024
_PREFIXES_SHOWN = 3
_COMPONENT = re.compile(r"[^\\/]+")


class Hit(NamedTuple):
    """Where a row was found: without `prefix`, its `kept` last components lie in `folder`."""

    path: str
    folder: str
    prefix: str
    dropped: int
    kept: int


@dataclass(frozen=True)
class RerootedRow:
    """A row of the old file and where it now is, or the `problem`. `n_frames` is counted on disk."""

    field: Field
    hit: Hit | None
    problem: str = ""
    n_frames: int | None = None


@dataclass(frozen=True)
class RerootResult:
    """A path file re-rooted: `resolved` of `total` rows were found.

    `prefix_note` says which old prefixes became which folders; `recounted` clips have another number of frames on disk
    than in the list.
    """

    table: Table
    rows: list[RerootedRow]
    resolved: int
    total: int
    prefix_note: str
    recounted: int

    def problems(self) -> list[Problem]:
        """Rows that do not resolve, in the order of the file."""
        path = self.table.path
        lost = [Problem(path, row.field.line, row.field.path, row.problem) for row in self.rows if not row.hit]
        return sorted([*self.table.problems, *lost], key=lambda problem: problem.line)

    def text(self, keep_unresolved: bool = True) -> str:
        """The new file: resolved rows with absolute paths and counts from disk, the others as they were or left out.

        Labels and further columns stay as written. Rows that cannot be read at all are not carried over.
        """
        rows = [row for row in self.rows if row.hit or keep_unresolved]
        if self.table.modality == "video":
            return "".join(map(_clip_line, rows))
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.table.header)
        for row in rows:
            cells = list(row.field.cells)
            if row.hit:
                cells[self.table.path_column] = row.hit.path
            writer.writerow(cells)
        return out.getvalue()


def reroot(file: str | Path, data_root: str | Path, label_map: LabelMap | None = None) -> RerootResult:
    """Find every row of a path file under `data_root`; the file itself is only read.

    The longest remainder of a row's path counts that exists under the root or a folder up to two levels below, and of
    several the nearest to the root. What could be two things stays unresolved: a bare name that lies in two folders,
    a row that is found only by dropping more than its neighbours in the list, two rows that would become one path.
    `label_map` only tells labels from folder names. Raises DataError where the root is no folder.
    """
    root = Path(os.path.abspath(data_root))  # noqa: PTH100 (Path.resolve would replace the user's links)
    if not root.is_dir():
        raise DataError(f"the data root {data_root} is not a folder", "Give the folder that holds the data set.")
    table = pathfile.read_table(file, label_map)
    places = _places(root)
    exists = os.path.isfile if table.modality == "img" else _is_clip
    rows = [RerootedRow(field, *_find(field.path, places, exists)) for field in table.fields]
    rows = _without_shared(_without_strays(rows))
    if table.modality == "video":
        rows = [_counted(row) for row in rows]
    return RerootResult(
        table,
        rows,
        resolved=sum(1 for row in rows if row.hit),
        total=len(rows) + len(table.problems),
        prefix_note=_prefix_note(row.hit for row in rows if row.hit),
        recounted=sum(1 for row in rows if row.n_frames and row.field.n_frames not in ("", str(row.n_frames))),
    )


def _is_clip(path: str) -> bool:
    """Whether a path is a folder or a video file."""
    return os.path.isdir(path) or (_is_video(path) and os.path.isfile(path))  # noqa: PTH112, PTH113 (a Path each is slow)


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122 (as above)


def _places(root: Path) -> dict[str, list[tuple[int, str]]]:
    """By name of an entry the folders (depth below the root, path) that hold it, nearest first."""
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    level = [str(root)]
    for depth in range(_DEPTH + 1):
        below: list[str] = []
        for folder in level:
            names, children = _entries(folder)
            for name in names:
                places[name].append((depth, folder))
            if len(children) <= _MAX_CHILDREN:
                below += children
        # All of a level or nothing: a name that is found once must not lie in a folder that was left out.
        if len(below) > _MAX_PLACES:
            break
        level = below
    return places


def _entries(folder: str) -> tuple[list[str], list[str]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir()) for entry in found if not entry.name.startswith("."))
    except OSError:
        return [], []
    return [name for name, _ in entries], [f"{folder}/{name}" for name, is_dir in entries if is_dir]


def _find(
    written: str, places: Mapping[str, Sequence[tuple[int, str]]], exists: Callable[[str], bool]
) -> tuple[Hit | None, str]:
    """Where a path as written is found, or what stands in the way."""
    components = _components(written)
    names = [match.group() for match in components]
    for dropped, name in enumerate(names):
        rest = "/".join(names[dropped:])
        held = [(depth, folder) for depth, folder in places.get(name, ()) if exists(f"{folder}/{rest}")]
        if not held:
            continue
        kept = len(names) - dropped
        nearest = held[0][0]
        # Of a bare name the depth says nothing, unless it lies in the root itself.
        rivals = [folder for depth, folder in held if depth == nearest or (kept == 1 and nearest > 0)]
        if len(rivals) > 1:
            return None, f"ambiguous: {rest} lies in {rivals[0]} and in {rivals[1]}"
        prefix = written[: components[dropped].start()]
        return Hit(f"{rivals[0]}/{rest}", rivals[0], prefix, dropped, kept), ""
    return None, "not found under the data root"


def _components(written: str) -> list[re.Match[str]]:
    """Components of a path; what stands before a `..` says nothing about the data root."""
    parts = [match for match in _COMPONENT.finditer(written) if match.group() != "."]
    after = max((i + 1 for i, match in enumerate(parts) if match.group() == ".."), default=0)
    return parts[after:]


def _without_strays(rows: Sequence[RerootedRow]) -> list[RerootedRow]:
    """Rows that had to drop more of their path than most of their old folder are missing, not found elsewhere."""
    drops: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rows:
        if row.hit:
            drops[_parent(row.field.path)][row.hit.dropped] += 1
    usual = {parent: max(counts, key=lambda n: (counts[n], -n)) for parent, counts in drops.items()}
    return [
        replace(row, hit=None, problem=f"not with its neighbours in the list, only found as {row.hit.path}")
        if row.hit and row.hit.dropped > usual[_parent(row.field.path)]
        else row
        for row in rows
    ]


def _parent(written: str) -> str:
    return re.split(r"[\\/]+[^\\/]*[\\/]*$", written, maxsplit=1)[0]


def _without_shared(rows: Sequence[RerootedRow]) -> list[RerootedRow]:
    """Of different rows that would become one path only the one that keeps most of its own may have it."""
    claims: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
    for row in rows:
        if row.hit:
            claims[row.hit.path][_identity(row)] = row.hit.kept
    kept = []
    for row in rows:
        if row.hit and len(claims[row.hit.path]) > 1:
            rivals = [n for identity, n in claims[row.hit.path].items() if identity != _identity(row)]
            if max(rivals) >= row.hit.kept:
                row = replace(row, hit=None, problem=f"ambiguous: another row is {row.hit.path} as well")
        kept.append(row)
    return kept


def _identity(row: RerootedRow) -> tuple[str, ...]:
    return tuple(match.group() for match in _components(row.field.path))


def _counted(row: RerootedRow) -> RerootedRow:
    if not row.hit or (_is_video(row.hit.path) and not os.path.isdir(row.hit.path)):  # noqa: PTH112 (as above)
        return row
    try:
        frames = len(frame_names(row.hit.path))
    except OSError as error:
        return replace(row, hit=None, problem=f"{row.hit.path} cannot be read: {error.strerror}")
    if not frames:
        return replace(row, hit=None, problem=f"{row.hit.path} holds no images")
    return replace(row, n_frames=frames)


def _clip_line(row: RerootedRow) -> str:
    field = row.field
    if row.hit:
        return pathfile.clip_line(row.hit.path, row.n_frames or field.n_frames or 0, field.label)
    return " ".join(part for part in (field.path, field.n_frames, field.label) if part) + "\n"


def _prefix_note(hits: Iterable[Hit]) -> str:
    moves = Counter((hit.prefix, hit.folder) for hit in hits)
    shown = [f"{prefix or '(none)'} -> {folder}/" for (prefix, folder), _ in moves.most_common(_PREFIXES_SHOWN)]
    more = len(moves) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])
