"""The verdict as one JSON file, and what it said for a list that is about to be trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ecstfl_cli import __version__
from ecstfl_cli.engine.check.findings import ITEMS, Finding, Verdict
from ecstfl_cli.errors import DataError
from ecstfl_cli.pathfile import write_atomically

FORMAT = "ecstfl-check/1"


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check, what was checked (`facts`, plain containers), and where the report is."""

    path: Path
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings: `wrong`, `note` or `ok`."""
        found = {finding.verdict for finding in self.findings}
        return "wrong" if "wrong" in found else "note" if "note" in found else "ok"

    def wrong(self) -> list[Finding]:
        """What would corrupt a result."""
        return [finding for finding in self.findings if finding.verdict == "wrong"]

    def to_dict(self) -> dict[str, Any]:
        """What `write` writes; each check's items up to `ITEMS`."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            **self.facts,
            "checks": {
                finding.check: {
                    "verdict": finding.verdict,
                    "summary": finding.summary,
                    "count": finding.count,
                    "advice": finding.advice,
                    "items": finding.items[:ITEMS],
                    "items_left_out": max(0, finding.count - ITEMS),
                }
                for finding in self.findings
            },
            "version": __version__,
            "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def write(self) -> None:
        """Write the report in place of an older one. Raises DataError where it cannot be written."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        # File names need not be Unicode.
        write_atomically(self.path, text.encode("utf-8", "backslashreplace").decode() + "\n")


def require_writable(path: Path) -> None:
    """Raise DataError where a report would overwrite a file that is none."""
    if path.exists() and read(path) is None:
        raise DataError(
            f"{path} is not a report of a check and would be overwritten", "Choose another --out, or move it."
        )


def read(path: Path) -> dict[str, Any] | None:
    """A report; None where there is none or the file is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def wrong_in(report: dict[str, Any]) -> Iterable[str]:
    """What a report read from disk calls wrong, one line each."""
    for name, check in report["checks"].items():
        if check["verdict"] == "wrong":
            yield f"{name}: {check['summary']}"
