"""`ecstfl checkpoints publish`: a trained model made ready for others, calibrated and with a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ecstfl_cli.api import FaceCrop, InputSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.calibration import (
    cross_fitted,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    with_temperature,
)
from ecstfl_cli.components.metrics import Metrics
from ecstfl_cli.engine.checkpoint import Checkpoint, bare, head_dimensions, open_checkpoint, save_checkpoint
from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.engine.infer import infer
from ecstfl_cli.engine.model_card import Calibration, write_card
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError
from ecstfl_cli.labels import LabelMap


class Card(BaseModel):
    """What a person writes about a model; everything that can be measured is added."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    summary: str
    data: str
    licence: str
    use: str
    limits: list[str]


@dataclass(frozen=True)
class Published:
    """One published model: its files, and what was measured on `files`, the list that it was calibrated on."""

    path: Path
    pictures: list[Path]
    card: Path
    metrics: Metrics
    calibration: dict[str, float] = field(default_factory=dict)


def read_card(path: Path) -> Card:
    """Read a card's YAML. Raises EcstflError that names each missing, unknown or wrong key."""
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EcstflError(f"cannot read the card {path}: {error}", "Give a YAML file in UTF-8.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise EcstflError(
            f"the card {path} is not complete: {problems}", f"Keys: {', '.join(Card.model_fields)}"
        ) from error


def publish(
    model: str | Path,
    files: Sequence[str | Path],
    *,
    card: Path,
    out: Path,
    face_crop: FaceCrop | None = None,
    grey: bool = False,
    label_map: LabelMap | None = None,
    device: str = "auto",
    batch_size: int = 64,
    reporter: Reporter,
) -> Published:
    """Write `out`, a checkpoint whose probabilities are calibrated on the path files, and `<stem>.md`, its card.

    The temperature that fits best is folded into the classifier, so that whatever runs the weights is calibrated; it
    changes no prediction. The calibration error is that of halves scaled by each other's temperature. `face_crop`
    replaces the recipe's, where faces were cropped before they came here; it cuts at the model's size. `grey` says that
    the model was trained on grey pictures: its first convolution then sees the brightness of colours (ITU-R 601), and
    grey pictures as before. Raises EcstflError.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"--out {out} does not end in .safetensors", f"Write --out {out.with_suffix('.safetensors')}"
        )
    about = read_card(card)
    checkpoint = open_checkpoint(model, reporter=reporter)
    predictions = _predictions(files, model, device, batch_size, label_map, reporter)
    metrics, calibration = predictions.metrics(), _calibrate(predictions)
    spec = checkpoint.input
    if face_crop:
        spec = replace(spec, face_crop=replace(face_crop, size=spec.size))
    state = _scaled_head(checkpoint, calibration.temperature)
    ready = replace(
        checkpoint,
        state=_seeing_brightness(state, spec) if grey else state,
        input=spec,
        recipe=_portable(checkpoint.recipe),
    )
    measured = {
        **{f"train_{key}" if key == "epoch" else key: value for key, value in checkpoint.metrics.items()},
        "published": {**metrics.to_dict(checkpoint.labels.names), "calibration": calibration.numbers},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        out,
        ready.state,
        model=ready.model,
        input=ready.input,
        labels=ready.labels,
        recipe=ready.recipe,
        metrics=measured,
        data=ready.data,
        card=about.model_dump(),
    )
    pictures, page = write_card(out, about, ready, metrics, calibration, Path(checkpoint.source).parent)
    return Published(out, pictures, page, metrics, calibration.numbers)


def _predictions(
    files: Sequence[str | Path],
    model: str | Path,
    device: str,
    batch_size: int,
    label_map: LabelMap | None,
    reporter: Reporter,
) -> Predictions:
    """What the model says of the samples in the path files. Raises DataError where one has no label."""
    with tempfile.TemporaryDirectory() as folder:
        predictions = infer(
            files,
            model=model,
            device=device,
            out=Path(folder) / "out",
            batch_size=batch_size,
            label_map=label_map,
            reporter=reporter,
        ).predictions
    known = predictions.target >= 0
    if not known.all():
        raise DataError(
            f"{np.count_nonzero(~known)} of {len(known)} samples have no label", "Calibrate on a list with labels."
        )
    return predictions


def _portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the folder that its first weights lay in: it is of this machine."""
    first = recipe.get("model", {}).get("checkpoint")
    return {**recipe, "model": {**recipe["model"], "checkpoint": Path(first).name}} if first else recipe


def _calibrate(predictions: Predictions) -> Calibration:
    """The temperature of all samples, and what halves scaled by each other's gain."""
    probs, target = predictions.probs, predictions.target
    temperature = fit_temperature(probs, target)
    scaled = cross_fitted(probs, target)
    before, after = reliability(probs, target), reliability(scaled, target)
    numbers = {
        "temperature": round(temperature, 4),
        "ece_before": before.error,
        "ece_after": after.error,
        "nll_before": negative_log_likelihood(probs, target),
        "nll_after": negative_log_likelihood(scaled, target),
        "samples": len(target),
        "mean_confidence_before": float(probs.max(axis=1).mean()),
        "mean_confidence_after": float(with_temperature(probs, temperature).max(axis=1).mean()),
    }
    return Calibration(temperature, before, after, numbers)


def _scaled_head(checkpoint: Checkpoint, temperature: float) -> dict[str, Tensor]:
    """The weights with the classifier divided by the temperature: its outputs are linear in it."""
    network = bare(lambda: build_model(checkpoint.model, checkpoint.input.modality))
    head = head_dimensions(network, checkpoint.model.num_classes)
    return {key: tensor / temperature if key in head else tensor for key, tensor in checkpoint.state.items()}


def _seeing_brightness(state: dict[str, Tensor], spec: InputSpec) -> dict[str, Tensor]:
    """The weights with the first convolution on R, G and B replaced by that on 0.299 R + 0.587 G + 0.114 B.

    Where R = G = B its output stays. Raises CheckpointError where the channels are not normalised alike.
    """
    key = next((key for key, tensor in state.items() if tensor.ndim >= 4 and tensor.shape[1] == 3), None)
    if key is None or len(set(spec.mean)) > 1 or len(set(spec.std)) > 1:
        raise CheckpointError(
            "this network's first convolution cannot be made to see brightness",
            "It must take three channels with one mean and one std. Leave --grey out.",
        )
    weight = state[key]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, *[1] * (weight.ndim - 2))
    return {**state, key: weight.sum(dim=1, keepdim=True) * luma}
