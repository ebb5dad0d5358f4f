"""The expression-clustered spatiotemporal feature loss, as released and as printed in the DFEW paper.

Jiang et al., "DFEW: A Large-Scale Database for Recognizing Dynamic Facial Expressions in the Wild", ACM MM 2020.
Both are added to cross-entropy with a weight: gamma in the release, lambda in the paper, 10 in both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecstfl_cli.api import Batch, LossContext

EPSILON = 1e-6


def _full_precision(features: Tensor) -> Tensor:
    """At least float32: 1 / 1e-6 is beyond half precision, and cdist has no half kernel on CPU."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def _distances(x: Tensor, p: float) -> Tensor:
    """Distances (n, n) of the rows of `x` (n, d) in the p-norm."""
    if x.device.type == "mps":  # Before 2026 torch had no gradient of cdist there.
        return _distances_by_differences(x, p)
    # The matrix-product shortcut of p = 2 is inexact for near neighbours, which these losses feed on.
    return torch.cdist(x, x, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def _distances_by_differences(x: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(x[:, None] - x[None], ord=p, dim=-1)


class ECSTFL(nn.Module):
    """The reference release's formula: for each sample, its mean L1 distance to its own class times its mean inverse
    distance to the other classes, averaged over the batch and divided by its size once more.

    With D the pairwise L1 distances of features (n, d), P_i the samples of i's class (i included), N_i the others:
    A_i = sum_{P_i} D_ij / (|P_i| + eps), R_i = sum_{N_i} 1 / (D_ij + eps) / (|N_i| + 1 + eps),
    loss = mean_i(A_i R_i) / n, eps = 1e-6. Zero where a batch holds one class or one sample.
    """

    pairwise = True

    def __init__(self, context: LossContext) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """A scalar, in float32 or better."""
        with torch.autocast(features.device.type, enabled=False):
            x = _full_precision(features)
            n = x.shape[0]
            distance = _distances(x, 1)
            same = (target[:, None] == target[None, :]).to(x.dtype)
            other = 1 - same
            attraction = (distance * same).sum(1) / (same.sum(1) + EPSILON)
            repulsion = (other / (distance + EPSILON)).sum(1) / (other.sum(1) + 1 + EPSILON)
            return (attraction * repulsion).mean() / n


class ECSTFLPaper(nn.Module):
    """Equation 9 of the paper: same-class distances over different-class distances, each divided by its class's count.

    L = [sum_{y_i = y_j} |x_i - x_j| / N_{x_i}] / [sum_{y_i != y_j} |x_i - x_j| / N_{x_j}], N_x the samples of x's class
    in the batch. The paper does not name the norm: `p` chooses it, 2 by default. Zero where a batch holds one class
    (the paper skips such a step).
    """

    pairwise = True

    def __init__(self, context: LossContext, *, p: float = 2.0) -> None:  # noqa: ARG002
        super().__init__()
        self.p = p

    def forward(self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """A scalar, in float32 or better."""
        with torch.autocast(features.device.type, enabled=False):
            x = _full_precision(features)
            distance = _distances(x, self.p)
            same = (target[:, None] == target[None, :]).to(x.dtype)
            count = same.sum(1)
            within = (distance * same / count[:, None]).sum()
            between = (distance * (1 - same) / count[None, :]).sum()
            # A batch of one class has no denominator; adding 1 there keeps the gradient finite and the value 0.
            one_class = (same.min() > 0).to(x.dtype)
            return (1 - one_class) * within / (between + EPSILON + one_class)
