"""Cores that there are, and worker processes that do not outlive who started them."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


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
