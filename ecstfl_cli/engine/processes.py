"""Cores that there are, signals that stop, and worker processes that do not outlive who started them."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process

# SLURM sends SIGTERM before it takes a job's place away, and whatever `--signal` names before its time is up; Windows
# has no SIGUSR1.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process at once when the one that started it is gone, killed without a chance to say so."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
