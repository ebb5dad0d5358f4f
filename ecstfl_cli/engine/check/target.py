"""What is checked: the path files of a manifest, of a recipe, or given by name, as splits over distinct samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli import pathfile
from ecstfl_cli.api import FrameSampling, Modality
from ecstfl_cli.engine.data.label_joining import require_one_map
from ecstfl_cli.engine.data.manifest import manifest_to_use, read_manifest_for
from ecstfl_cli.errors import DataError
from ecstfl_cli.extra_columns import read_extra_columns
from ecstfl_cli.labels import INDEX, LabelMap, label_map_from
from ecstfl_cli.pathfile import SUFFIXES, UNKNOWN, Problem, Row

_KIND = re.compile(r"(?<![a-z])(train|val|validation|test)(?![a-z])", re.IGNORECASE)
_FOLD = re.compile(r"(?<![a-z])(?:fold|set)[_-]?[0-9]+", re.IGNORECASE)
_RANK = {"train": 0, "val": 1, "test": 2}
_RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Split:
    """The rows of one split: `samples` (N,) index CheckTarget.locations.

    `labels` are class names, `subjects` persons or films, both "" where unknown; `n_frames` (N,) is what the list says,
    -1 where it says nothing. Splits of one `fold` are trained and tested together. `where` is file and line of a row.
    """

    fold: str
    kind: str
    files: list[Path]
    samples: NDArray[np.int64]
    labels: list[str]
    n_frames: NDArray[np.int64]
    subjects: list[str]
    lines: list[tuple[Path, int]]
    problems: list[Problem]

    @property
    def name(self) -> str:
        return "_".join(part for part in (self.fold, self.kind) if part)

    def where(self, row: int) -> str:
        file, line = self.lines[row]
        return f"{file}:{line}"


@dataclass(frozen=True)
class CheckTarget:
    """Splits over distinct samples. `locations` are paths on this machine; `num_frames` is what a view of a clip takes.

    The report is written to `folder`, as `<name>_check.json`.
    """

    name: str
    modality: Modality
    label_map: LabelMap | None
    folder: Path
    num_frames: int
    locations: list[str] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    manifest: dict[str, Any] | None = None

    @property
    def report(self) -> Path:
        return self.folder / f"{self.name}_check.json"


@dataclass(frozen=True)
class _Listed:
    """Path files of one split, with the label map that they are read by."""

    fold: str
    kind: str
    files: Sequence[tuple[Path, LabelMap | None]]


def find_target(given: Sequence[Path], *, out: Path, label_map: str | None = None) -> CheckTarget:
    """What `given` names: path files, one manifest (its .json, or its name in `out`), or one recipe (.yaml).

    Nothing given is the manifest in `out` that was written last. `label_map` is that of path files which have neither a
    manifest nor class names. Raises DataError where there is no such thing, or images and clips are mixed.
    """
    if not given:
        return _of_manifest(manifest_to_use(None, out), label_map)
    if len(given) == 1 and given[0].suffix.lower() in _RECIPES:
        return _of_recipe(given[0], out)
    if all(file.suffix.lower() in SUFFIXES.values() for file in given):
        return _of_files(given, out, label_map)
    if len(given) > 1:
        raise DataError(
            f"cannot check {', '.join(map(str, given))} together",
            "Give path files (.csv or .txt), or one manifest, or one recipe.",
        )
    return _of_manifest(manifest_to_use(given[0], out), label_map)


def _of_manifest(manifest: dict[str, Any], wanted: str | None) -> CheckTarget:
    name = manifest["label_map"] or wanted
    own = label_map_from(name) if name else None
    if wanted:
        _require_one_map(Path(manifest["path"]), wanted, manifest)
    listed = [
        _Listed(*_fold_and_kind(key), [(Path(file), own or _map_by_names(Path(file)))])
        for key, file in manifest["files"].items()
    ]
    return _read(manifest["name"], listed, Path(manifest["path"]).parent, manifest=manifest)


def _of_files(files: Sequence[Path], out: Path, wanted: str | None) -> CheckTarget:
    """Path files; where they are all those of one manifest, its name and folder are those of the report."""
    found = {str(file): read_manifest_for(file) for file in files}
    names = {manifest["path"] for manifest in found.values() if manifest}
    shared = next(iter(found.values())) if len(names) == 1 and all(found.values()) else None
    listed = []
    for file in files:
        manifest = found[str(file)]
        if wanted and all(one and one["label_map"] for one in found.values()):
            _require_one_map(file, wanted, manifest)
        name = (manifest["label_map"] if manifest else None) or wanted
        listed.append(
            _Listed(*_fold_and_kind(file.stem), [(file, label_map_from(name) if name else _map_by_names(file))])
        )
    if shared:
        # The report of a part must not take the place of that of the whole.
        is_whole = {str(file.resolve()) for file in files} == {str(Path(f).resolve()) for f in shared["files"].values()}
        name = shared["name"] if is_whole else files[0].stem if len(files) == 1 else f"{shared['name']}_part"
        return _read(name, listed, Path(shared["path"]).parent, manifest=shared)
    bases = {_KIND.sub("", file.stem).strip("_-. ") for file in files}
    name = bases.pop() if len(bases) == 1 else ""
    return _read(name or files[0].resolve().parent.name or "path_files", listed, out)


def _require_one_map(file: Path, wanted: str, manifest: dict[str, Any] | None) -> None:
    require_one_map(file, label_map_from(wanted), "--label-map", manifest, "Leave --label-map out")


def _of_recipe(path: Path, out: Path) -> CheckTarget:
    """The lists of a recipe, with its data root, label map and frames."""
    from ecstfl_cli.recipe_loading import load_recipe

    recipe = load_recipe(path)
    lists = {**recipe.data.entries("train"), **recipe.data.entries("val"), **recipe.data.entries("test")}
    default = recipe.data.label_map or recipe.label_map
    listed = []
    roots: dict[Path, Path] = {}
    for key, entries in lists.items():
        files = [Path(entry.file) for entry in entries]
        names = [entry.label_map or _map_name(Path(entry.file)) or default for entry in entries]
        listed.append(_Listed("", key, list(zip(files, map(label_map_from, names), strict=True))))
        roots |= {Path(e.file): Path(root) for e in entries if (root := e.root or recipe.data.root)}
    sampling = recipe.input.to_spec().sampling
    return _read(path.stem, listed, out, roots=roots, num_frames=sampling.num_frames)


def _map_name(file: Path) -> str | None:
    manifest = read_manifest_for(file)
    return manifest["label_map"] if manifest else None


def _map_by_names(file: Path) -> LabelMap | None:
    """A label map of the class names in a path file, in alphabetical order; None where its labels are indices."""
    labels = {row.label for row in pathfile.read_table(file).fields} - {"", UNKNOWN}
    if not labels or all(map(INDEX.fullmatch, labels)):
        return None
    return LabelMap("class names", tuple(sorted(dict.fromkeys(label.strip().lower() for label in labels))))


def _fold_and_kind(stem: str) -> tuple[str, str]:
    """(`fold1`, `train`) of `dfew_fold1_train`; a name that tells no kind is one by itself."""
    kinds = _KIND.findall(stem)
    fold = _FOLD.search(stem)
    kind = re.sub("validation", "val", kinds[-1].lower()) if kinds else stem
    return (fold[0].lower() if fold and kinds else ""), kind


def _read(
    name: str,
    listed: Iterable[_Listed],
    folder: Path,
    *,
    roots: Mapping[Path, Path] | None = None,
    num_frames: int = FrameSampling().num_frames,
    manifest: dict[str, Any] | None = None,
) -> CheckTarget:
    """Read the path files; those of one fold and kind are one split."""
    joined: dict[tuple[str, str], _Listed] = {}
    for part in listed:
        before = joined.get((part.fold, part.kind), _Listed(part.fold, part.kind, []))
        joined[part.fold, part.kind] = _Listed(part.fold, part.kind, [*before.files, *part.files])
    kinds = {pathfile.modality_of(file) for part in joined.values() for file, _ in part.files}
    if len(kinds) != 1:
        raise DataError("some of the files list images and some clips", "Check one kind at a time.")
    index: dict[str, int] = {}
    splits = [_split(part, roots or {}, index) for part in joined.values()]
    maps = {label_map.names: label_map for part in joined.values() for _, label_map in part.files if label_map}
    only = next(iter(maps.values())) if len(maps) == 1 else None
    splits.sort(key=lambda split: _RANK.get(split.kind.split("_")[0], len(_RANK)))
    return CheckTarget(name, kinds.pop(), only, folder, num_frames, list(index), splits, manifest)


def _split(part: _Listed, roots: Mapping[Path, Path], index: dict[str, int]) -> Split:
    rows: list[Row] = []
    labels: list[str] = []
    subjects: list[str] = []
    lines: list[tuple[Path, int]] = []
    problems: list[Problem] = []
    for file, label_map in part.files:
        found = pathfile.scan(file, root=roots.get(file), label_map=label_map, require_labels=False)
        problems += found.problems
        rows += found.rows
        lines += [(file, row.line) for row in found.rows]
        subjects += _subjects(file, found.rows)
        names = label_map.names if label_map else None
        labels += ["" if row.label is None else names[row.label] if names else str(row.label) for row in found.rows]
    samples = np.array([index.setdefault(row.location, len(index)) for row in rows], dtype=np.int64)
    n_frames = np.array([-1 if row.n_frames is None else row.n_frames for row in rows], dtype=np.int64)
    files = [file for file, _ in part.files]
    return Split(part.fold, part.kind, files, samples, labels, n_frames, subjects, lines, problems)


def _subjects(file: Path, rows: Sequence[Row]) -> list[str]:
    """Whose each row's sample is, "" where the file does not say."""
    extra = read_extra_columns(file)
    if extra.subjects is None:
        return [""] * len(rows)
    at = (extra.row.get(row.path_as_written) for row in rows)
    return ["" if i is None else extra.subjects[i] for i in at]
