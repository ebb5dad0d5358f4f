"""Data sets to path files: recognise a release and write its lists, or re-root lists that came from elsewhere."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecstfl_cli import pathfile, registry
from ecstfl_cli.api import DatasetPlugin, PathRow, PreparedDataset
from ecstfl_cli.components.datasets.path_files import map_with
from ecstfl_cli.engine import manifest as manifests
from ecstfl_cli.engine.manifest import Split, latest_manifest, read_manifest_for
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.reroot import RerootResult, reroot
from ecstfl_cli.engine.samples import KIND, write_rejects
from ecstfl_cli.errors import DataError, EcstflError, listing
from ecstfl_cli.labels import INDEX, LabelMap, label_map_from, remap
from ecstfl_cli.media.frames import frame_names
from ecstfl_cli.pathfile import SUFFIXES, UNKNOWN, Problem
from ecstfl_cli.resources import shipped

__all__ = [
    "DEFAULT_OUT",
    "Prepared",
    "RerootedFile",
    "latest_manifest",
    "next_command",
    "prepare_dataset",
    "read_manifest_for",
    "reroot_files",
]

FALLBACK = "path_files"
DEFAULT_OUT = Path("annotation")
_REROOT = "Lists from another machine are re-rooted by `ecstfl prepare --data-root DIR FILES`."
_SPLIT = re.compile(r"(?<![a-z])(train|val|validation|test)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class RerootedFile:
    """A path file re-rooted and where the new one was written."""

    result: RerootResult
    written_to: Path


@dataclass(frozen=True)
class Prepared:
    """What was written: the manifest with its path, and the rows that are not where they should be."""

    manifest: dict[str, Any]
    path: Path
    problems: list[Problem]
    rejects: list[Path]
    rerooted: Sequence[RerootedFile] = ()


def prepare_dataset(
    root: Path,
    *,
    dataset: str | None = None,
    label_map: str | None = None,
    name: str | None = None,
    out: Path,
    skip_bad: bool = False,
    reporter: Reporter,
) -> Prepared:
    """Write the path files and the manifest of the data set in `root` to `out`; paths in them are absolute.

    `dataset` names a registered data set, else each is asked whether it recognises `root`. `label_map` says whose the
    indices are where the data set does not; labels of a data set that does are joined to it by name. Rows that are not
    on disk are kept and returned as problems, or with `skip_bad` left out. Raises DataError where nothing or more than
    one data set fits, a label is outside the map, or a file of somebody else would be overwritten.
    """
    if label_map:
        label_map_from(label_map)  # an unknown name is said before minutes of work
    plugin_name, plugin = _choose(root, dataset, reporter)
    reporter.note(f"reading data set {plugin_name} in {root}")
    found = _run(plugin, root)
    if not any(found.splits.values()):
        raise DataError(f"data set {plugin_name!r} found no samples in {root}")
    named_map, splits = _labelled(found, label_map)
    name = _clean(name or found.name)
    files = {key: out / f"{name}_{key}{SUFFIXES[found.modality]}" for key, rows in splits.items() if rows}
    foreign = [file for file in files.values() if not manifests.is_ours(file)]
    if foreign:
        raise DataError(
            "files that `ecstfl prepare` did not write would be overwritten:\n" + listing([str(f) for f in foreign]),
            "Choose another --name or --out, or move them away.",
        )
    rows, problems = _on_disk({key: splits[key] for key in files}, found, root, skip_bad, reporter)
    manifest = manifests.build(
        name,
        named_map,
        {key: Split(file, [(row.path, row.label) for row in rows[key]]) for key, file in files.items()},
        modality=found.modality,
        dataset=plugin_name,
        source=found.source,
        data_root=os.path.abspath(root),  # noqa: PTH100 (Path.resolve would replace the user's links)
    )
    manifest = manifests.check_name(out, manifest)
    for key, file in files.items():
        pathfile.write(file, rows[key], found.modality)
    rejects = _write_rejects(out / f"{name}_rejects.csv", problems) if skip_bad else []
    return Prepared(manifest, manifests.write(out, manifest), problems, rejects)


def _choose(root: Path, wanted: str | None, reporter: Reporter) -> tuple[str, DatasetPlugin]:
    if wanted:
        return wanted, _instance(wanted)
    if not root.is_dir():
        raise DataError(
            f"the data root {root} is not a folder", "Give the folder that holds the data set, or --dataset NAME."
        )
    asked = [name for name in registry.index("datasets") if name != FALLBACK]
    fits: dict[str, DatasetPlugin] = {}
    for name in [*asked, FALLBACK]:
        if name == FALLBACK and fits:
            break
        try:
            plugin = _instance(name)
            if plugin.recognise(root):
                fits[name] = plugin
        except Exception as error:  # one broken plugin must not keep the others from being asked
            reason = error.message if isinstance(error, EcstflError) else f"{type(error).__name__}: {error}"
            reporter.warn(f"data set {name!r} was not asked: {reason}")
    if len(fits) == 1:
        return next(iter(fits.items()))
    if fits:
        raise DataError(f"{root} fits several data sets: {', '.join(fits)}", "Choose one with --dataset NAME.")
    raise DataError(
        f"no data set is recognised in {root}; asked: {', '.join([*asked, FALLBACK])}",
        "It may also hold its own path files, train, val and test, .csv or .txt; or give path files from elsewhere: "
        "`ecstfl prepare --data-root DIR FILES`. --dataset NAME asks one data set what it misses.",
    )


def _instance(name: str) -> DatasetPlugin:
    target = registry.load("datasets", name)
    return target() if isinstance(target, type) else target


def _run(plugin: DatasetPlugin, root: Path) -> PreparedDataset:
    """The plugin's splits. A data set that makes its own files may be given a folder that does not exist yet."""
    new = not root.exists()
    try:
        if new:
            root.mkdir(parents=True)
        return plugin.prepare(root)
    except OSError as error:
        raise DataError(f"cannot use the data root {root}: {error}") from error
    finally:
        if new and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _labelled(
    found: PreparedDataset, wanted: str | None
) -> tuple[tuple[str, LabelMap] | None, dict[str, list[PathRow]]]:
    """The label map, with its registered name, and the splits with labels of that map."""
    rank = {"train": 0, "val": 1, "test": 2}
    order = sorted(found.splits, key=lambda key: rank.get(_split_key(key), len(rank)))
    splits = {_split_key(key): list(found.splits[key]) for key in order}
    name = wanted or found.label_map
    if name is None:
        return None, splits
    label_map = label_map_from(name)
    own_map = label_map_from(found.label_map) if found.label_map else label_map
    strange = [
        f"{key}: {row.path}: label {row.label}"
        for key, rows in splits.items()
        for row in rows
        if row.label is not None and not 0 <= row.label < len(own_map)
    ]
    if strange:
        raise DataError(
            f"{len(strange)} labels are outside label map {own_map.name!r}:\n{listing(strange)}",
            f"Its classes: {own_map.describe()}. Choose another with --label-map.",
        )
    joined = remap(own_map, label_map)
    for key, rows in splits.items():
        splits[key] = [row if row.label is None else replace(row, label=joined[row.label]) for row in rows]
    return (name, label_map), splits


