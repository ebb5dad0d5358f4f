"""The processes of a run: who writes, who holds which share of a batch, and how they agree.

Every loss is computed on the batch of all processes, in each of them. Each process differentiates with respect to its
own rows only, times the number of processes: DistributedDataParallel and FSDP average gradients, so that the average
is the gradient of one process with the whole batch.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from ecstfl_cli.errors import EcstflError

T = TypeVar("T")


class Processes:
    """One process among `count`, started by torchrun or accelerate launch; alone without them.

    `rank` counts from 0 over all machines; rank 0 is the main process, the only one that writes.
    """

    def __init__(self, device: torch.device) -> None:
        # The state is global to the process; a second run in it may want another device.
        PartialState._reset_state()
        state = PartialState(cpu=device.type == "cpu")
        self.rank, self.count = int(state.process_index), int(state.num_processes)
        # Of several GPUs, the one that is this process's.
        self.device = device if self.count == 1 or device.type == "cpu" else torch.device(state.device)
        self.is_main = self.rank == 0
        self.on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        # Agreeing on something must not wait for a GPU.
        self._control: Any = dist.new_group(backend="gloo") if self.count > 1 else None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.count > 1:
            if kind is None:  # Nobody leaves while another one still has something to say to it.
                dist.barrier(group=self._control)
            dist.destroy_process_group()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: one run of it."""
        sizes = share_sizes(len(items), self.count)
        start = sum(sizes[: self.rank])
        return items[start : start + sizes[self.rank]]

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """The rows (total, …) of all processes in the batch's order, from this process's share of them.

        Gradients flow to this process's rows, times the number of processes.
        """
        if self.count == 1:
            return rows
        return _Gather.apply(rows, share_sizes(total, self.count), self.rank)

    def gather_objects(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._control)
        return values

    def share_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors, on the device of this process, have the values that they have in the main process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._control)
        return [bool(vote) for vote in votes.tolist()]

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process, in every process; its EcstflError is raised in every process."""
        if self.count == 1:
            return work()
        if not self.is_main:
            outcome: list[Any] = [None]
            dist.broadcast_object_list(outcome, src=0, group=self._control)
            value, error = outcome[0]
            if error is not None:
                error.told_by_main = True
                raise error
            return value
        try:
            value = work()
        except BaseException as error:
            # The others wait for an answer: they must hear of a bug or of Ctrl-C, too.
            told = error if isinstance(error, EcstflError) else EcstflError("the main process stopped")
            dist.broadcast_object_list([(None, told)], src=0, group=self._control)
            raise
        dist.broadcast_object_list([(value, None)], src=0, group=self._control)
        return value


def share_sizes(total: int, count: int) -> list[int]:
    """Rows of a batch of `total` in each of `count` processes; they differ by one at most."""
    return [total // count + (rank < total % count) for rank in range(count)]


class _Gather(torch.autograd.Function):
    """See Processes.gather. Shares are padded to one size, which every backend can gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.size, ctx.count = sum(sizes[:rank]), sizes[rank], len(sizes)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return ctx.count * gradient[ctx.start : ctx.start + ctx.size], None, None


def random_state() -> dict[str, Any]:
    """The state of every global random generator of this process, as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue from what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
