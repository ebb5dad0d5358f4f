"""Validation samples of other people than the training samples."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.errors import DataError

# Random orders tried, of which the most even split is taken.
_TRIALS = 20


def subject_split(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples without a common subject, about `fraction` of each class in the latter.

    Subjects of different data sets are different people. Samples without one stay in training. The same seed gives the
    same split on every machine; the order of `samples` is kept. Raises DataError where there are fewer than two
    subjects.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the validation fraction must lie between 0 and 1, not {fraction}")
    subjects = sorted({_subject(sample) for sample in samples if sample.subject})
    if len(subjects) < 2:
        raise DataError(
            f"the training list has {len(subjects)} subject{'s' * (len(subjects) != 1)}: a split needs two or more",
            "Set data.val_split_by: sample, or name validation lists in data.val.",
        )
    number = {subject: i for i, subject in enumerate(subjects)}
    counts = np.zeros((len(subjects), 1 + max(sample.label for sample in samples)))
    for sample in samples:
        if sample.subject and sample.label >= 0:
            counts[number[_subject(sample)], sample.label] += 1
    generator = random.Random(seed)
    trials = [_draw(counts, fraction, generator) for _ in range(_TRIALS)]
    chosen, _ = min(trials, key=lambda trial: trial[1])
    held_out = {subjects[i] for i in chosen}
    train = [sample for sample in samples if _subject(sample) not in held_out]
    return train, [sample for sample in samples if _subject(sample) in held_out]


def _subject(sample: Sample) -> tuple[str, str]:
    return sample.data_set, sample.subject


def _draw(counts: NDArray[np.float64], fraction: float, generator: random.Random) -> tuple[list[int], float]:
    """Subjects for validation, taken in a random order as long as each brings the classes nearer to their fraction.

    The distance is chi-squared: the sum over classes of (held out - wanted)^2 / wanted.
    """
    wanted = fraction * counts.sum(axis=0)
    scale = np.maximum(wanted, 1e-9)

    def distance(held: NDArray[np.float64]) -> float:
        return float(((held - wanted) ** 2 / scale).sum())

    # Sorting by random() and not shuffle(): only the stream of random() stays the same between versions.
    order = sorted(range(len(counts)), key=lambda _: generator.random())
    chosen: list[int] = []
    held = np.zeros_like(wanted)
    for subject in order:
        if len(chosen) < len(order) - 1 and distance(held + counts[subject]) < distance(held):
            chosen.append(subject)
            held = held + counts[subject]
    if not chosen:  # Every subject alone is more than the fraction.
        chosen = [min(order, key=lambda subject: distance(counts[subject]))]
        held = counts[chosen[0]]
    return chosen, distance(held)
