"""WAR, UAR, precision, recall and F1 against scikit-learn, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from ecstfl_cli.components.metrics import confusion_matrix, evaluate


def test_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    target = generator.integers(0, 7, 500)
    predicted = np.where(generator.random(500) < 0.5, target, generator.integers(0, 7, 500))
    ours = evaluate(confusion_matrix(target, predicted, 7))
    assert ours.war == pytest.approx(100 * sk.accuracy_score(target, predicted))
    assert ours.uar == pytest.approx(100 * sk.balanced_accuracy_score(target, predicted))
    assert ours.macro_f1 == pytest.approx(100 * sk.f1_score(target, predicted, average="macro"))
    assert ours.recall == pytest.approx(list(100 * sk.recall_score(target, predicted, average=None)))
    assert ours.precision == pytest.approx(list(100 * sk.precision_score(target, predicted, average=None)))
    assert ours.confusion == sk.confusion_matrix(target, predicted).tolist()


def test_a_class_without_samples_does_not_enter_uar() -> None:
    ours = evaluate(confusion_matrix([0, 0, 1, 1], [0, 0, 1, 2], 4))
    assert ours.war == 75.0
    assert ours.uar == 75.0
    assert ours.recall == [100.0, 50.0, None, None]
    assert ours.precision == [100.0, 100.0, 0.0, None]


def test_the_classes_do_not_depend_on_what_was_predicted() -> None:
    ours = evaluate(confusion_matrix([0, 1, 2], [0, 0, 0], 3))
    assert ours.uar == pytest.approx(100 / 3)
    assert ours.f1 == [50.0, 0.0, 0.0]


def test_samples_without_a_label_are_left_out() -> None:
    assert confusion_matrix([-1, 0, 1], [1, 0, 1], 2).tolist() == [[1, 0], [0, 1]]


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(ValueError, match="known label"):
        evaluate(confusion_matrix([-1], [0], 2))


def test_per_class_values_carry_their_names() -> None:
    values = evaluate(confusion_matrix([0, 1], [0, 0], 2)).to_dict(["happy", "sad"])
    assert values["per_class"]["sad"] == {"samples": 1, "recall": 0.0, "precision": 0.0, "f1": 0.0}
    assert values["samples"] == 2
