"""Splits by subject: nobody in both parts, classes as even as the subjects allow, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecstfl_cli.engine.data.samples import Sample, class_counts
from ecstfl_cli.engine.data.subject_split import subject_split
from ecstfl_cli.errors import DataError


def people(n: int, seed: int = 0) -> list[Sample]:
    """Samples of n subjects, 5 to 30 of each, of four classes that each subject shows to a different degree."""
    generator = np.random.default_rng(seed)
    found = []
    for person in range(n):
        shares = generator.dirichlet([2, 1, 1, 0.3])
        labels = generator.choice(4, size=generator.integers(5, 30), p=shares)
        found += [Sample(Path("x"), int(c), f"{person}_{i}", subject=f"S{person}") for i, c in enumerate(labels)]
    return found


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_nobody_is_in_both_parts_and_every_class_has_its_fraction(fraction: float) -> None:
    samples = people(60)
    train, val = subject_split(samples, fraction, seed=1)
    assert not {s.subject for s in train} & {s.subject for s in val}
    assert sorted([*train, *val], key=samples.index) == samples
    whole, held = np.array(class_counts(samples, 4)), np.array(class_counts(val, 4))
    assert np.abs(held / whole - fraction).max() < 0.05


def test_the_split_depends_on_the_seed_alone() -> None:
    samples = people(30)
    first = subject_split(samples, 0.2, 0)
    assert subject_split(list(samples), 0.2, 0) == first
    assert subject_split(samples, 0.2, 1) != first


def test_subjects_of_the_same_name_in_two_data_sets_are_two_people() -> None:
    samples = [Sample(Path("x"), 0, f"{d}{i}", data_set=d, subject="S1") for d in "ab" for i in range(4)]
    train, val = subject_split(samples, 0.5, 0)
    assert {len({s.data_set for s in part}) for part in (train, val)} == {1}


def test_samples_without_a_subject_stay_in_training() -> None:
    known = people(10)
    unknown = [Sample(Path("x"), 0, f"u{i}") for i in range(20)]
    _, val = subject_split([*known, *unknown], 0.3, 0)
    assert val
    assert all(sample.subject for sample in val)


def test_one_part_is_never_empty() -> None:
    two = [Sample(Path("x"), 0, f"{s}{i}", subject=s) for s in "ab" for i in range(5)]
    for fraction in (0.01, 0.99):
        assert [len(part) for part in subject_split(two, fraction, 0)] == [5, 5]
    with pytest.raises(DataError, match="has 1 subject:"):
        subject_split(two[:5], 0.5, 0)
