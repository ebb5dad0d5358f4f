"""A small residual network for face crops of 40 to 64 pixels, fast on CPUs in training and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.api import Modality
from ecstfl_cli.components.backbones.linear_head import LinearHead


class CompactResNet(LinearHead):
    """Residual network (He et al. 2016) of plain 3x3 convolutions that halves the picture once before its blocks.

    Networks for ImageNet have shrunk a 48-pixel face to 12x12 before their first block, and brows and mouth with it.
    `widths` and `depths` are the channels and blocks of each stage; each stage but the first halves the resolution,
    averaging on the shortcut (He et al. 2019). With `excitation` every block ends in squeeze-and-excitation (Hu et al.
    2018), which stays in fp32 where the rest is int8. A random part of the blocks, up to `drop_path` for the last one,
    is skipped in training (Huang et al. 2016). D = widths[-1].
    """

    modality: Modality = "img"

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 1, 2, 1),
        dropout: float = 0.2,
        drop_path: float = 0.0,
        excitation: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths or min(*widths, *depths, 1) < 1:
            raise ValueError(f"widths {list(widths)} and depths {list(depths)} name one positive number a stage each")
        self.stem = nn.Sequential(*_convolution(3, widths[0], stride=2), nn.ReLU())
        rates = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        stages, before, index = [], widths[0], 0
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if stage and not position else 1
                blocks.append(_Block(before, width, stride, rates[index], excitation))
                before, index = width, index + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.num_features = widths[-1]
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D) of stills (B, C, H, W)."""
        return self.pool(self.stages(self.stem(x)))

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.dropout(features))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, drop_path: float, excitation: bool) -> None:
        super().__init__()
        last = _convolution(width, width, stride=1)
        nn.init.zeros_(last[1].weight)  # Each block starts as its shortcut.
        self.body = nn.Sequential(*_convolution(channels, width, stride), nn.ReLU(), *last)
        self.excitation = _excitation(width) if excitation else None
        shortcut: list[nn.Module] = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
        if channels != width:
            shortcut += [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*shortcut)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.excitation is not None:
            y = y * self.excitation(y)
        if self.training and self.drop_path:
            kept = y.new_empty(len(y), 1, 1, 1).bernoulli_(1 - self.drop_path) / (1 - self.drop_path)
            y = y * kept
        return F.relu(y + self.shortcut(x))


def _excitation(width: int) -> nn.Sequential:
    """The weight of each channel, from the mean of all of them."""
    inner = width // 8 or 1
    squeeze = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(squeeze, nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1), nn.Sigmoid())


def _convolution(channels: int, width: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
