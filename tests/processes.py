"""A function in several processes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import multiprocessing as mp

# What takes seconds to import, and is imported once, by the process that the others are copies of.
PRELOADED = ["pytest", "pandas", "timm", "torch.distributed.fsdp", "ecstfl_cli.engine.training.finetune"]


def run_in_processes(function: Callable[..., None], args: tuple[Any, ...], count: int) -> None:
    """Call `function(rank, *args)` in `count` new processes and wait for them; an error in one is raised here."""
    method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
    if method == "forkserver":
        mp.set_forkserver_preload(PRELOADED)
    mp.start_processes(function, args, nprocs=count, start_method=method)
