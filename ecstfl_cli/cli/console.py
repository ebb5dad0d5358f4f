"""What a command shows: results on stdout, progress and messages on stderr, errors as one message."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from ecstfl_cli.engine.reporter import Advance, Reporter

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class TerminalReporter(Reporter):
    """Bars with rate and ETA on a terminal, plain lines elsewhere."""

    PLAIN_LINE_SECONDS = 10.0

    def note(self, message: str) -> None:
        super().note(message)
        err.print(message, markup=False)

    def warn(self, message: str) -> None:
        super().warn(message)
        err.print(f"warning: {message}", style="yellow", markup=False)

    @contextmanager
    def progress(self, description: str, total: int, unit: str = "clips") -> Iterator[Advance]:
        if err.is_terminal:
            yield from self._bar(description, total, unit)
        else:
            yield from self._lines(description, total, unit)

    def _bar(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        started = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(description, total=total, rate="", note="")
            done = 0

            def advance(n: int, note: str = "") -> None:
                nonlocal done
                done += n
                rate = f"{done / max(time.monotonic() - started, 1e-9):.1f} {unit}/s"
                bar.update(task, advance=n, rate=rate, note=note)

            yield advance

    def _lines(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        started = last = time.monotonic()
        done = 0

        def advance(n: int, note: str = "") -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last < self.PLAIN_LINE_SECONDS:
                return
            last = now
            rate = done / (now - started)
            eta = (total - done) / rate
            err.print(f"{description}: {done}/{total} {unit}, {rate:.1f} {unit}/s, ETA {eta:.0f} s {note}".rstrip())

        yield advance


def is_main() -> bool:
    """Whether this process speaks: of those that torchrun or the like has started, the first."""
    return os.environ.get("RANK", "0") == "0"


def reporter() -> Reporter:
    """One that shows on the terminal, in the main process only."""
    return TerminalReporter() if is_main() else Reporter()


def print_json(value: Any) -> None:
    """Machine-readable result on stdout."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
