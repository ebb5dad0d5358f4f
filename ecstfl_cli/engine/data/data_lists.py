"""One path file of a recipe as samples: its labels joined to the model's by name, with subjects and soft labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecstfl_cli import pathfile
from ecstfl_cli.engine.data.label_joining import join_for, joined_samples, require_one_map
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.data.samples import Sample, load_samples
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError
from ecstfl_cli.extra_columns import ExtraColumns, read_extra_columns
from ecstfl_cli.labels import Join, LabelMap, label_map_from
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_data import PathFileSection

_KINDS = ("train", "val", "validation", "test")


@dataclass(frozen=True)
class DataList:
    """One path file read. `dropped` counts samples by class that were left out, because the model has no such class."""

    samples: list[Sample]
    data_set: str
    weight: float
    dropped: Mapping[str, int]
    origin: Mapping[str, str]


def load_list(
    entry: PathFileSection, recipe: Recipe, labels: LabelMap, *, training: bool, rejects: Path, reporter: Reporter
) -> DataList:
    """Read a path file of a recipe and check its samples on disk; labels are indices of `labels`, the model's.

    Subjects and soft labels are read for training where the recipe uses them. Raises DataError where the file or its
    samples are wrong, or it has no subjects to split by; LabelMapError where it is not told in one way whose labels it
    holds, or they cannot be joined to the model's.
    """
    data, file = recipe.data, Path(entry.file)
    manifest = read_manifest_for(file)
    told = _own_map(entry, recipe, manifest)
    own = told or labels
    if told is None and pathfile.has_indices(file):
        reporter.note(
            f"{file} does not say whose its indices are; they are taken to be in the model's order: "
            f"{labels.describe()}. Another order is set with data.label_map."
        )
    joined = join_for(own, labels, data.drop_classes)
    listed, takes = pathfile.modality_of(file), recipe.input.modality
    root = entry.root or data.root
    samples = load_samples(
        [file],
        modality=listed if data.any_modality else takes,
        root=Path(root) if root else None,
        label_map=own,
        require_labels=True,
        skip_bad=data.skip_bad,
        rejects=rejects,
        counts=file.parent if manifest else None,
        reporter=reporter,
    )
    name = entry.name or (manifest["name"] if manifest else _name_of(file))
    samples = [replace(s, data_set=name, modality=None if listed == takes else listed) for s in samples]
    if training and (data.soft_labels or data.val_split_by == "subject"):
        extra = read_extra_columns(file, own if data.soft_labels else None, skip_bad=data.skip_bad)
        samples = _with_extra(samples, extra, joined)
        if data.val_split_by == "subject" and not any(sample.subject for sample in samples):
            raise DataError(
                f"{file} names no subjects, so that no validation split can keep them apart",
                "Subjects are the column `subject` of a .csv, or of STEM.extra.csv beside a .txt; `ecstfl prepare` "
                "writes it where the release names them. Or set data.val_split_by: sample.",
            )
    samples, dropped = joined_samples(samples, joined, str(file), reporter)
    return DataList(samples, name, entry.weight, dropped, _origin(manifest))


def _origin(manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """What `prepare` noted of where a list is from; not the folder that it was in, which is this machine's."""
    told = {key: (manifest or {}).get(key) for key in ("name", "release", "dataset", "source", "input_kind")}
    return {key: value for key, value in told.items() if value and not Path(value).is_absolute()}


def _own_map(entry: PathFileSection, recipe: Recipe, manifest: Mapping[str, Any] | None) -> LabelMap | None:
    """The map of a path file's indices: the recipe's word, or that of the manifest `prepare` wrote.

    Raises LabelMapError where the two disagree.
    """
    said, key = entry.label_map or recipe.data.label_map, "label_map of its entry" if entry.label_map else "label_map"
    written = manifest.get("label_map") if manifest else None
    if said is None:
        return label_map_from(written) if written else None
    by, way_out = f"data.{key} of the recipe", f"Set it to {written}"
    return require_one_map(Path(entry.file), label_map_from(said), by, manifest, way_out)


def _name_of(file: Path) -> str:
    """What a path file without a manifest goes by: its stem, or its folder where the stem tells the split only."""
    return file.resolve().parent.name if file.stem.lower() in _KINDS else file.stem


def _with_extra(samples: Sequence[Sample], extra: ExtraColumns, joined: Join) -> list[Sample]:
    """Samples with the subjects and soft labels that the file has; the latter over the classes of the join's target."""
    rows = [extra.row.get(sample.clip_id) for sample in samples]
    found = list(samples)
    if extra.subjects is not None:
        found = [s if i is None else replace(s, subject=extra.subjects[i]) for s, i in zip(found, rows, strict=True)]
    if extra.soft_labels is not None:
        shares = _shares(extra.soft_labels, joined)
        found = [s if i is None else replace(s, soft_label=shares[i]) for s, i in zip(found, rows, strict=True)]
    return found


def _shares(soft_labels: np.ndarray, joined: Join) -> list[tuple[float, ...] | None]:
    """Rows (N, K_source) over the target's classes, as sums to 1; None where no class of the target has a vote."""
    votes = np.nan_to_num(soft_labels.astype(np.float64)) @ joined.matrix()
    total = votes.sum(axis=1)
    return [tuple((row / n).tolist()) if n > 0 else None for row, n in zip(votes, total, strict=True)]
