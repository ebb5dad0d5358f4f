"""The folder of one run: everything that a paper's table can be rebuilt from."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ecstfl_cli.engine.reporter import Advance, Reporter
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.files import complete_file


class RunFolder:
    """`runs/<recipe>/<time>/`: recipe, environment, metrics, checkpoints, plots, predictions and log of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.states = path / "state"
        self.metrics_table = path / "metrics.csv"
        self.metrics = path / "metrics.json"
        self.predictions = path / "predictions.csv"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"
        self.samples = path / "samples.png"
        self.environment = path / "environment.json"
        self.log = path / "log.txt"

    @classmethod
    def create(cls, parent: Path) -> RunFolder:
        """A new folder named by the local time. Raises EcstflError where it cannot be made."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
            try:
                path.mkdir(parents=True)
                run = cls(path)
                run.states.mkdir()
                return run
            except FileExistsError:
                continue
            except OSError as error:
                raise EcstflError(
                    f"cannot make the run folder {path}: {error}", "Set output to another folder."
                ) from error
        raise EcstflError(f"no free run folder under {parent}")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises EcstflError where it is none, or holds no state to continue from."""
        run = cls(path)
        if path.is_file():
            raise EcstflError(
                f"--resume takes a run folder, and {path} is a file",
                "To start a new run from weights use --set model.checkpoint=FILE.",
            )
        if not (run.recipe.is_file() or run.states.is_dir()):
            raise EcstflError(
                f"{path} is not a run folder: it has no recipe.yaml", "Run folders are made under runs/<recipe>/<time>."
            )
        if not any(run.states.glob("*.pt")):
            raise EcstflError(
                f"{path} has no state to continue from: it stopped before its first epoch ended",
                f"Start it again: ecstfl finetune {run.recipe}",
            )
        return run

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nobody else may write here inside the block. Raises EcstflError, naming who does, where somebody is."""
        from filelock import FileLock, Timeout

        owner = self.states / "owner.json"
        lock = FileLock(self.states / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise EcstflError(
                f"{self.path} is in use{_described(owner)}", "Wait until it has stopped, or stop it."
            ) from None
        try:
            self.write_json(owner, {"process": os.getpid(), "host": platform.node(), "since": _now()})
            yield
        finally:
            # Whoever is killed leaves the file, but not the lock, which the system lifts.
            owner.unlink(missing_ok=True)
            lock.release()

    def discard(self) -> None:
        """Remove the folder of a run that never started."""
        shutil.rmtree(self.path)

    def write_json(self, path: Path, value: Any) -> None:
        """A JSON file, moved into place when complete."""
        write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")

    def write_metrics_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """metrics.csv: one row an epoch; the columns are those of any row."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics_table, text.getvalue())


def _described(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text(encoding="utf-8"))
        return f": process {found['process']} on {found['host']} has it since {found['since']}"
    except (OSError, ValueError, KeyError):
        return " by another process"


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file under a temporary name and move it into place."""
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


class LoggingReporter(Reporter):
    """Passes everything on to another reporter and keeps the messages in a run's log.txt."""

    def __init__(self, reporter: Reporter, log: Path) -> None:
        super().__init__()
        self.reporter = reporter
        self.log = log

    def note(self, message: str) -> None:
        """One line of information."""
        self.reporter.note(message)
        self._write(message)

    def warn(self, message: str) -> None:
        """One line that the user should not miss."""
        self.reporter.warn(message)
        self._write(f"warning: {message}")

    @contextmanager
    def progress(self, description: str, total: int, unit: str = "clips") -> Iterator[Advance]:
        """The other reporter's progress."""
        with self.reporter.progress(description, total, unit) as advance:
            yield advance

    def _write(self, message: str) -> None:
        # On a full disk the message still reaches the terminal.
        with suppress(OSError), self.log.open("a", encoding="utf-8") as file:
            file.write(f"{_now()} {message}\n")
