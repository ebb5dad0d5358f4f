"""Knowledge distillation with the teacher at hand: it sees every training batch as the network does."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import use_channels_last
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap, join
from ecstfl_cli.recipe import Recipe


class Teacher(nn.Module):
    """One trained model or several that say what is in a batch: cropped, mirrored and mixed as it is, not its labels.

    That is what makes distillation gain from long training: the teacher is consistent (Beyer et al. 2022). Of several
    the mean of what they say counts.
    """

    models: Sequence[TeacherModel]

    def __init__(self, models: Sequence[TeacherModel], weight: float) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)  # type: ignore[assignment]
        self.weight = weight

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it says by: its weights, and the sizes and the sides it looks at; to twelve digits."""
        digest = sha256()
        for model in self.models:
            digest.update(f"{model.size} {model.flip}".encode())
            for name, tensor in model.frames.network.state_dict().items():
                digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Probabilities (B, K) of frames (B, [T,] H, W, 3), uint8 or, where they are mixed, float from 0 to 255."""
        return torch.stack([model(frames) for model in self.models]).mean(dim=0)


class TeacherModel(nn.Module):
    """One model that teaches, at a size, from one side or both; `to_labels` (its classes, K) joins classes by name."""

    to_labels: Tensor

    def __init__(self, frames: FrameModel, size: int, flip: bool, to_labels: Tensor) -> None:
        super().__init__()
        self.frames = frames.eval().requires_grad_(False)
        self.size, self.flip = size, flip
        self.register_buffer("to_labels", to_labels, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Probabilities (B, K) of a batch, as the teacher's."""
        stills = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float()
        size = (self.size, self.size)
        if stills.shape[-2:] != size:
            stills = F.interpolate(stills, size, mode="bilinear", antialias=max(stills.shape[-2:]) > self.size)
        resized = stills.permute(0, 2, 3, 1).reshape(*frames.shape[:-3], *size, 3)
        views = [resized, resized.flip(-2)] if self.flip else [resized]
        probs = torch.stack([self.frames(view)[0].float().softmax(dim=-1) for view in views]).mean(dim=0)
        with torch.autocast(probs.device.type, enabled=False):
            found = probs @ self.to_labels
        return found / found.sum(dim=-1, keepdim=True)


def open_teacher(recipe: Recipe, labels: LabelMap, reporter: Reporter) -> Teacher | None:
    """The recipe's teacher, where it has one, on the CPU.

    Raises CheckpointError where a model of it cannot be opened, sees clips in place of stills or the other way round,
    takes other numbers of frames, or lacks a class of `labels`.
    """
    section = recipe.distillation
    if section is None:
        return None
    models = [_open_model(name, size, recipe, labels, reporter) for name, size in section.teachers]
    return Teacher(models, section.weight)


def _open_model(name: str, size: int | None, recipe: Recipe, labels: LabelMap, reporter: Reporter) -> TeacherModel:
    assert recipe.distillation is not None
    checkpoint = open_checkpoint(name, reporter=reporter)
    spec, own = checkpoint.input, recipe.input.to_spec()
    for key, here, there in (
        ("modality", own.modality, spec.modality),
        ("number of frames", own.sampling.num_frames, spec.sampling.num_frames),
    ):
        if here != there:
            raise CheckpointError(
                f"the teacher {name} cannot see these batches: its {key} is {there}, the recipe's {here}",
                "Choose another distillation.teacher, or learn from its predictions.csv: data.teachers.",
            )
        if own.modality == "img":
            break  # Stills have no frames.
    joined = join(checkpoint.labels, labels)
    if joined.unused:
        raise CheckpointError(
            f"the teacher {name} has no class {', '.join(joined.unused)}; it has {', '.join(checkpoint.labels.names)}",
            "A teacher knows every class that its pupil learns.",
        )
    network: Any = build_network(checkpoint)
    use_channels_last(network)
    side = size or spec.size
    reporter.note(f"teacher {checkpoint.source}: {checkpoint.model.backbone} at {side}x{side}")
    return TeacherModel(FrameModel(network, spec), side, recipe.distillation.flip, torch.tensor(joined.matrix()))


def distilled(loss: Tensor, logits: Tensor, said: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """(1 - weight) x loss + weight x cross-entropy of logits (B, K) with what the teacher said (B, K).

    The second value is that cross-entropy, detached. Hinton et al. 2015, at temperature 1.
    """
    term = F.cross_entropy(logits.float(), said)
    return (1 - weight) * loss + weight * term, term.detach()
