"""From decoded images to the network's input: crop, resize and flip as uint8, normalisation on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ecstfl_cli.api import InputSpec

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop (area `scale`, aspect `ratio`) and horizontal flip with probability `hflip`.

    The defaults are the reference release's. One draw serves a whole clip.
    """

    random_resized_crop: bool = True
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[Box, bool]:
        """A crop box in pixels and whether to flip, for frames of width x height."""
        box: Box = (0.0, 0.0, float(width), float(height))
        if self.random_resized_crop:
            box = self._crop(width, height, generator)
        return box, bool(generator.random() < self.hflip)

    def _crop(self, width: int, height: int, generator: np.random.Generator) -> Box:
        for _ in range(10):
            area = generator.uniform(*self.scale) * width * height
            # Wide and tall crops alike. The release draws uniformly and swaps the sides at random for clips: within 4%
            # this same density.
            aspect = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
                return float(left), float(top), float(left + w), float(top + h)
        side = min(width, height)
        x, y = (width - side) / 2, (height - side) / 2
        return x, y, x + side, y + side


def resize(image: Image.Image, spec: InputSpec, box: Box | None = None) -> Image.Image:
    """An RGB image at the spec's size, bilinear. `box` (left, top, right, bottom) is cut out first and stretched."""
    size = (spec.size, spec.size)
    if box is not None or spec.resize == "stretch":
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    width, height = image.size
    if spec.resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    scale = spec.size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", size)
    canvas.paste(
        image.resize(inner, Image.Resampling.BILINEAR), ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2)
    )
    return canvas


def to_frames(
    images: Sequence[Image.Image],
    spec: InputSpec,
    augmentation: Augmentation | None = None,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Decoded RGB images of one sample as uint8 frames (T, size, size, 3), with one augmentation for all of them."""
    box, flip = None, False
    if augmentation is not None and generator is not None:
        box, flip = augmentation.draw(*images[0].size, generator)
    frames = np.empty((len(images), spec.size, spec.size, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        # A crop box is drawn in the first frame's pixels; a frame of another size gets the same part of itself.
        scaled = box and tuple(b * s for b, s in zip(box, _scales(image, images[0]), strict=True))
        frames[i] = np.asarray(resize(image, spec, scaled))  # type: ignore[arg-type]
    return frames[:, :, ::-1] if flip else frames


def _scales(image: Image.Image, first: Image.Image) -> tuple[float, float, float, float]:
    x, y = image.width / first.width, image.height / first.height
    return x, y, x, y


class Normalise(nn.Module):
    """uint8 frames, (B, T, H, W, 3) or (B, H, W, 3), to the network's float input (B, 3, T, H, W) or (B, 3, H, W).

    Values become [0, 1], then (x - mean) / std per RGB channel. Runs on the device of the frames.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std) * 255, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """The float input; channels-last in memory, as the frames are."""
        x = (frames.to(self.mean.dtype) - self.mean) / self.std
        return x.movedim(-1, 1)
