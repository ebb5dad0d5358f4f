"""Whether a recipe's network, losses and labels can be built, and fit each other."""

from __future__ import annotations

from dataclasses import replace

from ecstfl_cli.api import LossContext
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.recipe import Recipe


def build_components(recipe: Recipe) -> None:
    """Build a recipe's network, without its weights, and its losses. Raises EcstflError where that does not work."""
    spec = recipe.model.to_spec(len(label_map_from(recipe.label_map)))
    network = build_model(
        replace(spec, args={**spec.args, "pretrained": False} if "pretrained" in spec.args else spec.args),
        recipe.input.modality,
    )
    Objective(recipe.losses, LossContext(spec.num_classes, network.num_features, [1] * spec.num_classes))


def check_mixing(recipe: Recipe, objective: Objective, reporter: Reporter) -> None:
    """Raise EcstflError where mixed batches leave nothing to train on; warn where a loss never takes part."""
    augment = recipe.augment
    if not (augment.mixup or augment.cutmix):
        return
    alone = set(objective.weights) == set(objective.pairwise)
    if alone:
        raise EcstflError(
            f"mixup and CutMix leave nothing to train on: every loss is pairwise ({', '.join(objective.pairwise)})",
            "Add cross_entropy, or set augment.mixup and augment.cutmix to 0.",
        )
    if objective.pairwise and augment.mix_prob == 1:
        reporter.warn(
            f"{', '.join(objective.pairwise)} never takes part: every batch is mixed, and pairwise losses are left out "
            "of mixed batches. Set augment.mix_prob to 0.5, for example."
        )


def check_soft_labels(recipe: Recipe, objective: Objective, reporter: Reporter) -> None:
    """Raise EcstflError where no loss takes the soft labels that a recipe asks for."""
    if not recipe.data.has_soft_targets:
        return
    if not objective.soft:
        key, off = ("data.teachers", "[]") if recipe.data.teachers else ("data.soft_labels", "false")
        raise EcstflError(
            f"{key} has no effect: no loss takes soft labels ({', '.join(objective.weights)})",
            f"Add cross_entropy, or set {key}: {off}.",
        )
    if others := [name for name in objective.weights if name not in objective.soft]:
        reporter.note(f"soft labels are for {', '.join(objective.soft)}; {', '.join(others)} sees the label alone")
