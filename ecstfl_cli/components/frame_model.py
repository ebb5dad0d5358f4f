"""A network with its preprocessing inside: uint8 frames in, logits out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ecstfl_cli.api import InputSpec
from ecstfl_cli.components.transforms import Normalise


class FrameModel(nn.Module):
    """Normalisation and network. Frames are uint8, (B, T, H, W, 3) for clips or (B, H, W, 3) for stills."""

    def __init__(self, network: Any, spec: InputSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, D)."""
        features = self.network.forward_features(self.normalise(frames))
        return self.network.forward_head(features), features


class InferenceGraph(nn.Module):
    """What is exported: frames as above to logits (B, K) and probs (B, K)."""

    def __init__(self, model: FrameModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and probs (B, K)."""
        logits, _ = self.model(frames)
        return logits, logits.softmax(dim=-1)
