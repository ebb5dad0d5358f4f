"""`--processes N`: the same command in several processes of this machine, as torchrun would start them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from types import FrameType
from typing import NoReturn

from ecstfl_cli.engine.processes import cores

OPTION = "--processes"


def is_launched() -> bool:
    """Whether this process was started by torchrun, accelerate launch or `launch`."""
    return "LOCAL_RANK" in os.environ


def leave(code: int) -> NoReturn:
    """End one of several processes now that everything is written and said.

    What is left of gloo's threads when Python ends in its own way may abort a process that has done all it had to do.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(count: int) -> int:
    """Run the present command line in `count` processes; returns the exit code of the first that failed, else 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SignalException(f"got signal {number}", signal.Signals(number))

    # torch does not pass SIGUSR1 on: it would end this process and leave the others running.
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, forward)
    # A step, or a batch of an evaluation, may take longer than the 30 s after which torch kills.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    # The processes say themselves what is wrong.
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ecstfl_cli", *_without_option(sys.argv[1:]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _without_option(arguments: list[str]) -> list[str]:
    kept = []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            next(words, None)
        elif not word.startswith(f"{OPTION}="):
            kept.append(word)
    return kept
