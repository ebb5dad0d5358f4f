"""What a run needs to continue: weights, optimiser, epoch, random state; saved after each epoch."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecstfl_cli.errors import CheckpointError


@dataclass
class TrainingState:
    """`epoch` epochs are complete. `rows` are those of metrics.csv.

    `last` and `best` map `epoch` to its number and `val` to its full metrics on the validation samples.
    """

    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, network: torch.nn.Module, optimizer: Any, scaler: Any, fingerprint: str) -> None:
        """Everything in one file, moved into place when complete."""
        state = {
            "format": 1,
            "epoch": self.epoch,
            "rows": self.rows,
            "last": self.last,
            "best": self.best,
            "fingerprint": fingerprint,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        partial = path.with_name(path.name + ".part")
        torch.save(state, partial)
        partial.replace(path)

    @classmethod
    def restore(
        cls, path: Path, network: torch.nn.Module, optimizer: Any, scaler: Any, fingerprint: str
    ) -> TrainingState:
        """Load a saved state into network and optimiser.

        Raises CheckpointError where the file is damaged, or belongs to another model or another training list.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"{path} was written with another training list, label map or split",
                    "Resume with the recipe and the path files of that run, or start a new run.",
                )
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"cannot continue from {path}: {error}", "Start a new run from best.safetensors or last.safetensors."
            ) from error
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return cls(state["epoch"], state["rows"], state["last"], state["best"])
