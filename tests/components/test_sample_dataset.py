"""From samples on disk to uint8 batches; randomness from (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.data.loader import EvaluationOrder, TrainingOrder, evaluation_loader, training_loader


@dataclass(frozen=True)
class Sample:
    source: Path
    label: int
    clip_id: str


@pytest.fixture
def numbered_clip(tmp_path: Path) -> Sample:
    """Twelve frames, each of one grey value: ten times its index; names not zero-padded."""
    for i in range(12):
        Image.new("RGB", (20, 20), (10 * i,) * 3).save(tmp_path / f"{i}.png")
    return Sample(tmp_path, 3, "clip")


def test_a_clip_is_read_in_natural_order_at_the_sampled_indices(numbered_clip: Sample) -> None:
    spec = InputSpec("video", size=8, sampling=FrameSampling("uniform", frames=6))
    item = SampleDataset([numbered_clip], spec)[(0, 0)]
    assert item.frames.shape == (6, 8, 8, 3)
    assert item.frames.dtype == np.uint8
    assert item.frames[:, 0, 0, 0].tolist() == [10, 30, 50, 70, 90, 110]
    assert (item.label, item.clip_id) == (3, "clip")


def test_short_clips_repeat_frames(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (50,) * 3).save(tmp_path / "1.png")
    frames = SampleDataset([Sample(tmp_path, 0, "a")], InputSpec("video", size=8))[(0, 0)].frames
    assert frames.shape == (16, 8, 8, 3)
    assert (frames == 50).all()


def test_a_sample_depends_on_seed_epoch_and_index_only(tiny_clips: Callable) -> None:
    data = tiny_clips(classes=1, per_class=2, frames=12)
    samples = [Sample(p, 0, p.name) for p in sorted((data.root / "clips").iterdir()) if p.name.startswith("train")]

    def read(seed: int, epoch: int, index: int) -> np.ndarray:
        dataset = SampleDataset(samples, InputSpec(size=16), training=True, augmentation=Augmentation(), seed=seed)
        return dataset[(epoch, index)].frames

    assert (read(0, 0, 0) == read(0, 0, 0)).all()
    assert not (read(0, 0, 0) == read(0, 1, 0)).all()
    assert not (read(0, 0, 0) == read(1, 0, 0)).all()


def test_evaluation_ignores_the_epoch(numbered_clip: Sample) -> None:
    dataset = SampleDataset([numbered_clip], InputSpec(size=8))
    assert (dataset[(0, 0)].frames == dataset[(5, 0)].frames).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_training_frames(tiny_clips: Callable, workers: int) -> None:
    data = tiny_clips(classes=2, per_class=3, frames=12)
    samples = [Sample(p, i, p.name) for i, p in enumerate(sorted((data.root / "clips").glob("train*")))]
    augmentation = Augmentation(rand_ops=2, erasing=0.5)

    def read(workers: int) -> list[torch.Tensor]:
        order = TrainingOrder(len(samples), 2, seed=3)
        loader = training_loader(samples, InputSpec(size=16), order, augmentation, workers)
        return [batch.frames for batch in loader]

    before = torch.get_rng_state()
    alone = read(0)
    assert (torch.get_rng_state() == before).all()
    assert len(alone) == 3
    assert all((a == b).all() for a, b in zip(alone, read(workers), strict=True))


def test_a_clip_is_listed_once(numbered_clip: Sample) -> None:
    spec = InputSpec("video", size=8, sampling=FrameSampling("uniform", frames=6))
    dataset = SampleDataset([numbered_clip], spec)
    first = dataset[(0, 0)].frames
    for i in range(12, 40):
        Image.new("RGB", (20, 20), "white").save(numbered_clip.source / f"{i}.png")
    assert (dataset[(1, 0)].frames == first).all()


def test_training_batches_hold_every_sample_once_in_an_order_of_the_epoch() -> None:
    order = TrainingOrder(10, 3, seed=0)
    first = list(order)
    assert [len(batch) for batch in first] == [3, 3, 3]
    seen = [index for batch in first for _, index in batch]
    assert len(set(seen)) == 9
    assert list(order) == first
    order.epoch = 1
    assert [index for batch in order for _, index in batch] != seen
    assert {epoch for batch in order for epoch, _ in batch} == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_uint8_batches_in_order(tiny_images: Callable, workers: int) -> None:
    data = tiny_images(classes=2, per_class=3)
    files = sorted((data.root / "images").glob("train*"))
    samples = [Sample(path, i, path.name) for i, path in enumerate(files)]
    spec = InputSpec("img", size=16)
    batches = list(evaluation_loader(samples, spec, EvaluationOrder(len(samples), 4), workers))
    assert [len(batch.clip_ids) for batch in batches] == [4, 2]
    assert batches[0].frames.shape == (4, 16, 16, 3)
    assert batches[0].frames.dtype == torch.uint8
    assert torch.cat([batch.target for batch in batches]).tolist() == list(range(6))
    order = TrainingOrder(len(samples), 4, seed=0)
    trained = next(iter(training_loader(samples, spec, order, Augmentation(), workers)))
    assert trained.frames.shape == (4, 16, 16, 3)


def test_collate_keeps_names_and_labels(numbered_clip: Sample) -> None:
    item = SampleDataset([numbered_clip], InputSpec(size=8))[(0, 0)]
    batch = collate([item, item])
    assert batch.clip_ids == ["clip", "clip"]
    assert batch.target.tolist() == [3, 3]