def _split_key(key: str) -> str:
    return re.sub(r"validation$", "val", key.lower())


def _clean(name: str) -> str:
    cleaned = re.sub(r"[^\w.-]+", "_", name).strip("._-")
    if not cleaned:
        raise DataError(f"{name!r} cannot name a data set", "Use letters, digits, _, . and - in --name.")
    return cleaned


def _on_disk(
    splits: Mapping[str, Sequence[PathRow]], found: PreparedDataset, root: Path, skip_bad: bool, reporter: Reporter
) -> tuple[dict[str, list[PathRow]], list[Problem]]:
    """Splits with absolute paths and frame counts from disk, and the rows that are not there."""
    base = os.path.abspath(root)  # noqa: PTH100 (as above)
    checked: dict[str, list[PathRow]] = {}
    problems: list[Problem] = []
    recounted = 0
    total = sum(map(len, splits.values()))
    with reporter.progress("looking up", total, KIND[found.modality]) as advance:
        for key, rows in splits.items():
            checked[key] = []
            lost: list[Problem] = []
            for number, row in enumerate(rows, start=1):
                path = os.path.join(base, row.path)  # noqa: PTH118 (a Path each is slow)
                frames, wrong = _frames(path) if found.modality == "video" else (None, _image_missing(path))
                recounted += bool(not wrong and row.n_frames not in (None, frames))
                if wrong:
                    lost.append(Problem(Path(key), number, path, wrong))
                if not (wrong and skip_bad):
                    checked[key].append(replace(row, path=path, n_frames=frames))
                advance(1)
            if len(lost) == len(rows):
                raise pathfile.problems_error(f"no sample of the {key} split is on disk", lost, _REROOT)
            problems += lost
    if recounted:
        reporter.note(f"{recounted} clips have another number of frames than listed; the new lists say what is on disk")
    return checked, problems


