"""A process that is killed while it puts files in place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


class Killed(BaseException):
    """What nothing catches, as SIGKILL."""


def kill_at_move(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the process is killed at this move or removal of a file or folder, and clears nothing up."""
    left = iter(range(number))
    for name in ("rename", "replace", "unlink"):
        move = getattr(Path, name)

        def moved(self: Path, *args, move=move, **kwargs):
            if next(left, None) is None:
                monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
                raise Killed
            return move(self, *args, **kwargs)

        monkeypatch.setattr(Path, name, moved)
