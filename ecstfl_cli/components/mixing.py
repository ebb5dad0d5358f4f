"""Mixup and CutMix over a batch of uint8 frames, stills and clips alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed: row i with row `partner[i]`, and `share` of the label stays row i's.

    `box` (top, left, bottom, right) in pixels is what CutMix takes from the partner; None is mixup.
    """

    partner: Tensor
    share: float
    box: tuple[int, int, int, int] | None = None

    def frames(self, own: Tensor, partners: Tensor) -> Tensor:
        """Mixed frames of (B, [T,] H, W, 3) uint8 and those of their partners; mixup's are float, 0 to 255."""
        if self.box is None:
            return torch.lerp(partners.float(), own.float(), self.share)
        top, left, bottom, right = self.box
        mixed = own.clone()
        mixed[..., top:bottom, left:right, :] = partners[..., top:bottom, left:right, :]
        return mixed


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) with shares from Beta(alpha, alpha); an alpha of 0 is off.

    `prob` is the part of the batches that are mixed. With both, one of the two at random.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0

    @property
    def is_on(self) -> bool:
        """Whether any batch is mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    def draw(self, batch: int, size: int, generator: np.random.Generator) -> Mix | None:
        """How to mix a batch of so many samples of size x size pixels; None for one that stays as it is."""
        if not self.is_on or batch < 2 or generator.random() >= self.prob:
            return None
        cut = self.cutmix > 0 and (self.mixup == 0 or generator.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(generator.beta(alpha, alpha))
        partner = torch.from_numpy(generator.permutation(batch))
        if not cut:
            return Mix(partner, share)
        side = round(size * (1 - share) ** 0.5)
        y, x = (int(v) - side // 2 for v in generator.integers(size, size=2))
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + side, size), min(x + side, size)
        # The box may reach beyond the picture: the label goes by what is really inside.
        return Mix(partner, 1 - (bottom - top) * (right - left) / size**2, (top, left, bottom, right))
