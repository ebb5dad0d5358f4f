"""Optimisers and learning-rate schedules. A schedule is a function of the step: resuming has no hidden counter."""

from __future__ import annotations

import math

import torch
from torch import nn

from ecstfl_cli.recipe import OptimizerSection, ScheduleSection


def build_optimizer(section: OptimizerSection, *modules: nn.Module) -> torch.optim.Optimizer:
    """SGD with the same decay on every parameter, as the reference; AdamW without decay on biases and norms."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if section.name == "sgd":
        return torch.optim.SGD(parameters, lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=section.lr)


def learning_rate(section: ScheduleSection, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of step `step`, from 0. Warmup is linear; `cosine` falls every step, `step` at epoch ends."""
    warmup = round(section.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / warmup
    if section.name == "step":
        return base * section.factor ** (step // steps_per_epoch // section.step_size)
    if section.name == "cosine":
        done = (step - warmup) / max(1, epochs * steps_per_epoch - warmup)
        return section.min_lr + (base - section.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return base
