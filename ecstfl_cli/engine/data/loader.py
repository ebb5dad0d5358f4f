"""Batches of samples: order from an explicit seed, worker processes, pinned memory."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from ecstfl_cli.api import Batch, InputSpec
from ecstfl_cli.components.sample_dataset import SampleDataset, Source, collate
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.processes import STOP_SIGNALS
from ecstfl_cli.errors import DataError

Key = tuple[int, int]
Share = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Part:
    """A run of the training list, and how often an epoch sees each of its samples: `weight` times.

    A whole number of times each of them; for the rest of the weight some of them, other ones in each epoch, until all
    have had their turn. What is seen several times stands in the list as many times: as `copies` runs of `samples`.
    """

    samples: int
    weight: float = 1.0

    @property
    def copies(self) -> int:
        """How often the run must stand in the list."""
        return math.ceil(self.weight)

    @property
    def draws(self) -> int:
        """Samples that an epoch sees, at least one."""
        return max(1, round(self.weight * self.samples))

    def indices(self, seed: Sequence[int], epoch: int) -> NDArray[np.int64]:
        """What an epoch sees, from 0 to copies * samples - 1; the turns are shuffled by `seed`."""
        whole = int(self.weight) * self.samples
        taken = self.draws - whole
        turns = epoch * taken + np.arange(taken)
        rounds = turns // self.samples
        orders = {r: np.random.default_rng((*seed, int(r), 1)).permutation(self.samples) for r in np.unique(rounds)}
        rest = [orders[r][place] for r, place in zip(rounds, turns % self.samples, strict=True)]
        return np.concatenate([np.arange(whole), whole + np.array(rest, dtype=np.int64)])


class TrainingOrder(Sampler[list[Key]]):
    """Batches of (epoch, index) shuffled by (seed, epoch); of each, this process's share.

    Set `epoch` before each pass, and `start` to leave out the batches before it. `drop_last` leaves out the incomplete
    last batch, as the reference does. `n` samples make an epoch: all, or those that the weights of `parts` give it.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = True,
        share: Share = tuple,
        parts: Sequence[Part] = (),
    ) -> None:
        self.parts = parts if any(part.weight != 1 for part in parts) else ()
        self.n = sum(part.draws for part in parts) if self.parts else n
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.epoch = self.start = 0
        self._share = share
        self._shuffled: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, len(self)):
            yield [(self.epoch, i) for i in self._share(self.batch(step))]

    def batch(self, step: int) -> list[int]:
        """Indices of the samples that all processes see at a step of the epoch."""
        if self._shuffled[0] != self.epoch:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
            self._shuffled = (self.epoch, (self._drawn()[order] if self.parts else order).tolist())
        return self._shuffled[1][step * self.batch_size : (step + 1) * self.batch_size]

    def _drawn(self) -> NDArray[np.int64]:
        """What the weights of the parts give this epoch."""
        starts = accumulate((part.copies * part.samples for part in self.parts), initial=0)
        return np.concatenate(
            [
                start + part.indices((self.seed, i, 0), self.epoch)
                for i, (start, part) in enumerate(zip(starts, self.parts, strict=False))
            ]
        )


class EvaluationOrder(Sampler[list[Key]]):
    """Every index once, in order, batches dealt out to the processes in turn.

    All processes get equally many, because a sharded network needs all of them for each: the last batch is repeated.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, count: int = 1) -> None:
        self.n, self.batch_size, self.rank, self.count = n, batch_size, rank, count

    def __len__(self) -> int:
        return -(-self.n // (self.batch_size * self.count))

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self._batches(self.rank):
            yield [(0, i) for i in batch]

    def indices(self, rank: int) -> list[int]:
        """What a process sees, in its order."""
        return [i for batch in self._batches(rank) for i in batch]

    def _batches(self, rank: int) -> Iterator[range]:
        last = -(-self.n // self.batch_size) - 1
        for turn in range(len(self)):
            start = min(turn * self.count + rank, last) * self.batch_size
            yield range(start, min(start + self.batch_size, self.n))


def training_loader(
    samples: Sequence[Source], spec: InputSpec, order: TrainingOrder, augmentation: Augmentation, workers: int
) -> DataLoader:
    """Batches (api.Batch) for training, as `order` says."""
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


def shut_down(loaders: Iterable[DataLoader]) -> None:
    """End the worker processes, which no signal ends; call it when they are not needed any more."""
    for loader in loaders:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            loader._iterator = None


def _loader(dataset: SampleDataset, order: Sampler[list[tuple[int, int]]], workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # One of its own: the global generator, which dropout draws from, must not know of the loader.
        generator=torch.Generator(),
        worker_init_fn=_begin_worker,
    )


def _begin_worker(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
    # They reach every process. Whoever uses the loader finishes its step first, and needs its workers.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
