"""Batches of samples: order from an explicit seed, worker processes, pinned memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ecstfl_cli.api import Batch, InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset, Source, collate
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.errors import DataError


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) shuffled by (seed, epoch), without the incomplete last one, as in the reference."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, i) for i in order[start : start + self.batch_size]]


class EvaluationOrder(Sampler[list[tuple[int, int]]]):
    """Every index once, in order."""

    def __init__(self, n: int, batch_size: int) -> None:
        self.n = n
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, self.n, self.batch_size):
            yield [(0, i) for i in range(start, min(start + self.batch_size, self.n))]


def training_loader(
    samples: Sequence[Source], spec: InputSpec, order: TrainingOrder, augmentation: Augmentation, workers: int
) -> DataLoader:
    """Batches (api.Batch) for training; set `order.epoch` before each pass."""
    dataset = SampleDataset(samples, spec, training=True, augmentation=augmentation, seed=order.seed)
    return _loader(dataset, order, workers)


def evaluation_loader(samples: Sequence[Source], spec: InputSpec, order: EvaluationOrder, workers: int) -> DataLoader:
    """Batches (api.Batch) for evaluation and inference, in the order of the samples."""
    return _loader(SampleDataset(samples, spec), order, workers)


def batches(loader: DataLoader) -> Iterator[Batch]:
    """The loader's batches. Raises DataError, readable also from a worker process, where a sample does not decode."""
    try:
        yield from loader
    except DataError as error:
        # A worker hands its error over as text, behind the traceback of another process.
        raise DataError(error.message.rpartition("DataError: ")[2].strip(), error.hint) from None


def _loader(dataset: SampleDataset, order: Sampler[list[tuple[int, int]]], workers: int) -> DataLoader:
    workers = min(workers, os.cpu_count() or 1)
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
