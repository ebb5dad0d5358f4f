"""A small convolutional network for face crops, for training in minutes on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from ecstfl_cli.api import Modality


class GridCNN(nn.Module):
    """Four 3x3 convolutions (the first 5x5) down to an eighth of the input, averaged over a grid of cells.

    The grid is kept where other networks average over the whole picture: in a face crop, where something moves says
    what it is, and little data suffices to learn it. Widths are `width` times 1, 2, 4 and 4; D = 4 width grid^2.
    For stills of 32 to 96 pixels.
    """

    modality: Modality = "img"

    def __init__(self, num_classes: int, *, width: int = 16, grid: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _convolution(3, width, 5, stride=2),
            _convolution(width, 2 * width, 3, stride=2),
            _convolution(2 * width, 4 * width, 3, stride=2),
            _convolution(4 * width, 4 * width, 3, stride=1),
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.num_features = 4 * width * grid * grid
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) of stills (B, C, H, W)."""
        return self.net(x)

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh classifier with K = `num_classes`."""
        self.head = nn.Linear(self.num_features, num_classes).to(self.head.weight.device)


def _convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
