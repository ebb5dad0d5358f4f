"""What a run needs to continue: how far it is, and weights, optimiser and random state, in files that survive a kill.

The two newest states are kept. Each appears under its name only when it is complete and on the disk, so that there is
always one to continue from.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.repeat import recipe_changes
from ecstfl_cli.engine.training.run_folder import RunFolder, write_text
from ecstfl_cli.errors import CheckpointError, EcstflError, listing
from ecstfl_cli.files import complete_file
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import is_whole

FORMAT = 2
KEPT = 2
_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.pt")
# Keys of a recipe that a resumed run may change without a word, and those that it cannot change.
_FREE_ON_RESUMING = (
    "description", "output", "train.epochs", "train.device", "train.workers", "train.max_steps", "train.max_minutes",
    "train.save_every", "train.trackers", "train.compile",
)  # fmt: skip
_FIXED_ON_RESUMING = ("label_map", "input.", "model.backbone", "model.temporal_head")


@dataclass
class Progress:
    """`epoch` epochs are complete, and `step` batches of the next one; `totals` are the sums over those.

    `rows` are those of metrics.csv. `last` and `best` map `epoch` to its number and each validation list (`val`) to its
    full metrics. `seconds` were spent on the epoch so far.
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def finish_epoch(self, row: dict[str, Any], last: dict[str, Any]) -> None:
        """The epoch is trained and evaluated: on to the next."""
        self.epoch, self.step, self.totals, self.seconds = self.epoch + 1, 0, {}, 0.0
        self.rows.append(row)
        self.last = last

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"the end of epoch {self.epoch}"


@dataclass(frozen=True)
class SavedState:
    """What one file holds. `parts` are the states of network, optimiser and the like, `random` those of each process.

    `order` is what the order of the samples depends on: within an epoch it must not change.
    """

    progress: Progress
    parts: Mapping[str, Any]
    random: list[dict[str, Any]]
    order: dict[str, Any]
    fingerprint: str
    recipe: str


def save_state(folder: Path, state: SavedState) -> None:
    """Write a state and remove all but the newest ones. Raises CheckpointError where it cannot be written."""
    progress = state.progress
    path = folder / f"epoch_{progress.epoch:05d}_step_{progress.step:07d}.pt"
    plain = {**vars(state), "format": FORMAT, "progress": asdict(progress)}
    try:
        with complete_file(path) as partial, partial.open("wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch wraps the system's error, and says less.
        reason = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), error)
        raise CheckpointError(f"{path}: {str(reason).partition(chr(10))[0]}") from error
    for old in states(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def states(folder: Path) -> list[Path]:
    """The states in a folder, the newest first."""
    found = [
        (tuple(map(int, match.groups())), path) for path in folder.glob("*.pt") if (match := _NAME.match(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def load_state(folder: Path, reporter: Reporter) -> SavedState:
    """The newest state that can be read; damaged ones are named and passed over.

    Raises CheckpointError where there is none, or where a newer ecstfl wrote it.
    """
    damaged = []
    for path in states(folder):
        try:
            plain = torch.load(path, map_location="cpu", weights_only=True)
            version = plain.pop("format")
            if version > FORMAT:
                raise CheckpointError(f"{path} has format {version}; this ecstfl reads up to {FORMAT}", "Update it.")
            state = SavedState(**{**plain, "progress": Progress(**plain["progress"])})
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
            damaged.append(path)
            reporter.warn(f"{path} is damaged and passed over: {str(error).partition(chr(10))[0]}")
            continue
        if damaged:
            reporter.warn(f"continuing from the last good state, {path}: {state.progress}")
        return state
    if damaged:
        raise CheckpointError(
            f"every state in {folder} is damaged: {', '.join(path.name for path in damaged)}",
            "Start a new run; the weights in best.safetensors or last.safetensors can start it: "
            "--set model.checkpoint=FILE.",
        )
    raise EcstflError(f"{folder} holds no state to continue from")


def check_fits(state: SavedState, order: dict[str, Any], fingerprint: str, folder: Path) -> None:
    """Raise CheckpointError where a state belongs to other data, or stopped within an epoch of another order."""
    if state.fingerprint != fingerprint:
        raise CheckpointError(
            f"{folder} was written with another training list, label map or split, or other votes or teachers",
            "Resume with the recipe, the path files and the teachers of that run, or start a new run.",
        )
    changed = {key: value for key, value in state.order.items() if order.get(key) != value}
    if changed and state.progress.step:
        raise CheckpointError(
            f"the run stopped within epoch {state.progress.epoch + 1}, and the rest of it cannot be told with another "
            + " and ".join(f"{key} than {value}" for key, value in changed.items()),
            "Resume with the same values; they may change where an epoch is complete.",
        )


def check_steps(state: SavedState, per_epoch: int, steps: int, run: Path) -> None:
    """Raise EcstflError where a run that ended within an epoch, by train.max_steps, is to make more `steps`."""
    progress = state.progress
    before = (yaml.safe_load(state.recipe) or {}).get("train", {}).get("max_steps")
    if before and not progress.step and before < progress.epoch * per_epoch < steps:
        raise EcstflError(
            f"{run} ended at train.max_steps {before}, within epoch {progress.epoch} of {per_epoch} steps, the rest of "
            "which would be left out",
            "Start a new run, without --resume.",
        )


def mend_recipe(run: RunFolder, reporter: Reporter) -> None:
    """Write the run's recipe.yaml again from its newest state: a kill has left it missing or cut short."""
    write_text(run.recipe, load_state(run.states, reporter).recipe)
    reporter.warn(f"{run.recipe} was damaged and is written again from the run's state")


def changed_recipe(run: RunFolder, recipe: Recipe) -> list[str]:
    """What a resumed run is to go on with that is not as it was, a line each; how long and where is not counted.

    Raises EcstflError where it is another network or other inputs.
    """
    if not is_whole(run.recipe):
        return []
    changed = [line for line in recipe_changes(run.recipe, recipe) if not line.startswith(_FREE_ON_RESUMING)]
    if fixed := [line for line in changed if line.startswith(_FIXED_ON_RESUMING)]:
        raise EcstflError(
            f"{run.path} was begun with another recipe:\n" + listing(fixed),
            "A run cannot change these. Leave them out, or start a new run without --resume.",
        )
    return changed
