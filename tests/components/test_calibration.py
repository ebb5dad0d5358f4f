"""Calibration: the error of probabilities, and the temperature that mends them."""

from __future__ import annotations

import numpy as np
import pytest

from ecstfl_cli.components.calibration import (
    cross_fitted,
    fit_bias,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    with_bias,
    with_temperature,
)


def drawn(n: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are true: each target is drawn from its own row."""
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.full(classes, 0.5), n)
    return probs, np.array([generator.choice(classes, p=row) for row in probs])


def test_true_probabilities_have_little_error_and_temperature_one() -> None:
    probs, target = drawn(20_000)
    assert reliability(probs, target).error < 0.01
    assert fit_temperature(probs, target) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_found_and_undone(temperature: float) -> None:
    probs, target = drawn(20_000)
    spoilt = with_temperature(probs, 1 / temperature)
    assert reliability(spoilt, target).error > 0.05
    assert fit_temperature(spoilt, target) == pytest.approx(temperature, rel=0.05)
    mended = cross_fitted(spoilt, target)
    assert reliability(mended, target).error < 0.015
    assert negative_log_likelihood(mended, target) < negative_log_likelihood(spoilt, target)
    assert (mended.argmax(axis=1) == spoilt.argmax(axis=1)).all()


def test_the_error_of_a_small_example_by_hand() -> None:
    # Two samples at 0.9, one right; two at 0.6, both right: (2 * |0.9 - 0.5| + 2 * |0.6 - 1|) / 4.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = reliability(probs, np.array([0, 1, 0, 0]))
    assert found.error == pytest.approx(0.4)
    assert sorted(found.samples[found.samples > 0].tolist()) == [2, 2]


def test_half_of_the_samples_never_fits_its_own_temperature() -> None:
    probs, target = drawn(400)
    order = np.random.default_rng(0).permutation(400)
    own, other = order[::2], order[1::2]
    expected = with_temperature(probs[own], fit_temperature(probs[other], target[other]))
    assert cross_fitted(probs, target)[own] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_bias_that_spoilt_probabilities_is_found_whatever_the_temperature(temperature: float) -> None:
    probs, target = drawn(20_000)
    bias = np.array([0.8, -0.5, 0.3, -0.4, -0.2])
    spoilt = with_temperature(with_bias(probs, -bias), 1 / temperature)
    found = fit_bias(spoilt, target)
    assert found == pytest.approx(bias * temperature, abs=0.05 * temperature)
    mended = with_bias(spoilt, found)
    right = [(p.argmax(axis=1) == target).mean() for p in (spoilt, mended, probs)]
    assert right[0] < right[1] == pytest.approx(right[2], abs=0.005)


def test_true_probabilities_need_no_bias_and_a_class_without_samples_gets_none() -> None:
    probs, target = drawn(20_000)
    assert fit_bias(probs, target) == pytest.approx(0, abs=0.05)
    without = target != 3
    found = fit_bias(probs[without], target[without])
    assert found[3] == 0
    assert np.isfinite(found).all()


def test_probabilities_that_are_upside_down_have_no_bias() -> None:
    probs, target = drawn(2000)
    with pytest.raises(ValueError, match="the rarer it is"):
        fit_bias(with_temperature(probs, -1.0), target)


def test_nothing_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="no samples"):
        fit_bias(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    with pytest.raises(ValueError, match="no samples"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))
