"""How a workflow speaks: messages and progress. The command line shows them, Python callers may collect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]


class Reporter:
    """Shows nothing and keeps what was said in `notes` and `warnings`; the command line overrides all three methods."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        """One line of information."""
        self.notes.append(message)

    def warn(self, message: str) -> None:
        """One line that the user should not miss."""
        self.warnings.append(message)

    @contextmanager
    def progress(self, description: str, total: int, unit: str = "clips") -> Iterator[Advance]:
        """Yields `advance(n, note="")`, to be called after each batch of n units of `total`."""
        yield lambda n, note="": None
