"""What a check found: one verdict each, with numbers, an example and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.engine.check.target import CheckTarget, Split

# `wrong` would corrupt a result, `note` is worth knowing, `skipped` could not be looked at.
Verdict = Literal["ok", "note", "wrong", "skipped"]
# Items of one check that are kept: the report lists so many, and says how many more there are.
ITEMS = 2000
# The share of a split from which noise that releases are known to carry changes what a result means.
TOLERANCE = 0.01

Item = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One check's verdict. `items` are what it is about, each with `where`, `path` and `problem`.

    `advice` says what to do; `found` is the number of items where they are more than are kept.
    """

    check: str
    verdict: Verdict
    summary: str
    items: list[Item] = field(default_factory=list)
    advice: str = ""
    found: int | None = None

    @property
    def count(self) -> int:
        """How many items there are, kept or not."""
        return len(self.items) if self.found is None else self.found

    @property
    def example(self) -> str:
        """The first item, in words."""
        if not self.items:
            return ""
        first = self.items[0]
        return ": ".join(part for part in (Path(first["where"]).name, first["path"], first["problem"]) if part)


def item(split: Split, row: int, path: str, problem: str, **more: Any) -> Item:
    """One row of a list and what is to say of it."""
    return {"split": split.name, "where": split.where(row), "path": path, "problem": problem, **more}


def items_where(
    target: CheckTarget,
    is_meant: Callable[[Split], NDArray[np.bool_]],
    problem_of: Callable[[int], str],
) -> list[Item]:
    """Items of the rows for which a mask over a split's rows is set; `problem_of` tells the problem of a sample."""
    return [
        item(split, row, target.locations[split.samples[row]], problem_of(int(split.samples[row])))
        for split in target.splits
        for row in np.flatnonzero(is_meant(split)).tolist()
    ]
