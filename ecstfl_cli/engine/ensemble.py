"""`ecstfl checkpoints ensemble`: several checkpoints in one file that says what they say on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ecstfl_cli.api import InputSpec, ModelSpec
from ecstfl_cli.components.backbones.ensemble import Ensemble
from ecstfl_cli.engine.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap


def ensemble(models: Sequence[str | Path], *, out: Path, reporter: Reporter) -> Path:
    """Write `out`, a checkpoint whose logits are the mean of the log-probabilities of `models`, in the first's classes.

    It takes frames of the largest size among them, which the others see smaller; faces are cut out as for the first
    that says how. Raises CheckpointError where there are fewer than two, or where they differ in their classes, their
    modality, how they sample frames or how they fit a picture into a square.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"--out {out} does not end in .safetensors", f"Write --out {out.with_suffix('.safetensors')}"
        )
    if len(models) < 2:
        raise CheckpointError("an ensemble needs two models at least", "Name the others, too.")
    members = [open_checkpoint(model, reporter=reporter) for model in models]
    first = members[0]
    for other in members[1:]:
        _require_alike(first, other)
    labels, modality = first.labels, first.input.modality
    described = [
        {
            "model": member.model.to_dict(),
            "size": member.input.size,
            "mean": list(member.input.mean),
            "std": list(member.input.std),
        }
        for member in members
    ]
    size = max(member.input.size for member in members)
    crop = next((member.input.face_crop for member in members if member.input.face_crop), None)
    spec: InputSpec = replace(
        first.input,
        size=size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        face_crop=replace(crop, size=size) if crop else None,
    )
    network = Ensemble(len(labels), members=described, modality=modality)
    state = network.state_dict()
    for number, member in enumerate(members):
        state |= {f"members.{number}.network.{key}": tensor for key, tensor in member.state.items()}
    state["head.weight"] = _mean_by_name(labels, [member.labels for member in members])
    names = [Path(member.source).stem for member in members]
    save_checkpoint(
        out,
        state,
        model=ModelSpec("ensemble", len(labels), {"members": described, "modality": modality}),
        input=spec,
        labels=labels,
        recipe={"name": out.stem, "description": f"the mean of {', '.join(names)}"},
        data={"members": [member.data for member in members]},
    )
    return out


def _mean_by_name(labels: LabelMap, theirs: Sequence[LabelMap]) -> Tensor:
    """The classifier (K, members x K): what each member says of the class of that name, on average."""
    blocks = []
    for member in theirs:
        block = torch.zeros(len(labels), len(labels))
        for row, name in enumerate(labels.names):
            block[row, member.names.index(name)] = 1 / len(theirs)
        blocks.append(block)
    return torch.cat(blocks, dim=1)


def _require_alike(first: Checkpoint, other: Checkpoint) -> None:
    for what, a, b in (
        ("classes", sorted(first.labels.names), sorted(other.labels.names)),
        ("modality", first.input.modality, other.input.modality),
        ("resize", first.input.resize, other.input.resize),
        ("sampling of frames", first.input.sampling, other.input.sampling),
    ):
        if a != b and not (what == "sampling of frames" and first.input.modality == "img"):
            raise CheckpointError(
                f"{first.source} and {other.source} cannot be averaged: their {what} differ, {a} and {b}",
                "The models of an ensemble see the same frames and know the same classes.",
            )
