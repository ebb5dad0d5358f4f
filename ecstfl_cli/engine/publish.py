"""`ecstfl checkpoints publish`: a trained model made ready for others, calibrated and with a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ecstfl_cli.api import FaceCrop
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
from ecstfl_cli.engine.model_card import write_card
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
    label_map: LabelMap | None = None,
    device: str = "auto",
    batch_size: int = 64,
    reporter: Reporter,
) -> Published:
    """Write `out`, a checkpoint whose probabilities are calibrated on the path files, and `<stem>.md`, its card.

    The temperature that fits best is folded into the classifier, so that whatever runs the weights is calibrated; it
    changes no prediction. The calibration error is that of halves scaled by each other's temperature. `face_crop`
    replaces the recipe's, where faces were cropped before they came here. Raises EcstflError.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"--out {out} does not end in .safetensors", f"Write --out {out.with_suffix('.safetensors')}"
        )
    about = read_card(card)
    checkpoint = open_checkpoint(model, reporter=reporter)
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
    metrics = predictions.metrics()
    calibration, temperature = _calibration(predictions)
    spec = replace(checkpoint.input, face_crop=face_crop) if face_crop else checkpoint.input
    measured = {
        **{f"train_{key}" if key == "epoch" else key: value for key, value in checkpoint.metrics.items()},
        "published": {**metrics.to_dict(checkpoint.labels.names), "calibration": calibration},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        out,
        _scaled_head(checkpoint, temperature),
        model=checkpoint.model,
        input=spec,
        labels=checkpoint.labels,
        recipe=checkpoint.recipe,
        metrics=measured,
        data=checkpoint.data,
        card=about.model_dump(),
    )
    before = reliability(predictions.probs, predictions.target)
    after = reliability(cross_fitted(predictions.probs, predictions.target), predictions.target)
    pictures, page = write_card(
        out,
        about,
        replace(checkpoint, input=spec),
        metrics,
        calibration,
        (before, after),
        Path(checkpoint.source).parent,
    )
    return Published(out, pictures, page, metrics, calibration)


def _calibration(predictions: Predictions) -> tuple[dict[str, float], float]:
    """Errors and likelihoods before and after, and the temperature of all samples."""
    probs, target = predictions.probs, predictions.target
    temperature = fit_temperature(probs, target)
    scaled = cross_fitted(probs, target)
    return {
        "temperature": round(temperature, 4),
        "ece_before": reliability(probs, target).error,
        "ece_after": reliability(scaled, target).error,
        "nll_before": negative_log_likelihood(probs, target),
        "nll_after": negative_log_likelihood(scaled, target),
        "samples": len(target),
        "mean_confidence_before": float(probs.max(axis=1).mean()),
        "mean_confidence_after": float(with_temperature(probs, temperature).max(axis=1).mean()),
    }, temperature


def _scaled_head(checkpoint: Checkpoint, temperature: float) -> dict[str, Tensor]:
    """The weights with the classifier divided by the temperature: its outputs are linear in it."""
    network = bare(lambda: build_model(checkpoint.model, checkpoint.input.modality))
    head = head_dimensions(network, checkpoint.model.num_classes)
    return {key: tensor / temperature if key in head else tensor for key, tensor in checkpoint.state.items()}
