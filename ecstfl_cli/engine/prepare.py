"""Data sets to path files: recognise a release and write its lists, or re-root lists that came from elsewhere."""

from __future__ import annotations

import os
import re
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
from ecstfl_cli.labels import LabelMap, label_map_from, remap
from ecstfl_cli.media.frames import frame_names
from ecstfl_cli.pathfile import SUFFIXES, UNKNOWN, Problem, Table

__all__ = ["Prepared", "RerootedFile", "latest_manifest", "prepare_dataset", "read_manifest_for", "reroot_files"]

FALLBACK = "path_files"
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|validation|test)(?:$|[^a-z])", re.IGNORECASE)


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
    plugin_name, plugin = _choose(root, dataset, reporter)
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
        raise DataError(f"cannot use the data root {root}: {error.strerror or error}") from error
    finally:
        if new and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _labelled(
    found: PreparedDataset, wanted: str | None
) -> tuple[tuple[str, LabelMap] | None, dict[str, list[PathRow]]]:
    """The label map, with its registered name, and the splits with labels of that map."""
    splits = {_split_key(key): list(rows) for key, rows in found.splits.items()}
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
            for number, row in enumerate(rows, start=1):
                path = os.path.join(base, row.path)  # noqa: PTH118 (a Path each is slow)
                frames, wrong = _frames(path) if found.modality == "video" else (None, _image_missing(path))
                recounted += bool(not wrong and row.n_frames not in (None, frames))
                if wrong:
                    problems.append(Problem(Path(key), number, path, wrong))
                if not (wrong and skip_bad):
                    checked[key].append(replace(row, path=path, n_frames=frames))
                advance(1)
            if not checked[key]:
                raise pathfile.problems_error(f"no sample of the {key} split is on disk", problems)
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
