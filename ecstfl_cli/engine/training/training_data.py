"""The samples of a run: read, remapped, checked and split before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecstfl_cli.engine.check.before_training import check_before_training
from ecstfl_cli.engine.data.data_lists import DataList, load_list
from ecstfl_cli.engine.data.loader import Part
from ecstfl_cli.engine.data.samples import (
    Sample,
    class_counts,
    class_shares,
    fingerprint,
    soft_fingerprint,
    stratified_split,
)
from ecstfl_cli.engine.data.subject_split import subject_split
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.teachers import with_teachers
from ecstfl_cli.errors import DataError, listing
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_data import PathFileSection

HARD = "; the others are trained on their label alone"


@dataclass
class TrainingData:
    """Samples by purpose. Each list of `val` is evaluated after every epoch, and the first chooses the best one;
    those of `test` are looked at once, after training. Their names are those of recipe.DataSection.lists. `parts` are
    the data sets in the training list, in its order; `dropped` counts what was left out, by list and class; `origins`
    are what `prepare` noted of the path files of each list.
    """

    train: list[Sample]
    val: dict[str, list[Sample]]
    test: dict[str, list[Sample]]
    class_counts: list[int]
    val_is_test: bool = False
    parts: dict[str, Part] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    origins: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes with any sample, label or split, and with what votes or teachers say of the training samples."""
        held_out = (sample for samples in self.val.values() for sample in samples)
        return fingerprint([*self.train, *held_out]) + soft_fingerprint(self.train)

    def summary(self, labels: LabelMap) -> dict[str, Any]:
        """Counts and fingerprints, kept with the run and its checkpoints."""
        parts = {"train": self.train, **self.val, **self.test}
        found: dict[str, Any] = {
            name: {
                "samples": len(samples),
                "fingerprint": fingerprint(samples),
                "classes": dict(zip(labels.names, class_counts(samples, len(labels)), strict=True)),
            }
            for name, samples in parts.items()
        }
        for name, samples in parts.items():
            if origins := self.origins.get(name):
                found[name]["origin"] = origins
            if name in self.dropped:
                found[name]["dropped"] = self.dropped[name]
            if len(sets := Counter(sample.data_set for sample in samples)) > 1:
                found[name]["data_sets"] = dict(sets)
        if any(part.weight != 1 for part in self.parts.values()):
            found["train"]["weights"] = {name: part.weight for name, part in self.parts.items()}
        if soft := sum(sample.soft_label is not None for sample in self.train):
            found["train"]["soft_labels"] = soft
            found["train"]["soft_labels_fingerprint"] = soft_fingerprint(self.train)
        return found

    def drawn(self) -> list[Sample]:
        """The training list as loader.TrainingOrder counts it: what an epoch may see several times, several times."""
        runs = (list(run) for _, run in groupby(self.train, key=lambda sample: sample.data_set))
        return [s for run, part in zip(runs, self.parts.values(), strict=True) for s in run * part.copies]

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
    entries = {**data.entries("train"), **data.entries("val"), **data.entries("test")}
    lists = {name: [entry.file for entry in listed] for name, listed in entries.items()}
    _require_files([file for files in lists.values() for file in files])
    loaded = _load(recipe, entries, labels, rejects_folder, reporter)
    splits = {name: [s for part in parts for s in part.samples] for name, parts in loaded.items()}
    dropped = {name: _summed(part.dropped for part in parts) for name, parts in loaded.items()}
    origins = {name: [dict(part.origin) for part in parts if part.origin] for name, parts in loaded.items()}
    train = splits.pop("train")
    val = {name: samples for name, samples in splits.items() if name in data.lists("val")}
    test = {name: samples for name, samples in splits.items() if name not in val}
    if data.val_split:
        train, held_out = _split(train, recipe, reporter)
        val = {"val": held_out} if held_out else {}
        origins["val"] = origins["train"]
    val_is_test = not val and bool(test)
    if val_is_test:
        reporter.warn(
            "no validation samples: the best epoch is chosen on the test list, as the reference release does, so its "
            "score is too high. Use --val-split 0.1 to choose on part of the training list."
        )
        val, test = {_as_val(name): samples for name, samples in test.items()}, {}
        dropped = {_as_val(name): counts for name, counts in dropped.items()}
        origins = {_as_val(name): told for name, told in origins.items()}
    if not val:
        reporter.warn("no validation and no test samples: nothing is evaluated, and the last epoch counts as the best")
    num_frames = recipe.input.to_spec().sampling.num_frames if recipe.input.modality == "video" else None
    check_before_training({"train": train, **val, **test}, lists, num_frames, reporter)
    parts = _parts(train, loaded["train"])
    if recipe.train.drop_last:
        _check_size(sum(part.draws for part in parts.values()), recipe.train.batch_size)
    counts = class_counts(train, len(labels))
    absent = [name for name, count in zip(labels.names, counts, strict=True) if not count]
    if absent:
        reporter.warn(f"the training list has no sample of: {', '.join(absent)}")
    if data.soft_labels:
        _tell_soft(train, reporter)
    if data.teachers:
        train, agreed = with_teachers(train, data.teachers, data.teacher_weight, labels)
        reporter.note(f"the teachers' first choice is the label of {100 * agreed:.1f} % of the training samples")
    counts = _seen(train, parts, len(labels))
    kept = {name: counts for name, counts in dropped.items() if counts}
    return TrainingData(train, val, test, counts, val_is_test, parts, kept, origins)


