"""Predictions of a model over a loader, and their metrics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ecstfl_cli.components.metrics import Metrics, confusion_matrix, evaluate
from ecstfl_cli.engine.loader import batches
from ecstfl_cli.engine.reporter import Reporter


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


def predict(
    logits_of: Callable[[Tensor], Tensor],
    loader: DataLoader,
    device: torch.device,
    reporter: Reporter,
    description: str,
    unit: str,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Predictions:
    """Run `logits_of` (uint8 frames on `device` -> logits (B, K)) over a loader of api.Batch, in the loader's order.

    `unit` is what the progress counts. `precision` makes the context that the model runs in, e.g. autocast. Probs are
    softmax in float32.
    """
    clip_ids: list[str] = []
    targets: list[Tensor] = []
    probs: list[Tensor] = []
    total = len(loader.dataset)  # type: ignore[arg-type]
    with torch.inference_mode(), reporter.progress(description, total, unit) as advance:
        for batch in batches(loader):
            moved = batch.to(device)
            with precision():
                logits = logits_of(moved.frames)
            probs.append(logits.float().softmax(dim=-1))
            targets.append(batch.target)
            clip_ids.extend(batch.clip_ids)
            advance(len(batch.clip_ids))
    return Predictions(clip_ids, torch.cat(targets).numpy(), torch.cat(probs).cpu().numpy())