def _frames(folder: str) -> tuple[int, str]:
    try:
        frames = len(frame_names(folder))
    except OSError as error:
        return 0, "no such folder" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    return frames, "" if frames else "folder holds no images"


def _image_missing(path: str) -> str:
    return "" if os.path.isfile(path) else "no such file"  # noqa: PTH113 (as above)


def _write_rejects(path: Path, problems: Sequence[Problem]) -> list[Path]:
    if not problems:
        return []
    write_rejects(path, problems)
    return [path]


def reroot_files(
    files: Sequence[Path],
    root: Path,
    *,
    label_map: str | None = None,
    name: str | None = None,
    out: Path,
    skip_bad: bool = False,
    reporter: Reporter,
) -> Prepared:
    """Re-root path files to `root` and write them to `out` under their own names, with a manifest; see `reroot`.

    Rows that do not resolve are kept as they were and returned as problems, or with `skip_bad` left out. The files
    themselves, and any other that `prepare` did not write, are never overwritten: the new one is then called
    `<stem>_rerooted`. Without `label_map` that of the file's manifest counts. Raises DataError for files of both
    kinds, of one name, or with labels outside the map; nothing is written then.
    """
    named_map = _map_of(files, label_map)
    results = [reroot(file, root, named_map[1] if named_map else None) for file in files]
    modality = results[0].table.modality
    if any(result.table.modality != modality for result in results):
        raise DataError("some of the files list images and some clips", "Re-root one kind at a time.")
    targets = _targets(files, out)
    splits: dict[str, Split] = {}
    for result, target in zip(results, targets, strict=True):
        key = _split_of(target.stem)
        splits[target.stem if key in splits else key] = Split(target, _new_rows(result, named_map, skip_bad))
    manifest = manifests.build(
        _clean(name or _common_name(files) or root.resolve().name),
        named_map,
        splits,
        modality=modality,
        dataset=None,
        source=", ".join(map(str, files)),
        data_root=os.path.abspath(root),  # noqa: PTH100 (as above)
    )
    manifest = manifests.check_name(out, manifest)
    rejects: list[Path] = []
    for result, target in zip(results, targets, strict=True):
        if result.recounted:
            reporter.note(f"{target}: {result.recounted} frame counts corrected to what is on disk")
        pathfile.write_atomically(target, result.text(keep_unresolved=not skip_bad))
        if skip_bad:
            rejects += _write_rejects(target.with_name(f"{target.stem}_rejects.csv"), result.problems())
    written = [RerootedFile(result, target) for result, target in zip(results, targets, strict=True)]
    problems = [problem for result in results for problem in result.problems()]
    return Prepared(manifest, manifests.write(out, manifest), problems, rejects, written)