def _as_val(name: str) -> str:
    return f"val{name.removeprefix('test')}" if name.startswith("test") else name


def _load(
    recipe: Recipe,
    entries: Mapping[str, Sequence[PathFileSection]],
    labels: LabelMap,
    rejects_folder: Path,
    reporter: Reporter,
) -> dict[str, list[DataList]]:
    """Every path file of the recipe, by list; the rejects of each go into a file of its own."""
    taken: set[str] = set()

    def rejects(entry: PathFileSection) -> Path:
        stem = Path(entry.file).stem
        names = chain([f"rejects_{stem}.csv"], (f"rejects_{stem}_{n}.csv" for n in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        return rejects_folder / name

    return {
        name: [
            load_list(e, recipe, labels, training=name == "train", rejects=rejects(e), reporter=reporter)
            for e in listed
        ]
        for name, listed in entries.items()
    }


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(c) for c in counts), Counter()))


def _split(train: Sequence[Sample], recipe: Recipe, reporter: Reporter) -> tuple[list[Sample], list[Sample]]:
    fraction = recipe.data.val_split
    if recipe.data.val_split_by == "sample":
        return stratified_split(train, fraction, recipe.seed)
    rest, held_out = subject_split(train, fraction, recipe.seed)
    both = [len({(s.data_set, s.subject) for s in part if s.subject}) for part in (held_out, train)]
    unknown = sum(not sample.subject for sample in train)
    reporter.note(
        f"validation on {both[0]} of {both[1]} subjects, {100 * len(held_out) / len(train):.1f} % of the training list"
        + (f"; {unknown} samples without a subject stay in training" if unknown else "")
    )
    return rest, held_out


def _parts(train: list[Sample], loaded: Sequence[DataList]) -> dict[str, Part]:
    """The runs of the training list by data set, with their weights. Raises DataError where one has two weights."""
    weights: dict[str, float] = {}
    for part in loaded:
        if weights.setdefault(part.data_set, part.weight) != part.weight:
            raise DataError(
                f"two path files of data set {part.data_set!r} have the weights {weights[part.data_set]:g} and "
                f"{part.weight:g}",
                "Give them the same weight in data.train, or each a name of its own.",
            )
    rank = {name: i for i, name in enumerate(weights)}
    train.sort(key=lambda sample: rank[sample.data_set])  # Stable: one run of each data set, in its own order.
    sizes = Counter(sample.data_set for sample in train)
    return {name: Part(sizes[name], weight) for name, weight in weights.items() if sizes[name]}


def _seen(train: Sequence[Sample], parts: Mapping[str, Part], num_classes: int) -> list[int]:
    """Samples of each class that an epoch sees on average; at least one of each that is there."""
    seen = [0.0] * num_classes
    for sample in train:
        seen[sample.label] += parts[sample.data_set].weight
    return [max(1, round(n)) if n else 0 for n in seen]


def soft_targets(samples: Sequence[Sample], num_classes: int) -> Tensor | None:
    """Shares of the classes (N, K) float32: the soft label, or where there is none all for the label; None for none."""
    if not any(sample.soft_label for sample in samples):
        return None
    return torch.from_numpy(class_shares(samples, num_classes)).float()


def _tell_soft(train: Sequence[Sample], reporter: Reporter) -> None:
    """Say how many samples have soft labels. Raises DataError where none has."""
    soft = sum(sample.soft_label is not None for sample in train)
    if not soft:
        raise DataError(
            "data.soft_labels is set, but no training list holds votes",
            "Votes are a column a class in a .csv, or in STEM.extra.csv beside a .txt; `ecstfl prepare` writes them "
            "where the release has them (DFEW, FERPlus). Or set data.soft_labels: false.",
        )
    reporter.note(f"{soft} of {len(train)} training samples have soft labels" + ("" if soft == len(train) else HARD))


def _require_files(files: Sequence[str]) -> None:
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise DataError(
            "path files not found:\n" + listing(missing),
            "Write them with `ecstfl prepare --data-root DIR`, or set data.train, data.val and data.test.",
        )


def _check_size(samples: int, batch_size: int) -> None:
    if samples < batch_size:
        raise DataError(
            f"the training list has {samples} samples, fewer than one batch of {batch_size}: no step could be made",
            f"Use --batch-size {max(1, samples)} or less.",
        )
