"""When a run stops before its end, and when its state is saved: signals, a time limit, an interval.

Several processes agree on it after each update, so that all of them stop after the same step.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ecstfl_cli.engine.processes import STOP_SIGNALS
from ecstfl_cli.engine.training.distributed import Processes


@dataclass(frozen=True)
class Stop:
    """Why a run stops early, and the exit code that says so: 128 + the signal's number, 0 for the time limit."""

    reason: str
    exit_code: int


class StoppedError(Exception):
    """Raised inside a run where it stops early; never leaves the engine."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.reason)
        self.stop = stop


class Watch:
    """Listens for signals while it is entered. In a thread other than the main one, Python delivers none."""

    def __init__(
        self, processes: Processes, max_minutes: float | None = None, save_every: int | str | None = None
    ) -> None:
        self._processes = processes
        self._ends = time.monotonic() + 60 * max_minutes if max_minutes else None
        self._limit = f"the time limit of {max_minutes:g} minutes" if max_minutes else ""
        self._save_steps = save_every if isinstance(save_every, int) else None
        self._save_seconds = 60 * float(save_every.removesuffix("min")) if isinstance(save_every, str) else None
        self._saved_at, self._steps = time.monotonic(), 0
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT == number and self._processes.count == 1:
            # Somebody is at the keyboard and does not want to wait. A launcher repeats signals by itself.
            signal.default_int_handler(number, frame)
        self._received = number

    def stop(self) -> Stop | None:
        """Whether any process was asked to stop, and why."""
        over = self._ends is not None and time.monotonic() >= self._ends
        *received, out_of_time = self._processes.any(*(self._received == number for number in STOP_SIGNALS), over)
        for number, asked in zip(STOP_SIGNALS, received, strict=True):
            if asked:
                return Stop(signal.Signals(number).name, 128 + number)
        return Stop(self._limit or "the time limit", 0) if out_of_time else None

    def check(self) -> None:
        """Raise StoppedError where any process was asked to stop."""
        if stop := self.stop():
            raise StoppedError(stop)

    def save_is_due(self, steps: int) -> bool:
        """Whether to save after `steps` more steps. The main process's clock decides for all."""
        self._steps += steps
        due = self._save_steps is not None and self._steps >= self._save_steps
        if self._save_seconds is not None:
            late = time.monotonic() - self._saved_at >= self._save_seconds
            (due,) = self._processes.any(late and self._processes.is_main)
        if due:
            self.saved()
        return due

    def saved(self) -> None:
        """The state was saved just now: the interval starts again."""
        self._saved_at, self._steps = time.monotonic(), 0
