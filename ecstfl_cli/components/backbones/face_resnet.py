"""The residual network of dlib's face recognition, for face crops of 72 pixels and more."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead

# Channels and blocks of each stage.
STAGES = ((32, 3), (64, 4), (128, 3), (256, 3))


class FaceResNet(LinearHead):
    """The ResNet (He et al. 2016) that dlib recognises faces with (King 2017), up to its last 256 channels; D = 256.

    Its published weights are a start that knows faces: `recipes/face_resnet_weights.py` converts them. Unlike dlib's,
    convolutions that halve the picture are padded, so that small crops keep their border, and dlib's last stage, which
    would shrink them to a point, is left out. A shortcut that halves is averaged, one that widens is padded with zeros.
    A random part of the blocks, up to `drop_path` for the last one, is skipped in training (Huang et al. 2016).
    """

    modality: Modality = "img"

    def __init__(self, num_classes: int, *, dropout: float = 0.2, drop_path: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        last = sum(depth for _, depth in STAGES) - 1
        blocks: list[nn.Module] = []
        before = STAGES[0][0]
        for width, depth in STAGES:
            for _ in range(depth):
                blocks.append(_Block(before, width, drop_path * len(blocks) / last))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.num_features = before
        self.head = nn.Linear(before, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) of stills (B, C, H, W)."""
        return self.pool(self.blocks(self.stem(x)))

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.dropout(features))


class _Block(nn.Module):
    """A block that halves the picture where it widens."""

    def __init__(self, channels: int, width: int, drop_path: float) -> None:
        super().__init__()
        self.more = width - channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2 if self.more else 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.training and self.drop_path:
            y = y * (y.new_empty(len(y), 1, 1, 1).bernoulli_(1 - self.drop_path) / (1 - self.drop_path))
        if self.more:
            x = F.pad(F.avg_pool2d(x, 2, ceil_mode=True), (0, 0, 0, 0, 0, self.more))
        return F.relu(y + x)
