"""The counts of a recognised release beside those published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecstfl_cli.components.datasets.published_counts import published_counts
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.engine.check.labels import check_counts, compare_counts
from ecstfl_cli.engine.check.target import CheckTarget, Split


def target_of(splits: dict[str, dict[str, int]], **manifest: Any) -> CheckTarget:
    """A target whose splits have so many samples of each class."""
    listed = []
    for name, counts in splits.items():
        labels = [label for label, n in counts.items() for _ in range(n)]
        fold, _, kind = name.rpartition("_")
        samples = np.arange(len(labels))
        lines = [(Path("list.csv"), row) for row in range(len(labels))]
        listed.append(Split(fold, kind, [], samples, labels, samples, [""] * len(labels), lines, []))
    return CheckTarget("name", "img", dfew, Path(), 16, [], listed, manifest)


def of_rafdb() -> dict[str, dict[str, int]]:
    found = {split: published_counts("rafdb", split) for split in ("train", "test")}
    return {split: dict(counts.classes) for split, counts in found.items() if counts}


def test_published_counts_are_ok() -> None:
    finding = check_counts(target_of(of_rafdb(), dataset="rafdb", release="rafdb"))
    assert (finding.verdict, finding.summary) == ("ok", "as published: train, test")


def test_a_few_missing_samples_are_noted_and_a_permutation_of_the_classes_is_wrong() -> None:
    splits = of_rafdb()
    splits["train"]["happy"] -= 3
    finding = check_counts(target_of(splits, dataset="rafdb", release="rafdb"))
    assert finding.verdict == "note"
    assert [item["problem"] for item in finding.items] == ["train, happy: 4,769 found, 4,772 published (-3)"]
    splits["test"]["sad"], splits["test"]["fear"] = splits["test"]["fear"], splits["test"]["sad"]
    assert check_counts(target_of(splits, dataset="rafdb", release="rafdb")).verdict == "wrong"


def test_where_folds_are_our_own_all_samples_of_a_fold_count_together() -> None:
    published = published_counts("cremad", "all")
    assert published
    half = {name: n // 2 for name, n in published.classes.items()}
    rest = {name: n - half[name] for name, n in published.classes.items()}
    splits = {"fold1_train": half, "fold1_test": rest, "fold2_train": half, "fold2_test": rest}
    (compared,) = compare_counts(target_of(splits, dataset="cremad", release="cremad"))
    assert (compared.split, compared.difference) == ("all", 0)


@pytest.mark.parametrize("dataset", [None, "path_files", "class_folders", "demo"])
def test_lists_that_only_share_a_name_with_a_release_are_not_compared(dataset: str | None) -> None:
    target = target_of({"train": {"happy": 1}}, dataset=dataset, release="demo" if dataset == "demo" else "fer2013")
    assert check_counts(target).verdict == "skipped"
