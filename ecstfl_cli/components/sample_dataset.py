"""From samples to uint8 frames: the torch data set that every source of frames is read through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ecstfl_cli.api import Batch, FrameSampling, InputSpec
from ecstfl_cli.components.sampling import evaluation_indices, training_indices
from ecstfl_cli.components.transforms import Augmentation, to_frames
from ecstfl_cli.media.sources import Clip, open_clip, read_still

# What a model for stills sees of a clip.
ONE_FRAME = FrameSampling("uniform", frames=1)


class Source(Protocol):
    """One sample: an image, a folder of frames or a video, its label (-1 unknown) and its name in the path file."""

    @property
    def source(self) -> Path: ...
    @property
    def label(self) -> int: ...
    @property
    def clip_id(self) -> str: ...


class Item(NamedTuple):
    """One sample read: frames (T, H, W, 3) or (H, W, 3) uint8."""

    frames: np.ndarray
    label: int
    clip_id: str


class SampleDataset(Dataset[Item]):
    """Samples by (epoch, index). In training, sampling and augmentation of a sample are drawn from (seed, epoch, index)
    alone, so that neither the number of workers nor an interruption changes them.

    A sample with a `modality` that is not the model's is converted: a still is a clip of one repeated frame; of a clip,
    a frame at random is taken in training and the middle one in evaluation.
    """

    def __init__(
        self,
        samples: Sequence[Source],
        spec: InputSpec,
        *,
        training: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.samples = samples
        self.spec = spec
        self.training = training
        self.augmentation = augmentation
        self.seed = seed
        self._clips: dict[int, Clip] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        sample = self.samples[index]
        generator = np.random.default_rng((self.seed, epoch, index)) if self.training else None
        augmentation = self.augmentation if self.training else None
        if (getattr(sample, "modality", None) or self.spec.modality) == "img":
            frames = to_frames([read_still(sample.source)], self.spec, augmentation, generator)[0]
            if self.spec.modality == "video":
                frames = np.broadcast_to(frames, (self.spec.sampling.num_frames, *frames.shape))
        else:
            frames = self._clip(index, augmentation, generator)
            frames = frames[0] if self.spec.modality == "img" else frames
        return Item(frames, sample.label, sample.clip_id)

    def _clip(self, index: int, augmentation: Augmentation | None, generator: np.random.Generator | None) -> np.ndarray:
        clip = self._opened(index)
        sampling = self.spec.sampling if self.spec.modality == "video" else ONE_FRAME
        if generator is None:
            indices = evaluation_indices(sampling, len(clip))
        else:
            indices = training_indices(sampling, len(clip), generator)
        # Short clips repeat frames: each is decoded and resized once.
        distinct, position = np.unique(indices, return_inverse=True)
        frames = to_frames(clip.read(distinct.tolist()), self.spec, augmentation, generator)
        return frames[position]

    def _opened(self, index: int) -> Clip:
        """The clip, listed or counted once."""
        if index not in self._clips:
            sample = self.samples[index]
            self._clips[index] = open_clip(sample.source, getattr(sample, "n_frames", None))
        return self._clips[index]


def collate(items: Sequence[Item]) -> Batch:
    """Items as one Batch; frames stay uint8."""
    frames, labels, clip_ids = zip(*items, strict=True)
    return Batch(torch.from_numpy(np.stack(frames)), torch.tensor(labels, dtype=torch.int64), list(clip_ids))
