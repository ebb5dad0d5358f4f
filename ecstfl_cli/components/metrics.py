"""WAR, UAR and their relatives from a confusion matrix; percentages, as the field prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(target: Any, predicted: Any, num_classes: int) -> NDArray[np.int64]:
    """(K, K) counts, rows true classes, columns predictions. Samples with target -1 are left out."""
    target, predicted = np.asarray(target, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    known = target >= 0
    cells = target[known] * num_classes + predicted[known]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Metrics:
    """All percentages. UAR and macro F1 average over the classes that the data has samples of.

    `war` is accuracy, which equals the recall weighted by class size. Per-class values are None where undefined:
    recall and F1 of a class without samples.
    """

    war: float
    uar: float
    macro_f1: float
    support: list[int]
    recall: list[float | None]
    precision: list[float | None]
    f1: list[float | None]
    confusion: list[list[int]]

    def to_dict(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Plain containers, for metrics.json; per-class values under the class's name."""
        per_class = {
            name: {
                "samples": self.support[i],
                "recall": self.recall[i],
                "precision": self.precision[i],
                "f1": self.f1[i],
            }
            for i, name in enumerate(label_names)
        }
        return {
            "war": self.war,
            "uar": self.uar,
            "macro_f1": self.macro_f1,
            "samples": sum(self.support),
            "per_class": per_class,
            "confusion": self.confusion,
            "labels": list(label_names),
        }


def evaluate(confusion: NDArray[np.int64]) -> Metrics:
    """Metrics of a (K, K) confusion matrix. Raises ValueError where it is empty."""
    support, chosen, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    if not support.sum():
        raise ValueError("no sample with a known label to evaluate on")
    present = support > 0
    recall = 100 * hits / np.maximum(support, 1)
    precision = 100 * hits / np.maximum(chosen, 1)
    f1 = 200 * hits / np.maximum(support + chosen, 1)

    def listed(values: NDArray[np.float64], defined: NDArray[np.bool_]) -> list[float | None]:
        return [float(v) if d else None for v, d in zip(values, defined, strict=True)]

    return Metrics(
        war=float(100 * hits.sum() / support.sum()),
        uar=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        support=[int(n) for n in support],
        recall=listed(recall, present),
        precision=listed(precision, present | (chosen > 0)),
        f1=listed(f1, present),
        confusion=confusion.tolist(),
    )
