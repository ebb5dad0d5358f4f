"""Small convolutional networks for face crops, stills and clips, for training in minutes on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead


class GridCNN(LinearHead):
    """Four 3x3 convolutions (the first 5x5) down to an eighth of the input, averaged over a grid of cells.

    The grid is kept where other networks average over the whole picture: in a face crop, where something moves says
    what it is, and little data suffices to learn it. Widths are `width` times 1, 2, 4 and 4; D = 4 width grid^2.
    For stills of 32 to 96 pixels.
    """

    modality: Modality = "img"
    channels = 3
    views = 1

    def __init__(self, num_classes: int, *, width: int = 16, grid: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _convolution(self.channels, width, 5, stride=2),
            _convolution(width, 2 * width, 3, stride=2),
            _convolution(2 * width, 4 * width, 3, stride=2),
            _convolution(4 * width, 4 * width, 3, stride=1),
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.num_features = self.views * 4 * width * grid * grid
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) of stills (B, C, H, W)."""
        return self.net(x)


class MotionGridCNN(GridCNN):
    """GridCNN for clips: it sees each frame beside its difference from the clip's mean frame, so that what moves stands
    out from whose face it is; the features are the largest and the mean cell values over time, D = 8 width grid^2.
    """

    modality: Modality = "video"
    channels = 6
    views = 2
    # Differences within a clip are several times smaller than those between faces.
    gain = 3.0

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) of clips (B, C, T, H, W)."""
        motion = self.gain * (x - x.mean(dim=2, keepdim=True))
        frames = torch.cat((x, motion), dim=1).transpose(1, 2)
        cells = self.net(frames.flatten(0, 1)).unflatten(0, (frames.shape[0], frames.shape[1]))
        return torch.cat((cells.amax(dim=1), cells.mean(dim=1)), dim=1)


def _convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
