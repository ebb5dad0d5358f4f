"""Data sets to path files: recognise a release, read its splits, look them up on disk, write lists and manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.api import DatasetPlugin, PathRow, PreparedDataset
from ecstfl_cli.engine.data import manifest as manifests
from ecstfl_cli.engine.data.manifest import Split
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.preparation.face_crops import FaceCropping
from ecstfl_cli.engine.preparation.plugin_choice import choose
from ecstfl_cli.engine.preparation.prepare_faces import crop_rows
from ecstfl_cli.engine.preparation.prepared import (
    Prepared,
    clean_name,
    split_key,
    write_rejected,
    written_together,
)
from ecstfl_cli.engine.preparation.release_images import write_images
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError, listing
from ecstfl_cli.labels import LabelMap, label_map_from, remap
from ecstfl_cli.media.frames import VIDEO_SUFFIXES, frame_names
from ecstfl_cli.pathfile import SUFFIXES, Problem

_REROOT = "Lists from another machine are re-rooted by `ecstfl prepare --data-root DIR FILES`."


def prepare_dataset(
    root: Path,
    *,
    dataset: str | DatasetPlugin | None = None,
    options: Mapping[str, Any] | None = None,
    label_map: str | None = None,
    name: str | None = None,
    out: Path,
    images: Path | None = None,
    faces: FaceCropping | None = None,
    skip_bad: bool = False,
    reporter: Reporter,
) -> Prepared:
    """Write the path files and the manifest of the data set in `root` to `out`; paths in them are absolute.

    `dataset` names a registered data set, else each is asked whether it recognises `root`; `options` are its keyword
    arguments. `label_map` says whose the indices are where the data set does not; labels of a data set that does are
    joined to it by name. Images of a release that keeps their pixels in a table are written below `images`, or `out`.
    Rows that are not on disk are kept and returned as problems, or with `skip_bad` left out. With `faces` the lists
    name crops of the samples' main faces, in `faces.folder` or `<out>/<name>`, and samples without one are left out.
    Raises DataError where nothing or more than one data set fits, a label is outside the map, or a file of somebody
    else would be overwritten.
    """
    if label_map:
        label_map_from(label_map)  # an unknown name is said before minutes of work
    plugin_name, plugin = _chosen(root, dataset, options or {}, label_map, reporter)
    found = _run(plugin, root, reporter)
    if not any(found.splits.values()):
        raise DataError(f"data set {plugin_name!r} found no samples in {root}")
    named_map, splits = _labelled(found, label_map)
    name = clean_name(name or (f"{found.name}_faces" if faces else found.name))
    files = {key: out / f"{name}_{key}{SUFFIXES[found.modality]}" for key, rows in splits.items() if rows}
    beside = [path for key, file in files.items() if (path := extra_columns.sidecar_of(file, splits[key]))]
    _require_ours((*files.values(), *beside, out / f"{name}.json"))
    if found.images:
        write_images(found.images, images or out, reporter)
    place = _Place(root, found, images or out)
    looked_up = _on_disk({key: splits[key] for key in files}, place, skip_bad or faces is not None, reporter)
    cropped, settings = None, {}
    if faces:
        base = os.path.abspath(root)  # noqa: PTH100 (Path.resolve would replace the user's links)
        cropped = crop_rows(looked_up.rows, found.modality, base, faces.folder or out / name, faces, reporter)
        looked_up = replace(looked_up, rows=cropped.rows, problems=[*looked_up.problems, *cropped.unreadable])
        settings = {**faces.settings(), "faces_root": os.path.abspath(cropped.folder)}  # noqa: PTH100
    manifest = manifests.build(
        name,
        named_map,
        {key: _split(file, looked_up.rows[key]) for key, file in files.items()},
        modality=found.modality,
        input_kind=looked_up.input_kind,
        dataset=plugin_name,
        release=found.name,
        options=dict(options or {}),
        source=found.source,
        data_root=os.path.abspath(root),  # noqa: PTH100 (as above)
        **settings,
    )
    manifest = manifests.check_name(out, manifest)
    classes = named_map[1].names if named_map else ()
    with written_together(out, manifest) as folder:
        for key, file in files.items():
            extra_columns.write(folder / file.name, looked_up.rows[key], found.modality, classes)
        left_out = [*looked_up.problems, *cropped.faceless] if cropped else looked_up.problems if skip_bad else []
        rejects = write_rejected(folder / f"{name}_rejects.csv", left_out)
    return Prepared(
        manifest, out / f"{name}.json", looked_up.problems, [out / file.name for file in rejects], faces=cropped
    )


def _chosen(
    root: Path,
    dataset: str | DatasetPlugin | None,
    options: Mapping[str, Any],
    label_map: str | None,
    reporter: Reporter,
) -> tuple[str | None, DatasetPlugin]:
    """The data set with its registered name, which one that was made elsewhere has not."""
    if dataset is not None and not isinstance(dataset, str):
        return None, dataset
    name, plugin = choose(root, dataset, options, label_map, reporter)
    reporter.note(f"reading data set {name} in {root}")
    return name, plugin


def _require_ours(files: Iterable[Path]) -> None:
    """Raises DataError where one of the files to be written is there and somebody else's."""
    foreign = [file for file in files if not manifests.is_ours(file)]
    if foreign:
        raise DataError(
            "files that `ecstfl prepare` did not write would be overwritten:\n" + listing([str(f) for f in foreign]),
            "Choose another --name or --out, or move them away.",
        )


