"""What is kept of an epoch's steps: sums for metrics.csv, and the latest losses until they have been looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ecstfl_cli.errors import EcstflError, listing


class EpochTotals:
    """Sums over the steps of an epoch, kept on the device so that adding to them waits for nothing.

    `values` are plain containers, for the state of an interrupted epoch.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values: dict[str, Any] = {"loss": 0.0, "hits": 0, "steps": 0, "samples": 0, "terms": {}} | dict(
            values or {}
        )

    def add(self, loss: Tensor, hits: Tensor, terms: Mapping[str, Tensor], samples: int) -> None:
        """One step: its loss, how many of its samples were right, each term's value."""
        sums = self.values["terms"]
        added = {
            name: (sums.get(name, (0.0, 0))[0] + value, sums.get(name, (0.0, 0))[1] + 1)
            for name, value in terms.items()
        }
        self.values = {
            "loss": self.values["loss"] + loss,
            "hits": self.values["hits"] + hits,
            "steps": self.values["steps"] + 1,
            "samples": self.values["samples"] + samples,
            "terms": {**sums, **added},
        }

    def loss(self) -> float:
        """The mean loss so far. Waits for the device."""
        return float(self.values["loss"]) / max(self.values["steps"], 1)

    def means(self) -> dict[str, float]:
        """Mean losses and the WAR in percent; a term's mean is over the batches that it was computed for."""
        terms = {f"loss_{name}": float(total) / steps for name, (total, steps) in self.values["terms"].items()}
        war = 100 * float(self.values["hits"]) / self.values["samples"]
        return {"train_loss": self.loss(), "train_war": war, **terms}


class RecentLosses:
    """The losses since the last check, with what is needed to say which batch one of them is of.

    `clip_ids_of` names the samples of a step of the present epoch.
    """

    def __init__(self, epoch: int, clip_ids_of: Callable[[int], Sequence[str]]) -> None:
        self.epoch, self.clip_ids_of = epoch, clip_ids_of
        self._losses: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []
        self._norms: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """The loss of a step, from 0."""
        self._losses.append((step, loss, terms))

    def add_norm(self, step: int, norm: Tensor) -> None:
        """The norm of the gradient of the update that ends with a step."""
        self._norms.append((step, norm))

    def check(self) -> None:
        """Look at them, which waits for the device, and forget them. Raises EcstflError where one is not finite."""
        losses, norms = self._losses, self._norms
        self._losses, self._norms = [], []
        if not losses:
            return
        values = torch.stack([loss for _, loss, _ in losses]).tolist()
        for (step, _, terms), value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                parts = ", ".join(f"{name} {float(term):g}" for name, term in terms.items())
                self.fail(step, f"the loss is {value} ({parts})")
        for step, norm in norms:
            if not math.isfinite(float(norm)):
                self.fail(step, f"the norm of the gradient is {float(norm)}")

    def place(self, step: int) -> str:
        """`step 3 of epoch 1, with this batch: …`"""
        clip_ids = self.clip_ids_of(step)
        return f"step {step + 1} of epoch {self.epoch + 1}, with this batch:\n{listing(clip_ids, limit=len(clip_ids))}"

    def fail(self, step: int, what: str) -> NoReturn:
        """Raises EcstflError: what happened at a step, with its batch and what to try."""
        raise EcstflError(
            f"{what} at {self.place(step)}",
            "Look at these samples; try a lower --lr, --precision fp32, a smaller gamma, a warmup "
            "(schedule.warmup_epochs) or optimizer.clip_norm. --detect-anomaly names the layer. What was saved "
            "before is good, and --resume continues from it.",
        )
