"""Several networks as one, each with its own preprocessing: what `ecstfl checkpoints ensemble` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import Modality, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.backbones.linear_head import LinearHead


class Ensemble(LinearHead):
    """The mean of the log-probabilities of several networks that see the same pixels, each at its size.

    A member is `model`, the values of a ModelSpec, with `size`, `mean` and `std` of its InputSpec; frames are values
    in [0, 1], which mean 0 and std 1 leave as they are. The features are the members' log-probabilities, D = members x
    K, and the classifier is their mean until it is trained.
    """

    def __init__(self, num_classes: int, *, members: Sequence[Mapping[str, Any]], modality: Modality = "img") -> None:
        super().__init__()
        self.modality = modality
        self.members = nn.ModuleList(_Member(modality, **member) for member in members)
        self.num_features = num_classes * len(members)
        self.head = nn.Linear(self.num_features, num_classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(num_classes).repeat(1, len(members)) / len(members))
            self.head.bias.zero_()

    def forward_features(self, x: Tensor) -> Tensor:
        """Log-probabilities (B, D) of frames (B, C, [T,] H, W) with values in [0, 1]."""
        return torch.cat([member(x) for member in self.members], dim=1)


class _Member(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(
        self, modality: Modality, model: Mapping[str, Any], size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = build_model(ModelSpec(**model), modality)
        self.size = size
        channels = (-1, 1, 1) if modality == "img" else (-1, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(channels), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (B, K)."""
        return self.network((_resized(x, self.size) - self.mean) / self.std).float().log_softmax(dim=1)


def _resized(x: Tensor, size: int) -> Tensor:
    """Frames (B, C, [T,] H, W) as (B, C, [T,] size, size)."""
    if x.shape[-2:] == (size, size):
        return x
    frames = x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, (size, size), mode="bilinear", antialias=x.shape[-1] > size)
    return frames if x.ndim == 4 else frames.unflatten(0, (-1, x.shape[2])).transpose(1, 2)
