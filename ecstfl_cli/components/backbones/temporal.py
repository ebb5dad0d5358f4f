"""Temporal heads: an image backbone on clips, its frame features joined over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead
from ecstfl_cli.errors import RegistryError


class Mean(nn.Module):
    """The average of the frame features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)"""
        return x.mean(dim=1)


class Recurrent(nn.Module):
    """An LSTM or GRU over the frame features; the mean of its outputs (the last output sees the offset only)."""

    def __init__(
        self,
        num_features: int,
        cell: type[nn.RNNBase],
        *,
        hidden: int = 256,
        layers: int = 1,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.rnn = cell(num_features, hidden, layers, batch_first=True, bidirectional=bidirectional)  # type: ignore[arg-type]
        self.num_features = hidden * (2 if bidirectional else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D')"""
        return self.rnn(x)[0].mean(dim=1)


class Transformer(nn.Module):
    """A pre-norm transformer encoder over the frame features with sinusoidal positions; the mean of its outputs."""

    def __init__(
        self, num_features: int, *, width: int = 256, heads: int = 4, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.project = nn.Linear(num_features, width)
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, width)"""
        x = self.project(x)
        x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        return self.norm(self.encoder(x)).mean(dim=1)


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (length, width) of Vaswani et al. 2017, section 3.5."""
    position = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return table


def _temporal(name: str, num_features: int, **args: Any) -> nn.Module:
    if name == "mean":
        return Mean(num_features, **args)
    if name == "lstm":
        return Recurrent(num_features, nn.LSTM, **args)
    if name == "gru":
        return Recurrent(num_features, nn.GRU, **args)
    if name == "transformer":
        return Transformer(num_features, **args)
    raise RegistryError(f"unknown temporal head {name!r}", "Available: mean, lstm, gru, transformer")


class TemporalModel(LinearHead):
    """An image backbone (`backbone.`), a temporal head (`temporal.`) and a classifier (`head.`): a video backbone."""

    modality: Modality = "video"

    def __init__(self, backbone: Any, num_classes: int, temporal_head: str, **temporal_args: Any) -> None:
        super().__init__()
        try:
            self.temporal = _temporal(temporal_head, backbone.num_features, **temporal_args)
        except (TypeError, AssertionError) as error:
            raise RegistryError(
                f"temporal head {temporal_head!r} does not take its arguments {temporal_args}: {error}",
                "See model.temporal_args.",
            ) from error
        self.backbone = _Trunk(backbone)
        self.num_features = int(self.temporal.num_features)  # type: ignore[arg-type]
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips (B, C, T, H, W) -> features (B, D)."""
        frames = x.transpose(1, 2)
        features = self.backbone(frames.flatten(0, 1))
        return self.temporal(features.unflatten(0, (frames.shape[0], frames.shape[1])))

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A still-image state dict, for the frame backbone; its classifier is left out."""
        adapt = getattr(self.backbone.net, "adapt_state_dict", dict)
        adapted = adapt(state)
        return {f"backbone.net.{key}": tensor for key, tensor in adapted.items() if not key.startswith("head.")}


class _Trunk(nn.Module):
    """An image backbone without its classifier: frames (N, C, H, W) -> features (N, D)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        if hasattr(backbone, "head"):
            backbone.head = nn.Identity()
        self.net = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)
