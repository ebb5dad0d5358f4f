"""The samples of a run: read, remapped, checked and split before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecstfl_cli.engine.check.before_training import check_before_training
from ecstfl_cli.engine.prepare import read_manifest_for
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.samples import Sample, class_counts, fingerprint, load_samples, stratified_split
from ecstfl_cli.errors import DataError, LabelMapError, listing
from ecstfl_cli.labels import LabelMap, label_map_from, side_by_side
from ecstfl_cli.recipe import Recipe


@dataclass
class TrainingData:
    """Samples by purpose. Each list of `val` is evaluated after every epoch, and the first chooses the best one;
    those of `test` are looked at once, after training. Their names are those of recipe.DataSection.lists.
    """

    train: list[Sample]
    val: dict[str, list[Sample]]
    test: dict[str, list[Sample]]
    class_counts: list[int]
    val_is_test: bool = False

    def fingerprint(self) -> str:
        """Changes with any sample, label or split."""
        return fingerprint([*self.train, *(sample for samples in self.val.values() for sample in samples)])

    def summary(self, labels: LabelMap) -> dict[str, Any]:
        """Counts and fingerprints, kept with the run and its checkpoints."""
        parts = {"train": self.train, **self.val, **self.test}
        return {
            name: {
                "samples": len(samples),
                "fingerprint": fingerprint(samples),
                "classes": dict(zip(labels.names, class_counts(samples, len(labels)), strict=True)),
            }
            for name, samples in parts.items()
        }

    def describe(self) -> str:
        """Samples of each list, in words."""
        parts = {"training": self.train, **self.val, **self.test}
        return ", ".join(f"{len(samples)} {name}" for name, samples in parts.items()) + " samples"


def load_training_data(recipe: Recipe, labels: LabelMap, rejects_folder: Path, reporter: Reporter) -> TrainingData:
    """Read and check every path file of a recipe.

    Raises DataError where a list is missing or wrong, or the training list is shorter than one batch or gives a sample
    two labels. What else would make scores wrong is warned of; see `check_before_training`.
    """
    data = recipe.data
    if not data.train:
        raise DataError(
            "no training list: data.train is empty", "Set data.train in the recipe or pass --list-file-train FILE."
        )
    lists = {"train": data.train, **data.lists("val"), **data.lists("test")}
    _require_files([file for files in lists.values() for file in files])
    splits = {
        name: [s for file in files for s in _load(recipe, file, labels, rejects_folder, reporter)]
        for name, files in lists.items()
    }
    train = splits.pop("train")
    val = {name: samples for name, samples in splits.items() if name in data.lists("val")}
    test = {name: samples for name, samples in splits.items() if name not in val}
    if data.val_split:
        train, held_out = stratified_split(train, data.val_split, recipe.seed)
        val = {"val": held_out} if held_out else {}
    val_is_test = not val and bool(test)
    if val_is_test:
        reporter.warn(
            "no validation samples: the best epoch is chosen on the test list, as the reference release does, so its "
            "score is too high. Use --val-split 0.1 to choose on part of the training list."
        )
        val, test = {f"val{name.removeprefix('test')}": samples for name, samples in test.items()}, {}
    if not val:
        reporter.warn("no validation and no test samples: nothing is evaluated, and the last epoch counts as the best")
    num_frames = recipe.input.to_spec().sampling.num_frames if recipe.input.modality == "video" else None
    check_before_training({"train": train, **val, **test}, lists, num_frames, reporter)
    if recipe.train.drop_last:
        _check_size(len(train), recipe.train.batch_size)
    counts = class_counts(train, len(labels))
    absent = [name for name, count in zip(labels.names, counts, strict=True) if not count]
    if absent:
        reporter.warn(f"the training list has no sample of: {', '.join(absent)}")
    return TrainingData(train, val, test, counts, val_is_test)


def _require_files(files: Sequence[str]) -> None:
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise DataError(
            "path files not found:\n" + listing(missing),
            "Write them with `ecstfl prepare --data-root DIR`, or set data.train, data.val and data.test.",
        )


def _load(recipe: Recipe, file: str, labels: LabelMap, rejects_folder: Path, reporter: Reporter) -> list[Sample]:
    return load_samples(
        [file],
        modality=recipe.input.modality,
        root=Path(recipe.data.root) if recipe.data.root else None,
        label_map=labels,
        file_label_map=_file_label_map(recipe, file),
        require_labels=True,
        skip_bad=recipe.data.skip_bad,
        rejects=rejects_folder / f"rejects_{Path(file).stem}.csv",
        reporter=reporter,
    )


def _file_label_map(recipe: Recipe, file: str) -> LabelMap | None:
    """The map of a path file's indices: the recipe's word, or that of the manifest `prepare` wrote.

    Raises LabelMapError where the two disagree.
    """
    manifest = read_manifest_for(Path(file))
    written = manifest.get("label_map") if manifest else None
    if recipe.data.label_map is None:
        return label_map_from(written) if written else None
    own = label_map_from(recipe.data.label_map)
    if manifest and written and label_map_from(written).names != own.names:
        raise LabelMapError(
            f"whose indices {file} holds is told in two ways: data.label_map of the recipe and {manifest['path']}:\n"
            + side_by_side(own, label_map_from(written)),
            f"Set data.label_map to {written}, or prepare the data again with --label-map {recipe.data.label_map}.",
        )
    return own


def _check_size(samples: int, batch_size: int) -> None:
    if samples < batch_size:
        raise DataError(
            f"the training list has {samples} samples, fewer than one batch of {batch_size}: no step could be made",
            f"Use --batch-size {max(1, samples)} or less.",
        )
