"""What networks that end in one linear layer have in common."""

from __future__ import annotations

from torch import Tensor, nn


class LinearHead(nn.Module):
    """The classifier's half of the backbone contract; a subclass sets `num_features` and `head`, and has
    `forward_features(x)`.
    """

    num_features: int
    head: nn.Linear

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D)."""
        raise NotImplementedError

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh classifier with K = `num_classes`."""
        self.head = nn.Linear(self.num_features, num_classes).to(self.head.weight.device)
