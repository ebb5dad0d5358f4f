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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import Running, machine, take_turns, timed
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ecstfl_cli import pathfile
from ecstfl_cli.api import InputSpec, Modality
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.components.sampling import evaluation_indices, training_indices
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.data.loader import TrainingOrder, shut_down, training_loader
from ecstfl_cli.engine.data.samples import Sample
from ecstfl_cli.media.frames import list_frames

ROUNDS = 9


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """Samples as float32 (T, 3, H, W) or (3, H, W), in training with frames, crop and flip drawn at random."""

    def __init__(self, samples: Sequence[Sample], spec: InputSpec, training: bool) -> None:
        self.samples, self.spec, self.training = samples, spec, training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample, spec = self.samples[index], self.spec
        generator = np.random.default_rng() if self.training else None
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
        frames = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images]
        return torch.stack(frames) if spec.modality == "video" else frames[0], sample.label


def ours(samples: Sequence[Sample], spec: InputSpec, training: bool) -> Running:
    """Seconds of reading all samples once, epoch by epoch."""
    torch.set_num_threads(1)
    dataset = SampleDataset(samples, spec, training=training, augmentation=Augmentation())
    epoch = 0
    while True:
        yield _reading(lambda i, epoch=epoch: collate([dataset[(epoch, i)]]), len(samples))  # type: ignore[misc]
        epoch += 1


def plain(samples: Sequence[Sample], spec: InputSpec, training: bool) -> Running:
    """The same with the plain loop."""
    torch.set_num_threads(1)
    dataset = PlainDataset(samples, spec, training)
    while True:
        yield _reading(dataset.__getitem__, len(samples))


def _reading(read: Callable[[int], object], count: int) -> tuple[float, None]:
    return timed(lambda: [read(i) and None for i in range(count)])[0], None


def compare(samples: Sequence[Sample], modality: Modality, training: bool) -> None:
    """Print both rates, the median of the rounds, and the median of their ratios."""
    spec = InputSpec(modality, size=112 if modality == "video" else 224)
    variants = {"ours": partial(ours, samples, spec, training), "plain": partial(plain, samples, spec, training)}
    turns = take_turns(variants, ROUNDS)
    rates = [len(samples) / turns[name].median for name in variants]
    what = f"{'clips' if modality == 'video' else 'stills'}, {'training' if training else 'evaluation'}"
    print(f"{what:20s} {rates[0]:10.1f} {rates[1]:10.1f} {turns['ours'].ratio(turns['plain']):8.2f}")


def training_rate(samples: Sequence[Sample], spec: InputSpec, workers: int, batch: int, batches: int = 20) -> float:
    """Samples per second of the loader that trains, with so many worker processes."""
    repeated = list(samples) * -(-batch * batches // len(samples))
    order = TrainingOrder(len(repeated), batch, seed=0)
    loader: DataLoader = training_loader(repeated, spec, order, Augmentation(), workers)
    for _ in loader:  # Starts the workers, and lists the clips.
        pass
    seconds, _ = timed(lambda: [None for _ in loader])
    shut_down([loader])
    return len(order) * batch / seconds


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
    """Folders of JPEG frames, each a window that moves over one picture; seven classes in turn."""
    samples = []
    for clip in range(clips):
        folder = root / f"{clip}"
        folder.mkdir()
        scene = photograph(side + 2 * frames, np.random.default_rng(clip))
        for t in range(frames):
            window = scene.crop((2 * t, t, 2 * t + side, t + side))
            window.convert("RGB").save(folder / f"{t + 1}.jpg", quality=90)
        samples.append(Sample(folder, clip % 7, folder.name))
    return samples


def stills_of(clips: Sequence[Sample]) -> list[Sample]:
    """Every frame of the clips as a sample of its own."""
    return [Sample(file, clip.label, file.name) for clip in clips for file in list_frames(clip.source)]


def read_list(path: str, limit: int) -> tuple[Modality, list[Sample]]:
    """What a path file lists, and its first samples, with labels in seven classes by turns."""
    listed = pathfile.read(path, root=None, label_map=None, require_labels=False)
    samples = [Sample(Path(row.location), i % 7, row.path_as_written) for i, row in enumerate(listed.rows[:limit])]
    return listed.modality, samples


def main() -> None:
    """Print a table: both rates and their ratio, for training and evaluation."""
    with tempfile.TemporaryDirectory() as scratch:
        data: dict[Modality, list[Sample]]
        if len(sys.argv) > 1:
            modality, samples = read_list(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300)
            data = {modality: samples}
        else:
            clips = make_clips(Path(scratch))
            data = {"video": clips, "img": stills_of(clips)}
        print(f"{machine()}, median of {ROUNDS} rounds")
        print(f"{'samples/s, one core':20s} {'ecstfl':>10s} {'plain':>10s} {'ratio':>8s}")
        for modality, samples in data.items():
            for training in (True, False):
                compare(samples, modality, training)


if __name__ == "__main__":
    main()
