"""`ecstfl finetune --repeat RUN`: what differs between a run and its repetition, before and after training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ecstfl_cli.engine.training.run_folder import RunFolder
from ecstfl_cli.engine.weights.checkpoint import load_native
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import load_recipe

# What may change results; the rest of environment.json says where and when.
COMPARED = ("versions", "device", "precision", "processes", "threads", "teacher", "git", "code", "data")


def require_run(path: Path) -> RunFolder:
    """The run to repeat. Raises EcstflError where it has no recipe or environment."""
    run = RunFolder(path)
    missing = [file.name for file in (run.recipe, run.environment) if not file.is_file()]
    if missing:
        raise EcstflError(
            f"{path} cannot be repeated: it has no {' and no '.join(missing)}",
            "Give a run folder, runs/<recipe>/<time>.",
        )
    return run


def environment_differences(before: RunFolder, now: RunFolder) -> list[str]:
    """What is not as it was, in the recipe too, a line each: `versions.torch: 2.6.0 before, 2.15.0 now`."""
    old, new = (json.loads(run.environment.read_text(encoding="utf-8")) for run in (before, now))
    lines = changes(old, new)
    recipes = [yaml.safe_load(run.recipe.read_text(encoding="utf-8")) or {} for run in (before, now)]
    for recipe in recipes:
        recipe.pop("output", None)
    return [*lines, *_differences("recipe", *recipes)]


def changes(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str] = COMPARED) -> list[str]:
    """What two environments differ in that may change results, a line each."""
    return [line for key in keys for line in _differences(key, before.get(key), now.get(key))]


def recipe_changes(before: Path, now: Recipe) -> list[str]:
    """What a recipe differs in from one in a file, a line each: `optimizer.lr: 0.1 before, 0.5 now`."""
    old = load_recipe(before).model_dump()
    return [line for key, value in now.model_dump().items() for line in _differences(key, old.get(key), value)]


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            yield from _differences(f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield f"{key}: {_shown(old)} before, {_shown(new)} now"


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def result_differences(before: RunFolder, now: RunFolder) -> list[str]:
    """How far the weights and the metrics of two finished runs are apart; no line where they are equal to the bit.

    Raises CheckpointError where a checkpoint cannot be read.
    """
    lines = []
    for name in ("last", "best"):
        old, new = (load_native(getattr(run, name)) for run in (before, now))
        if _shapes(old.state) != _shapes(new.state):
            lines.append(f"{name}.safetensors is of another network")
            continue
        apart = max(_distance(old.state[key], new.state[key]) for key in old.state)
        if apart:
            lines.append(f"{name}.safetensors: weights differ by {apart:.2g} at most")
        lines += [
            f"{name} {key}: {_shown(old.metrics.get(key))} before, {_shown(new.metrics.get(key))} now"
            for key in new.metrics
            if key.endswith(("_war", "_uar", "_loss", "epoch")) and old.metrics.get(key) != new.metrics[key]
        ]
    return lines


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items()}


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