def _run(plugin: DatasetPlugin, root: Path, reporter: Reporter) -> PreparedDataset:
    """The plugin's splits. A data set that makes its own files may be given a folder that does not exist yet."""
    new = not root.exists()
    try:
        if new:
            root.mkdir(parents=True)
        found = plugin.prepare(root, reporter)
        if not isinstance(found, PreparedDataset):
            raise DataError(
                f"`prepare` of {type(plugin).__name__} returned a {type(found).__name__}, not an api.PreparedDataset",
                "See docs/plugins.md.",
            )
        return found
    except OSError as error:
        raise DataError(f"cannot use the data root {root}: {error}") from error
    finally:
        if new and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _labelled(
    found: PreparedDataset, wanted: str | None
) -> tuple[tuple[str | list[str], LabelMap] | None, dict[str, list[PathRow]]]:
    """The label map, with its registered name or its list of classes, and the splits with labels of that map."""
    rank = {"train": 0, "val": 1, "test": 2}
    order = sorted(found.splits, key=lambda key: rank.get(split_key(key), len(rank)))
    splits = {split_key(key): list(found.splits[key]) for key in order}
    own = found.label_map if found.label_map is None or isinstance(found.label_map, str) else [*found.label_map]
    name = wanted or own
    if name is None:
        return None, splits
    label_map = label_map_from(name)
    own_map = label_map_from(own) if own else label_map
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
    if own_map is not label_map:
        joined = remap(own_map, label_map)
        splits = {key: [_joined(row, joined, len(label_map)) for row in rows] for key, rows in splits.items()}
    return (name, label_map), splits


def _joined(row: PathRow, to: Sequence[int], n_classes: int) -> PathRow:
    label = None if row.label is None else to[row.label]
    if row.soft_label is None:
        return replace(row, label=label)
    votes = [0.0] * n_classes
    for index, vote in zip(to, row.soft_label, strict=True):
        votes[index] += vote
    return replace(row, label=label, soft_label=votes)


def _split(file: Path, rows: Sequence[PathRow]) -> Split:
    return Split(file, [(row.path, row.label) for row in rows], extra_columns.sidecar_of(file, rows))


class _Place:
    """Where the paths of a data set start: its root, or for images that were written the folder they are in."""

    def __init__(self, root: Path, found: PreparedDataset, images: Path) -> None:
        self.modality = found.modality
        self._images = found.images
        self._root = os.path.abspath(root)  # noqa: PTH100 (as above)
        self._images_root = os.path.abspath(images)  # noqa: PTH100

    def path(self, row: PathRow) -> str:
        return os.path.join(self._images_root if row.path in self._images else self._root, row.path)  # noqa: PTH118


@dataclass(frozen=True)
class _LookedUp:
    """Splits with absolute paths and frame counts from disk, and the rows that are not there."""

    rows: dict[str, list[PathRow]]
    problems: list[Problem]
    input_kind: str


def _on_disk(splits: Mapping[str, Sequence[PathRow]], place: _Place, skip_bad: bool, reporter: Reporter) -> _LookedUp:
    checked: dict[str, list[PathRow]] = {}
    problems: list[Problem] = []
    recounted: set[str] = set()
    look = _LookUp(place.modality)
    with reporter.progress("looking up", sum(map(len, splits.values())), KIND[place.modality]) as advance:
        for key, rows in splits.items():
            checked[key] = []
            lost: list[Problem] = []
            for number, row in enumerate(rows, start=1):
                path = place.path(row)
                frames, wrong = look(path)
                if not wrong and frames and row.n_frames not in (None, frames):
                    recounted.add(path)
                if wrong:
                    lost.append(Problem(Path(key), number, path, wrong))
                if not (wrong and skip_bad):
                    checked[key].append(replace(row, path=path, n_frames=frames))
                advance(1)
            if len(lost) == len(rows):
                raise pathfile.problems_error(f"no sample of the {key} split is on disk", lost, _REROOT)
            problems += lost
    if recounted:
        reporter.note(
            f"{len(recounted)} clips have another number of frames than listed; the new lists say what is on disk"
        )
    return _LookedUp(checked, problems, " and ".join(look.kinds) or "nothing")


class _LookUp:
    """(frames, what is wrong) of a path, looked up once: the folds of a data set share their samples.

    Frames are None for an image and 0 for a video file, whose frames are not counted. `kinds` is what was found.
    """

    def __init__(self, modality: str) -> None:
        self.kinds: list[str] = []
        self._look = self._image if modality == "img" else self._clip
        self._known: dict[str, tuple[int | None, str]] = {}

    def __call__(self, path: str) -> tuple[int | None, str]:
        if path not in self._known:
            self._known[path] = self._look(path)
        return self._known[path]

    def _image(self, path: str) -> tuple[int | None, str]:
        if not os.path.isfile(path):  # noqa: PTH113 (a Path each is slow)
            return None, "no such file"
        return self._found(None, "images")

    def _clip(self, path: str) -> tuple[int | None, str]:
        is_video = os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122
        if is_video and os.path.isfile(path):  # noqa: PTH113
            return self._found(0, "video files")
        try:
            frames = len(frame_names(path))
        except FileNotFoundError:
            return 0, "no such file" if is_video else "no such folder"
        except OSError as error:
            return 0, f"cannot be read: {error.strerror}"
        return self._found(frames, "frame folders") if frames else (0, "folder holds no images")

    def _found(self, frames: int | None, kind: str) -> tuple[int | None, str]:
        if kind not in self.kinds:
            self.kinds.append(kind)
        return frames, ""
