"""Training runs of a second or two, for tests: grid_cnn at 32 px on tiny data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ecstfl_cli.engine.reporter import Advance, Reporter
from ecstfl_cli.engine.training.finetune import RunResult, finetune
from ecstfl_cli.recipe import Recipe


def small_recipe(tiny: Any, output: Path, **changes: Any) -> Recipe:
    """Two epochs of the training list in batches of 4, without an evaluation list; `changes` go into its sections."""
    video = tiny.train.suffix == ".txt"
    sections: dict[str, Any] = {
        "name": "small",
        "output": str(output),
        "data": {"train": [str(tiny.train)]},
        "input": {
            "modality": "video" if video else "img",
            "size": 32,
            "sampling": {"scheme": "uniform", "frames": 4},
        },
        "model": {"backbone": "motion_grid_cnn" if video else "grid_cnn", "args": {"width": 4}},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "constant"},
        "train": {"epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu"},
    }
    return Recipe.model_validate(merged(sections, changes))


def merged(sections: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a recipe with changes: keys go into sections, everything else takes the other's place."""
    found = dict(sections)
    for key, value in changes.items():
        into_section = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = {**found[key], **value} if into_section else value
    return found


def train(recipe: Recipe, reporter: Reporter | None = None, **options: Any) -> RunResult:
    """`finetune` with a reporter that keeps silent; `options` are `resume` and `repeat`."""
    return finetune(recipe, reporter=reporter or Reporter(), **options)


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """The weights of a run's checkpoint."""
    return load_file(run / f"{which}.safetensors")


def same_weights(a: Path, b: Path, which: str = "last") -> bool:
    """Whether two runs have the same weights to the bit."""
    left, right = weights(a, which), weights(b, which)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


class At(Reporter):
    """Does something when so many steps are done of what is described in this way."""

    def __init__(self, steps: int, action: Callable[[], Any], description: str = "epoch") -> None:
        super().__init__()
        self.left, self.action, self.description = steps, action, description

    @contextmanager
    def progress(self, description: str, total: int, unit: str = "clips") -> Iterator[Advance]:  # noqa: ARG002
        yield lambda n, note="": self._step(description)  # noqa: ARG005

    def _step(self, description: str) -> None:
        self.left -= description.startswith(self.description)
        if self.left == 0:
            self.left = -1
            self.action()


class StopAfter(At):
    """Sends this process a signal after so many steps, as SLURM or a keyboard would."""

    def __init__(self, steps: int, number: int, description: str = "epoch") -> None:
        super().__init__(steps, lambda: os.kill(os.getpid(), number), description)
