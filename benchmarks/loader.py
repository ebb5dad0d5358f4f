"""Samples per second of the loader on one core, beside a plain PIL and float32 loop, in training and evaluation.

    python benchmarks/loader.py                      clips and stills of its own making
    python benchmarks/loader.py PATHFILE [SAMPLES]   real ones: a .txt path file lists clips, a .csv stills

Clips are read as the reference release reads them (16 frames, 112x112), stills at 224x224. What it makes itself are
224x224 JPEGs of quality 90, all frames distinct, as large as photographs are (about 16 KB). The plain loop opens,
crops, resizes and flips every frame with PIL and stacks float32 tensors in [0, 1]. The two take turns on the same
samples, with the files in the page cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ecstfl_cli import pathfile
from ecstfl_cli.api import InputSpec, Modality
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.components.sampling import evaluation_indices, training_indices
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.samples import Sample
from ecstfl_cli.media.frames import list_frames

ROUNDS = 9


def plain(sample: Sample, spec: InputSpec, training: bool) -> Tensor:
    """One sample as float32 (T, 3, H, W), in training with frames, crop and flip drawn at random."""
    generator = np.random.default_rng() if training else None
    files = [sample.source]
    if spec.modality == "video":
        listed, sampling = list_frames(sample.source), spec.sampling
        n = len(listed)
        indices = training_indices(sampling, n, generator) if generator else evaluation_indices(sampling, n)
        files = [listed[i] for i in indices]
    images = [Image.open(file).convert("RGB") for file in files]
    flip = False
    if generator:
        box, flip = Augmentation().draw(*images[0].size, generator)
        images = [image.crop(box) for image in images]
    images = [image.resize((spec.size, spec.size), Image.Resampling.BILINEAR) for image in images]
    if flip:
        images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])


def seconds(read: Callable[[int], Any], count: int) -> float:
    """Time of reading `count` samples."""
    started = time.perf_counter()
    for i in range(count):
        read(i)
    return time.perf_counter() - started


def compare(samples: Sequence[Sample], modality: Modality, training: bool) -> None:
    """Print both rates, the median of the rounds, and the median of their ratios."""
    spec = InputSpec(modality, size=112 if modality == "video" else 224)
    dataset = SampleDataset(samples, spec, training=training, augmentation=Augmentation())
    ours, theirs = [], []
    for epoch in range(ROUNDS + 1):
        ours.append(seconds(lambda i, epoch=epoch: collate([dataset[(epoch, i)]]), len(samples)))  # type: ignore[misc]
        theirs.append(seconds(lambda i: plain(samples[i], spec, training), len(samples)))
    # The first round fills the page cache.
    ratios = [b / a for a, b in zip(ours[1:], theirs[1:], strict=True)]
    rates = [len(samples) / median(times[1:]) for times in (ours, theirs)]
    what = f"{'clips' if modality == 'video' else 'stills'}, {'training' if training else 'evaluation'}"
    print(
        f"{what:20s} {rates[0]:10.1f} {rates[1]:10.1f} {median(ratios):8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def photograph(side: int, generator: np.random.Generator) -> Image.Image:
    """A square picture of noise, less of it at higher frequencies: JPEG makes it as large as photographs of people."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    planes = []
    for contrast, slope in ((45, 1.5), (12, 1.8), (12, 1.8)):
        spectrum = np.fft.rfft2(generator.normal(size=(side, side))) / np.maximum(frequency, 1) ** slope
        spectrum[0, 0] = 0
        plane = np.fft.irfft2(spectrum, (side, side))
        planes.append(128 + contrast * plane / plane.std())
    return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8), "YCbCr")


def make_clips(root: Path, clips: int = 24, frames: int = 16, side: int = 224) -> list[Sample]:
    """Folders of JPEG frames, each a window that moves over one picture."""
    samples = []
    for clip in range(clips):
        folder = root / f"{clip}"
        folder.mkdir()
        scene = photograph(side + 2 * frames, np.random.default_rng(clip))
        for t in range(frames):
            window = scene.crop((2 * t, t, 2 * t + side, t + side))
            window.convert("RGB").save(folder / f"{t + 1}.jpg", quality=90)
        samples.append(Sample(folder, -1, folder.name))
    return samples


def main() -> None:
    """Print a table: both rates and their ratio, for training and evaluation."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data: dict[Modality, list[Sample]]
        if len(sys.argv) > 1:
            listed = pathfile.read(sys.argv[1], root=None, label_map=None, require_labels=False)
            samples = [Sample(Path(row.location), -1, row.path_as_written) for row in listed.rows]
            data = {listed.modality: samples[: int(sys.argv[2]) if len(sys.argv) > 2 else 300]}
        else:
            clips = make_clips(Path(scratch))
            stills = [Sample(file, -1, file.name) for clip in clips for file in list_frames(clip.source)]
            data = {"video": clips, "img": stills}
        print(f"{'samples/s, one core':20s} {'ecstfl':>10s} {'plain':>10s} {'ratio':>8s}")
        for modality, samples in data.items():
            for training in (True, False):
                compare(samples, modality, training)


if __name__ == "__main__":
    main()
