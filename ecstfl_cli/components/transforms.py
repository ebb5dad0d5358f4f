"""From decoded images to the network's input: crop, resize, flip and distort as uint8, normalisation on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ecstfl_cli.api import InputSpec

Box = tuple[int, int, int, int]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop (area `scale`, aspect `ratio`), horizontal flip with probability `hflip`, then distortions.

    These are RandAugment, `rand_ops` operations in a row, each of strength `rand_magnitude` of 30 (Cubuk et al. 2020),
    and with probability `erasing` a rectangle of the spec's mean colour (Zhong et al. 2020). The defaults are the
    reference release's. One draw serves a whole clip.
    """

    random_resized_crop: bool = True
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    rand_ops: int = 0
    rand_magnitude: int = 9
    erasing: float = 0.0

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[Box | None, bool]:
        """A crop box (left, top, right, bottom) in pixels, None without random crops, and whether to flip."""
        box = self._crop(width, height, generator) if self.random_resized_crop else None
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
                return left, top, left + w, top + h
        return _central_square(width, height)

    def distort(self, frames: Frames, spec: InputSpec, generator: np.random.Generator) -> Frames:
        """RandAugment and erasing on frames (T, H, W, 3): the same operations and rectangle for each of them."""
        if not self.rand_ops and not self.erasing:
            return frames
        from torchvision.transforms import v2  # Takes seconds.

        x = torch.from_numpy(frames).permute(0, 3, 1, 2)
        # torchvision draws from the global generator, which also feeds dropout where samples are read in the training
        # process. torch.manual_seed would seed those of the accelerators, too, which are not put back here.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(generator.integers(2**63)))
            if self.rand_ops:
                x = v2.RandAugment(self.rand_ops, self.rand_magnitude, num_magnitude_bins=31)(x)
            if self.erasing:
                x = v2.RandomErasing(self.erasing, value=[round(255 * mean) for mean in spec.mean])(x)
        return x.permute(0, 2, 3, 1).numpy()


def to_frames(
    images: Sequence[Frames],
    spec: InputSpec,
    augmentation: Augmentation | None = None,
    generator: np.random.Generator | None = None,
) -> Frames:
    """Decoded RGB images (H, W, 3) of one sample as frames (T, size, size, 3), one augmentation for all of them.

    A random crop is stretched to the size, whatever the spec's resize policy is.
    """
    if augmentation is None or generator is None:
        return _resized(images, spec.size, spec.resize)
    height, width = images[0].shape[:2]
    box, flip = augmentation.draw(width, height, generator)
    if box is None:
        frames = _resized(images, spec.size, spec.resize)
    else:
        frames = _resized([_cut(image, box, width, height) for image in images], spec.size, "stretch")
    if flip:
        frames = torch.from_numpy(frames).flip(2).numpy()  # numpy goes through such pixels one by one.
    return augmentation.distort(frames, spec, generator)


def resize(frames: Frames, size: int, policy: str = "stretch") -> Frames:
    """Frames (T, H, W, 3) as (T, size, size, 3), bilinear with antialiasing; `policy` as in api.InputSpec.

    These are the pixels of Pillow's `crop` and `resize` but for rounding: equal where a side is halved or quartered,
    elsewhere some differ by 1 of 255 (one in a hundred on photographs, one in five at worst), and none by more than 2.
    """
    height, width = frames.shape[1:3]
    if policy == "crop":
        return _scaled(_cut(frames, _central_square(width, height), width, height), size, size)
    if policy == "stretch":
        return _scaled(frames, size, size)
    scale = size / max(width, height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - w) // 2, (size - h) // 2
    canvas = np.zeros((len(frames), size, size, 3), dtype=np.uint8)
    canvas[:, top : top + h, left : left + w] = _scaled(frames, w, h)
    return canvas


def shortened(frame: Frames, size: int) -> Frames:
    """A frame (H, W, 3) with its shorter side at `size`, its aspect kept; one that is not larger stays as it is."""
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return frame
    return _scaled(frame[None], round(width * scale), round(height * scale))[0]


def _resized(images: Sequence[Frames], size: int, policy: str) -> Frames:
    if len(images) == 1:
        return resize(images[0][None], size, policy)
    if len({image.shape for image in images}) == 1:
        return resize(np.stack(images), size, policy)
    return np.concatenate([resize(image[None], size, policy) for image in images])


def _scaled(frames: Frames, width: int, height: int) -> Frames:
    if frames.shape[1:3] == (height, width):
        return frames
    # A lone frame gets its first axis from torch, because numpy's has a stride of 0, for which torch is half as fast.
    x = (torch.from_numpy(frames) if len(frames) > 1 else torch.from_numpy(frames[0])[None]).permute(0, 3, 1, 2)
    # torch does on uint8 what Pillow does, in a third of its time or less where the processor has AVX2.
    return functional.interpolate(x, (height, width), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _cut(image: Frames, box: Box, width: int, height: int) -> Frames:
    """The part (..., h, w, 3) of an image that `box` is of a width x height one; at least one pixel."""
    x, y = image.shape[-2] / width, image.shape[-3] / height
    left, top, right, bottom = box
    return image[..., int(top * y) : math.ceil(bottom * y), int(left * x) : math.ceil(right * x), :]


def _central_square(width: int, height: int) -> Box:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


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
        """The float input; channels-last in memory, as the frames are.

        Channels come first before anything is computed: ONNX Runtime, which lays out memory as the shape says, takes
        several times as long for three values in the last dimension as for a plane of each.
        """
        x = frames.movedim(-1, 1).to(self.mean.dtype)
        mean, std = (values.view(-1, *[1] * (x.ndim - 2)) for values in (self.mean, self.std))
        return (x - mean) / std
