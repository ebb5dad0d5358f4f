"""What a run needs to continue: weights, optimiser, epoch, random state; saved after each epoch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.media.atomic import complete_file

FORMAT = 1


@dataclass
class TrainingState:
    """`epoch` epochs are complete. `rows` are those of metrics.csv.

    `last` and `best` map `epoch` to its number and `val` to its full metrics on the validation samples.
    """

    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, stateful: Mapping[str, Any], fingerprint: str) -> None:
        """Everything in one file, moved into place when complete. `stateful` are network, optimiser and the like."""
        state = {
            "format": FORMAT,
            "epoch": self.epoch,
            "rows": self.rows,
            "last": self.last,
            "best": self.best,
            "fingerprint": fingerprint,
            "stateful": {name: part.state_dict() for name, part in stateful.items()},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with complete_file(path) as partial:
            torch.save(state, partial)

    @classmethod
    def restore(cls, path: Path, stateful: Mapping[str, Any], fingerprint: str) -> TrainingState:
        """Load what `save` wrote into network, optimiser and the like.

        Raises CheckpointError where the file is damaged, or belongs to another model or another training list.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"{path} was written with another training list, label map or split",
                    "Resume with the recipe and the path files of that run, or start a new run.",
                )
            for name, part in stateful.items():
                part.load_state_dict(state["stateful"][name])
        except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"cannot continue from {path}: {error}", "Start a new run from best.safetensors or last.safetensors."
            ) from error
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return cls(state["epoch"], state["rows"], state["last"], state["best"])
