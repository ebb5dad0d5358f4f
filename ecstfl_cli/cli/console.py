"""What a command shows: results on stdout, progress and messages on stderr, errors as one message."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from ecstfl_cli.engine.reporter import Advance, Reporter
from ecstfl_cli.errors import EcstflError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class SafeConsole(Console):
    """A console on which no file's name moves the cursor or changes colours: control characters are escaped."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's."""
        super().print(*(_visible(one) if isinstance(one, str) else one for one in objects), **options)


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


out = SafeConsole(soft_wrap=True, highlight=False)
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)


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


def refuse(ctx: typer.Context, what: str, *names: str, panels: Sequence[str] = (), but: Sequence[str] = ()) -> None:
    """Raise EcstflError where options of these names, or of these panels of the help, stand on the command line."""
    unfit = [
        option.opts[0]
        for option in ctx.command.params
        if (option.name in names or getattr(option, "rich_help_panel", None) in panels)
        and option.name not in but
        and (source := ctx.get_parameter_source(option.name or ""))
        and source.name == "COMMANDLINE"
    ]
    if unfit:
        raise EcstflError(f"{', '.join(unfit)}: not for {what}", f"Leave it out; see `{ctx.command_path} --help`.")


def print_columns(
    rows: Sequence[Sequence[str]], styles: Sequence[str | None] = (), numeric: Sequence[int] = ()
) -> None:
    """Columns as wide as they need to be, so that nothing is cut where the output is piped; the first row is bold.

    `styles` are those of the other rows. Columns of the indices `numeric` are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, style in zip(rows, ["bold", *(styles or [None] * (len(rows) - 1))], strict=True):
        cells = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.print("  ".join(cells).rstrip(), markup=False, style=style)


def escaped(text: str) -> str:
    """Text in which rich sees no markup."""
    from rich.markup import escape

    return escape(text)
