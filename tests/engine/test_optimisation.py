"""Learning rates by step, and what weight decay falls on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from torch import nn

from ecstfl_cli.engine.optimisation import build_optimizer, learning_rate
from ecstfl_cli.recipe import OptimizerSection, ScheduleSection


def test_step_multiplies_every_step_size_epochs_as_the_reference() -> None:
    schedule = ScheduleSection(name="step", step_size=50, factor=0.1)
    rates = [learning_rate(schedule, 0.01, epoch * 292, 292, 200) for epoch in (0, 49, 50, 99, 100, 150)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5])


def test_cosine_warms_up_and_falls_to_its_minimum() -> None:
    schedule = ScheduleSection(name="cosine", warmup_epochs=2, min_lr=1e-5)
    rates = [learning_rate(schedule, 1e-2, step, 10, 20) for step in range(200)]
    assert rates[0] == pytest.approx(1e-2 / 20)
    assert rates[19] == pytest.approx(1e-2)
    assert rates[110] == pytest.approx((1e-2 + 1e-5) / 2)
    assert rates[199] < 1.2e-5
    assert all(a >= b for a, b in pairwise(rates[20:]))


def test_adamw_spares_biases_and_norms_and_sgd_decays_all() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    adamw = build_optimizer(OptimizerSection(name="adamw", lr=1e-3, weight_decay=0.05), network)
    assert [(len(g["params"]), g["weight_decay"]) for g in adamw.param_groups] == [(1, 0.05), (3, 0.0)]
    sgd = build_optimizer(OptimizerSection(weight_decay=1e-4), network)
    assert [(len(g["params"]), g["weight_decay"], g["momentum"]) for g in sgd.param_groups] == [(4, 1e-4, 0.9)]