def _map_of(files: Sequence[Path], wanted: str | None) -> tuple[str, LabelMap] | None:
    """The label map of path files: as asked for, else by their manifests, else one that has their class names."""
    tables = [pathfile.read_table(file) for file in files]
    known = {found["label_map"] for file in files if (found := read_manifest_for(file))}
    labels = {field.label for table in tables for field in table.fields} - {"", UNKNOWN}
    by_name = map_with(labels) if labels and not any(map(INDEX.fullmatch, labels)) else None
    name = wanted or (known.pop() if len(known) == 1 else None) or by_name
    if name is None:
        return None
    label_map = label_map_from(name)
    strange: list[Problem] = []
    for table in tables:
        read = pathfile.scan(table.path, root=None, label_map=label_map, require_labels=False)
        strange += [problem for problem in read.problems if problem not in table.problems]
    if strange:
        raise pathfile.problems_error(f"{len(strange)} labels are outside label map {name!r}", strange)
    return name, label_map


def _targets(files: Sequence[Path], out: Path) -> list[Path]:
    """Where each re-rooted file is written: its own name in `out`, unless that is a file to be kept."""
    names = Counter(file.name for file in files)
    twice = sorted(name for name, n in names.items() if n > 1)
    if twice:
        raise DataError(
            f"several files are called {', '.join(twice)}", "Re-root them one by one, each with its own --out."
        )
    inputs = {file.resolve() for file in files}
    targets = []
    for file in files:
        target = out / file.name
        if target.resolve() in inputs or not manifests.is_ours(target):
            target = out / f"{file.stem}_rerooted{file.suffix}"
        if target.resolve() in inputs or not manifests.is_ours(target):
            raise DataError(f"{target} would be overwritten", "Choose another --out, or move it away.")
        targets.append(target)
    return targets


def _common_name(files: Sequence[Path]) -> str:
    """What the files' names share besides their splits: `Videos` of Videos_train and Videos_test."""
    bases = {_SPLIT.sub("", file.stem).strip("_-. ") for file in files}
    return bases.pop() if len(bases) == 1 else ""


def _split_of(stem: str) -> str:
    found = _SPLIT.findall(stem)
    return _split_key(found[-1]) if found else stem


def _new_rows(
    result: RerootResult, named_map: tuple[str, LabelMap] | None, skip_bad: bool
) -> list[tuple[str, int | str | None]]:
    if not result.resolved:
        raise pathfile.problems_error(
            f"none of the {result.total} rows of {result.table.path} is found under the data root",
            result.problems(),
            "Give the folder that holds the images or clips, or one up to two levels above it.",
        )
    rows = [row for row in result.rows if row.hit or not skip_bad]
    return [(row.hit.path if row.hit else row.field.path, _label(row.field.label, named_map)) for row in rows]


def _label(text: str, named_map: tuple[str, LabelMap] | None) -> int | str | None:
    if text in ("", UNKNOWN):
        return None
    if named_map:
        return named_map[1].parse(text)
    return int(text) if INDEX.fullmatch(text) else text


def next_command(prepared: Prepared) -> str:
    """The command that uses what was written: a shipped recipe of the same name, else the plain flags."""
    files = {key: Path(file) for key, file in prepared.manifest["files"].items()}
    folder = prepared.path.parent
    name = prepared.manifest["name"]
    if folder == DEFAULT_OUT and "train" in files and (shipped("recipes") / f"{name}.yaml").is_file():
        return f"ecstfl finetune recipes/{name}.yaml"
    if "train" not in files:
        return f"ecstfl infer {shlex.quote(str(folder / next(iter(files.values()))))}"
    flags = ["--type", prepared.manifest["modality"], "--list-file-train", str(folder / files["train"])]
    held_out = next((files[key] for key in ("val", "test") if key in files), None)
    flags += ["--list-file-val", str(folder / held_out)] if held_out else ["--val-split", "0.1"]
    return shlex.join(["ecstfl", "finetune", *flags])
