"""`ecstfl checkpoints ensemble` and `average`: several checkpoints as one, by what they say or by their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ecstfl_cli.api import ModelSpec
from ecstfl_cli.components.backbones.ensemble import Ensemble
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import Checkpoint, save_checkpoint
from ecstfl_cli.engine.weights.fitting import differences
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap, join


def ensemble(models: Sequence[str | Path], *, out: Path, reporter: Reporter) -> None:
    """Write `out`, a checkpoint whose logits are the mean of the log-probabilities of `models`, in the first's classes.

    It takes frames of the largest size among them, which the others see smaller; faces are cut out as for the first
    that says how. Raises CheckpointError where there are fewer than two, or where they differ in their classes, their
    modality, how they sample frames or how they fit a picture into a square.
    """
    members = _opened(models, out, reporter)
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
    spec = replace(
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
    save_checkpoint(
        out,
        state,
        model=ModelSpec("ensemble", len(labels), {"members": described, "modality": modality}),
        input=spec,
        labels=labels,
        recipe={"name": out.stem, "description": f"the mean of what {_named(members)} say"},
        data={"members": [member.data for member in members]},
    )


def average(
    models: Sequence[str | Path], *, out: Path, shares: Sequence[float] | None = None, reporter: Reporter
) -> None:
    """Write `out`, a checkpoint whose weights are the mean of those of `models` (Wortsman et al., ICML 2022).

    `shares` are positive, one for each, by default equal; they are divided by their sum. That is for models that were
    finetuned from the same weights. Input and classes are the first's. Where the models were trained at different
    sizes, or far apart, the means of batch norm fit neither, and the file is one to finetune from. Raises
    CheckpointError where there are fewer than two models, or other networks or classes than the first's.
    """
    members = _opened(models, out, reporter)
    first = members[0]
    shares = [1.0] * len(members) if shares is None else shares
    if len(shares) != len(members) or min(shares) <= 0:
        raise CheckpointError(
            f"there are {len(members)} models, and the shares are {', '.join(f'{share:g}' for share in shares)}",
            "Give a positive number for each model.",
        )
    for other in members[1:]:
        _require_same_network(first, other)
    parts = torch.tensor(shares) / sum(shares)
    state = {
        key: torch.stack([part * member.state[key].float() for part, member in zip(parts, members, strict=True)]).sum(0)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in first.state.items()
    }
    save_checkpoint(
        out,
        state,
        model=first.model,
        input=first.input,
        labels=first.labels,
        recipe={"name": out.stem, "description": f"the mean of the weights of {_named(members)}"},
        data={"members": [member.data for member in members]},
    )


def _opened(models: Sequence[str | Path], out: Path, reporter: Reporter) -> list[Checkpoint]:
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"--out {out} does not end in .safetensors", f"Write --out {out.with_suffix('.safetensors')}"
        )
    if len(models) < 2:
        raise CheckpointError("a mean is one of two models at least", "Name the others, too.")
    return [open_checkpoint(model, reporter=reporter) for model in models]


def _named(members: Sequence[Checkpoint]) -> str:
    return ", ".join(Path(member.source).stem for member in members)


def _require_same_network(first: Checkpoint, other: Checkpoint) -> None:
    if problems := differences(first.state, other.state):
        raise CheckpointError(
            f"the weights of {other.source} are of another network than those of {first.source}: {problems[0]}"
            + (f", and {len(problems) - 1} more" if problems[1:] else ""),
            "Average models finetuned from the same weights; `ecstfl checkpoints ensemble` joins different networks.",
        )
    if first.labels.names != other.labels.names:
        raise CheckpointError(
            f"{other.source} has other classes than {first.source}, or another order: "
            f"{other.labels.describe()}; {first.labels.describe()}",
            "`ecstfl checkpoints ensemble` joins classes by name.",
        )


def _mean_by_name(labels: LabelMap, theirs: Sequence[LabelMap]) -> Tensor:
    """The classifier (K, members x K): what each member says of the class of that name, on average."""
    return torch.cat([torch.tensor(join(labels, member).matrix()) for member in theirs], dim=1) / len(theirs)


def _require_alike(first: Checkpoint, other: Checkpoint) -> None:
    known = [("classes", sorted(first.labels.names), sorted(other.labels.names))]
    settings = ["modality", "resize", *(["sampling"] if first.input.modality == "video" else [])]
    seen = [(name, getattr(first.input, name), getattr(other.input, name)) for name in settings]
    for what, a, b in (*known, *seen):
        if a != b:
            raise CheckpointError(
                f"{first.source} and {other.source} cannot be averaged, they differ in {what}: {a} and {b}",
                "The models of an ensemble see the same frames and know the same classes.",
            )
