"""What the benchmarks share: variants that take turns, each in a process of its own, and how they compare."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any
from unittest.mock import patch

# Yields (seconds, value) for each of its turns.
Running = Generator[tuple[float, Any], None, None]
Variant = Callable[[], Running]


@dataclass
class Turns:
    """What a variant did: its first turn's seconds, which do not count, and those of the others; what it yielded, the
    first turn included; and its peak memory in GB (10^9 bytes), on the GPU where it uses one, without the workers of
    its loader.
    """

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    memory: float = 0.0

    @property
    def median(self) -> float:
        """The median turn in seconds."""
        return median(self.seconds)

    def ratio(self, other: Turns) -> float:
        """How many times as long the other took: the median over the rounds, in each of which both had their turn."""
        return median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def take_turns(variants: Mapping[str, Variant], rounds: int) -> dict[str, Turns]:
    """Run the variants one after the other, `rounds` times and once before.

    What a variant raises is raised here. All but `plain` have their threads wait as the command line has them wait.
    """
    context = multiprocessing.get_context("spawn")
    turns = {name: Turns() for name in variants}
    with ExitStack() as held:
        ends: dict[str, Connection] = {}
        for name, variant in variants.items():
            ends[name], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, variant))
            with patch.dict(os.environ, {} if name.startswith("plain") else {"GOMP_SPINCOUNT": "1000"}):
                process.start()
            held.callback(process.join)
            held.callback(ends[name].close)
            theirs.close()
        for turn in range(rounds + 1):
            for name, end in ends.items():
                end.send(None)
                answer = end.recv()
                if isinstance(answer, BaseException):
                    raise answer
                seconds, value, turns[name].memory = answer
                turns[name].values.append(value)
                if turn:
                    turns[name].seconds.append(seconds)
                else:
                    turns[name].first = seconds
    return turns


def _serve(end: Connection, variant: Variant) -> None:
    """One turn for each request, until the other end is closed."""
    try:
        with closing(variant()) as turns:
            while True:
                end.recv()
                seconds, value = next(turns)
                end.send((seconds, value, _peak_memory()))
    except EOFError:
        return
    except Exception as error:
        end.send(error)


def _peak_memory() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """How many seconds `work` took, and what it returned."""
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def machine() -> str:
    """The cores and how busy they were already, for the head of a table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, load {os.getloadavg()[0]:.1f} at the start"
