"""Cross-entropy with class weights and label smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.errors import RecipeError


class CrossEntropy(nn.Module):
    """Mean cross-entropy of logits (B, K) against target (B,), or against the batch's soft targets where it has them.

    `class_weights` is one weight a class, or `balanced`: n / (K_present n_k), from the training list. With weights the
    mean is the weighted one; a soft target weighs what its classes do by their shares.
    """

    pairwise = False
    takes_soft_targets = True
    weight: Tensor | None

    def __init__(
        self,
        context: LossContext,
        *,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", _weights(context, class_weights), persistent=False)

    def forward(self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """A scalar."""
        soft = batch.soft_target
        if soft is None:
            return F.cross_entropy(logits.float(), target, self.weight, label_smoothing=self.label_smoothing)
        each = F.cross_entropy(
            logits.float(), soft, self.weight, reduction="none", label_smoothing=self.label_smoothing
        )
        # torch divides by B here, and by the weights of the classes where targets are hard.
        return each.sum() / (len(each) if self.weight is None else (soft @ self.weight).sum())


def _weights(context: LossContext, class_weights: Sequence[float] | str | None) -> Tensor | None:
    if class_weights is None:
        return None
    if class_weights == "balanced":
        counts = torch.tensor(context.class_counts, dtype=torch.float32)
        present = counts > 0
        weights = counts.sum() / (present.sum() * counts.clamp(min=1))
        return torch.where(present, weights, torch.zeros_like(weights))
    if isinstance(class_weights, str) or len(class_weights) != context.num_classes:
        raise RecipeError(
            f"losses.cross_entropy.args.class_weights is {class_weights!r}",
            f"Give 'balanced' or {context.num_classes} numbers, one a class.",
        )
    return torch.tensor([float(w) for w in class_weights])
