"""Probabilities over time are steadied, face by face."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecstfl_cli.engine.smoothing import Smoothing

A, B = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


def test_a_step_is_followed_with_the_time_constant() -> None:
    smooth = Smoothing(0.5)
    smooth(0, 0.0, A)
    for k in range(1, 51):
        mean = smooth(0, k / 100, B)
    assert mean[1] == pytest.approx(1 - math.exp(-1), abs=1e-6)
    assert mean.sum() == pytest.approx(1)


def test_the_frame_rate_does_not_matter() -> None:
    means = []
    for fps in (10, 30, 100):
        smooth = Smoothing(0.3)
        smooth(0, 0.0, A)
        for k in range(1, fps + 1):
            mean = smooth(0, k / fps, B)
        means.append(mean[1])
    assert means == pytest.approx([means[0]] * 3, abs=1e-6)


def test_faces_are_kept_apart_and_a_long_absence_starts_afresh() -> None:
    smooth = Smoothing(0.3)
    smooth(0, 0.0, A)
    assert smooth(1, 0.01, B).tolist() == [0, 1]
    assert smooth(0, 10.0, B).tolist() == [0, 1]


def test_no_smoothing_changes_nothing() -> None:
    smooth = Smoothing(0)
    smooth(0, 0.0, A)
    assert smooth(0, 0.01, B).tolist() == [0, 1]
