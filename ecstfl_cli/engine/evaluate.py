"""Predictions of a model over a loader, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ecstfl_cli.components.metrics import Metrics, confusion_matrix, evaluate
from ecstfl_cli.engine.data.loader import batches
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import CheckpointError

NO_NUMBERS_HINT = "In half precision values may have become too large: --precision fp32."


@dataclass
class Predictions:
    """One row a sample: its name, its true index (-1 unknown) and probs (N, K) float32."""

    clip_ids: list[str]
    target: NDArray[np.int64]
    probs: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each sample, (N,)."""
        return self.probs.argmax(axis=1)

    @property
    def has_labels(self) -> bool:
        """Whether the label of any sample is known."""
        return bool((self.target >= 0).any())

    def metrics(self) -> Metrics:
        """WAR, UAR and the rest over the samples with a known label."""
        return evaluate(confusion_matrix(self.target, self.predicted, self.probs.shape[1]))

    def require_numbers(self, model: str) -> None:
        """Raise CheckpointError where a probability is not a number: whichever class is named then, it is none."""
        if told := self.without_numbers():
            raise CheckpointError(f"{model} gives {told}", NO_NUMBERS_HINT)

    def without_numbers(self) -> str:
        """Of how many samples the probabilities are no numbers, in words; empty where all are."""
        spoilt = np.asarray(~np.isfinite(self.probs).all(axis=1))
        if not spoilt.any():
            return ""
        return f"no numbers for {spoilt.sum()} of {len(spoilt)} samples, e.g. {self.clip_ids[int(spoilt.argmax())]}"

    def metrics_by(self, groups: Sequence[str]) -> dict[str, Metrics]:
        """Metrics of each group of samples, `groups` naming each sample's; one without a known label has none."""
        of, predicted, k = np.array(groups), self.predicted, self.probs.shape[1]
        found = {}
        for group in dict.fromkeys(groups):
            rows = of == group
            if (self.target[rows] >= 0).any():
                found[group] = evaluate(confusion_matrix(self.target[rows], predicted[rows], k))
        return found


def predict(
    logits_of: Callable[[Tensor], Tensor],
    loader: DataLoader,
    device: torch.device,
    reporter: Reporter,
    description: str,
    unit: str,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    check: Callable[[], None] = lambda: None,
) -> Predictions:
    """Run `logits_of` (uint8 frames on `device` -> logits (B, K)) over a loader of api.Batch, in the loader's order.

    `unit` is what the progress counts. `precision` makes the context that the model runs in, e.g. autocast. `check` is
    called after each batch, and may raise. Probs are softmax in float32.
    """
    clip_ids: list[str] = []
    targets: list[Tensor] = []
    probs: list[Tensor] = []
    order = loader.batch_sampler
    total = min(len(loader.dataset), len(loader) * order.batch_size)  # type: ignore[arg-type, union-attr]
    with torch.no_grad(), reporter.progress(description, total, unit) as advance:
        for batch in batches(loader):
            moved = batch.to(device)
            with precision():
                logits = logits_of(moved.frames)
            probs.append(logits.float().softmax(dim=-1))
            targets.append(batch.target)
            clip_ids.extend(batch.clip_ids)
            advance(len(batch.clip_ids))
            check()
    return Predictions(clip_ids, torch.cat(targets).numpy(), torch.cat(probs).cpu().numpy())


def merged(parts: Sequence[Predictions], indices: Sequence[Sequence[int]], total: int) -> Predictions:
    """The predictions of several processes as those of one: each sample once, in the order of the list.

    `indices` says for each part which samples it holds; some may be in more than one.
    """
    clip_ids = [""] * total
    target = np.empty(total, dtype=np.int64)
    probs = np.empty((total, parts[0].probs.shape[1]), dtype=np.float32)
    for part, places in zip(parts, indices, strict=True):
        target[list(places)] = part.target
        probs[list(places)] = part.probs
        for place, clip_id in zip(places, part.clip_ids, strict=True):
            clip_ids[place] = clip_id
    return Predictions(clip_ids, target, probs)
