"""Dependencies point one way, between the parts of the package and between those of the engine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ecstfl_cli

PACKAGE = Path(ecstfl_cli.__file__).parent
# Each may import from those after it, and from the modules at the top of the package.
PARTS = ["cli", "engine", "report", "components", "media"]
ENGINE = ["publishing", "training", "inference", "preparation", "check", "weights", "data"]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize(("folder", "order"), [(PACKAGE, PARTS), (PACKAGE / "engine", ENGINE)])
def test_each_part_imports_only_from_those_below(folder: Path, order: list[str]) -> None:
    prefix = ".".join(["ecstfl_cli", *folder.relative_to(PACKAGE).parts, ""])
    assert {path.name for path in folder.iterdir() if (path / "__init__.py").exists()} == set(order)
    wrong = []
    for place, part in enumerate(order):
        for path in (folder / part).rglob("*.py"):
            parts = [name.removeprefix(prefix).split(".")[0] for name in imported(path) if name.startswith(prefix)]
            wrong += [f"{path}: {other}" for other in parts if other in order[:place]]
    assert not wrong
