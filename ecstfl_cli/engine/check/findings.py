"""What a check found: one verdict each, with numbers, an example and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.check.target import CheckTarget, Split

# `wrong` would corrupt a result, `note` is worth knowing, `skipped` could not be looked at.
Verdict = Literal["ok", "note", "wrong", "skipped"]
# The share of a split from which noise that releases are known to carry changes what a result means.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Finding:
    """One check's verdict. `count` is what `items` list in full, each with at least a `path`; `advice` what to do."""

    check: str
    verdict: Verdict
    summary: str
    count: int = 0
    advice: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)

    @property
    def example(self) -> str:
        """The first item, in words."""
        if not self.items:
            return ""
        first = self.items[0]
        return ": ".join(str(first[key]) for key in ("where", "path", "problem") if first.get(key))


def rows_where(
    target: CheckTarget, is_meant: Callable[[Split], NDArray[np.bool_]]
) -> Iterator[tuple[Split, int, str]]:
    """(split, row, path) of the rows for which a mask over a split's rows is set."""
    for split in target.splits:
        for row in np.flatnonzero(is_meant(split)).tolist():
            yield split, row, target.locations[split.samples[row]]


def item(split: Split, row: int, path: str, problem: str, **more: Any) -> dict[str, Any]:
    """One row of a list and what is to say of it."""
    return {"split": split.name, "where": split.where(row), "path": path, "problem": problem, **more}


def counted(n: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
