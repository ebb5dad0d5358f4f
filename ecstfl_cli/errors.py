"""Expected failures: one readable message on stderr, exit code 1, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class EcstflError(Exception):
    """Something the user can mend. `message` says what and where, `hint` what is allowed or what to run next.

    `told_by_main`: of several processes, the main one tells it, so that the others need not.
    """

    told_by_main = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class RegistryError(EcstflError):
    """A component is unknown, ambiguous or cannot be loaded."""


class LabelMapError(EcstflError):
    """A label is outside its map, or two maps cannot be joined by name."""


class RecipeError(EcstflError):
    """A recipe is wrong; the message lists every problem with line and key path."""


class DataError(EcstflError):
    """A path file or what it points at is wrong; the message lists the problems."""


class CheckpointError(EcstflError):
    """Weights cannot be found, read or fitted to a model."""


class DeviceError(EcstflError):
    """A device or precision is not available on this machine."""


class OutputError(EcstflError):
    """Results cannot be written: a full disk, a limit, a folder that is not the user's."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> OutputError:
        """The message for a file that cannot be written."""
        reason = error.strerror or str(error)
        return cls(f"cannot write {path}: {reason}", "Is there room, and may you write there? Elsewhere: --out DIR.")


class ExportError(EcstflError):
    """An exported model could not be written, or differs from the original."""


def suggest(name: str, known: Iterable[str]) -> str:
    """'Did you mean …? ' for near matches of `name`, else an empty string."""
    candidates = list(known)
    lowered = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.55)
    if not near:
        return ""
    return "Did you mean " + " or ".join(repr(lowered[n]) for n in near) + "? "


def listing(problems: Sequence[str], limit: int = 20) -> str:
    """The first `limit` problems, one a line, and how many more there are."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  … and {len(problems) - limit} more")
    return "\n".join(lines)
