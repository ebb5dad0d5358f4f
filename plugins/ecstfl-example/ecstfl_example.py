"""An example plugin of ecstfl: one backbone, one loss, one label map. It imports ecstfl_cli.api and torch, no more."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ecstfl_cli.api import Batch, EcstflError, LabelMap, LossContext, Modality

NEGATIVE = ("angry", "contempt", "disgust", "fear", "repression", "sad")

megc = LabelMap(
    "megc",
    ("negative", "positive", "surprise"),
    synonyms={**dict.fromkeys(NEGATIVE, "negative"), "happy": "positive"},
    source="See et al., MEGC 2019, IEEE FG 2019: the three classes of the micro-expression grand challenge",
)


class SlimC3D(nn.Module):
    """Three 3x3x3 convolutions, each halving height and width, then the mean: a clip network for trying things out.

    `width` is the number of channels of the first convolution; D is four times as many.
    """

    modality: Modality = "video"

    def __init__(self, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise EcstflError(f"slim_c3d has no width {width}", "Set model.args.width to 1 or more.")
        channels = (3, width, 2 * width, 4 * width)
        self.stages = nn.Sequential(*(_stage(c, d) for c, d in pairwise(channels)))
        self.num_features = channels[-1]
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D)."""
        return self.stages(x).mean(dim=(2, 3, 4))

    def forward_head(self, features: Tensor) -> Tensor:
        """(B, D) to logits (B, K)."""
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh classifier with K = `num_classes`, on the device of the old one."""
        self.head = nn.Linear(self.num_features, num_classes).to(self.head.weight.device)


def _stage(channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv3d(channels, out_channels, kernel_size=3, stride=(1, 2, 2), padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))


class SupCon(nn.Module):
    """Supervised contrastive loss: Khosla et al., NeurIPS 2020, Eq. 2, on the L2-normalised features themselves.

    A sample's positives are the other samples of its class; samples without one are left out, and a batch of such
    samples only is 0. The paper puts a projection head before the loss and takes two views of each image.
    """

    pairwise = True

    def __init__(self, context: LossContext, *, temperature: float = 0.1) -> None:  # noqa: ARG002
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, features: Tensor, target: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """A scalar from features (B, D) and target (B,), in float32 also under mixed precision."""
        with torch.autocast(features.device.type, enabled=False):
            z = functional.normalize(features.float(), dim=1)
            itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
            # Not minus infinity: its gradient would be NaN where a batch holds one sample.
            similarity = (z @ z.T / self.temperature).masked_fill(itself, -1e9)  # (B, B)
            positive = (target[:, None] == target[None, :]) & ~itself
            count = positive.sum(dim=1)
            log_probs = similarity.log_softmax(dim=1).masked_fill(~positive, 0)
            per_sample = -log_probs.sum(dim=1) / count.clamp(min=1)
            return per_sample.sum() / (count > 0).sum().clamp(min=1)
