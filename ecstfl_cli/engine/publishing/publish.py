"""`ecstfl checkpoints publish`: a trained model made ready for others, calibrated and with a model card."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecstfl_cli.api import FaceCrop, InputSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.calibration import (
    cross_fitted,
    fit_bias,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    with_bias,
    with_temperature,
)
from ecstfl_cli.components.metrics import Metrics
from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.engine.inference.infer import infer
from ecstfl_cli.engine.inference.infer_inputs import recorded_label_map
from ecstfl_cli.engine.publishing.model_card import Calibration, read_card, write_card
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import Checkpoint, save_checkpoint
from ecstfl_cli.engine.weights.fitting import bare, head_dimensions
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError, DataError, OutputError
from ecstfl_cli.labels import LabelMap


@dataclass(frozen=True)
class Published:
    """One published model: its files, and what was measured on `files`, the list that it was calibrated on."""

    path: Path
    pictures: list[Path]
    card: Path
    metrics: Metrics
    calibration: dict[str, float] = field(default_factory=dict)
    bias: dict[str, Any] = field(default_factory=dict)


def publish(
    model: str | Path,
    files: Sequence[str | Path],
    *,
    card: Path,
    out: Path,
    bias_files: Sequence[str | Path] = (),
    face_crop: FaceCrop | None = None,
    grey: bool = False,
    half: bool = False,
    label_map: LabelMap | None = None,
    device: str = "auto",
    batch_size: int = 64,
    reporter: Reporter,
) -> Published:
    """Write `out`, a checkpoint whose probabilities are calibrated on the path files, and `<stem>.md`, its card.

    The temperature that fits best is folded into the classifier, so that whatever runs the weights is calibrated; it
    changes no prediction. The calibration error is that of halves scaled by each other's temperature. A bias for each
    class is fitted on `bias_files` where they are given, other samples than the first, and folded in before: augmented
    pictures, soft labels and class weights leave a model with classes that it names too seldom. `face_crop`
    replaces the recipe's, where faces were cropped before they came here; it cuts at the model's size. `grey` says that
    the model was trained on grey pictures: its first convolution then sees the brightness of colours (ITU-R 601), and
    grey pictures as before. With `half` the file has half the size: kernels and matrices but the classifier's are in
    fp16, and all that is measured is measured with them; networks compute in fp32 as before. Raises EcstflError.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"--out {out} does not end in .safetensors", f"Write --out {out.with_suffix('.safetensors')}"
        )
    about = read_card(card)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(out, error) from error
    checkpoint = open_checkpoint(model, reporter=reporter)
    run = Path(checkpoint.source).parent
    if half:
        checkpoint = replace(checkpoint, state=_in_half(checkpoint))
    looked_at = partial(
        _predictions, checkpoint, device=device, batch_size=batch_size, label_map=label_map, reporter=reporter
    )
    predictions = looked_at(files)
    bias = np.zeros(len(checkpoint.labels))
    of_bias: dict[str, Any] = {}
    if bias_files:
        # The label map is for the lists that need it, which may be the first ones only.
        of_lists = label_map if any(recorded_label_map(Path(file)) is None for file in bias_files) else None
        predictions, bias, of_bias = _biased(predictions, looked_at(bias_files, label_map=of_lists))
    metrics, calibration = predictions.metrics(), _calibrate(predictions)
    spec = checkpoint.input
    if face_crop:
        spec = replace(spec, face_crop=replace(face_crop, size=spec.size))
    state = _calibrated_head(checkpoint, bias, calibration.temperature)
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
    if of_bias:
        measured["published"]["bias"] = of_bias
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
    pictures, page = write_card(out, about, ready, metrics, calibration, of_bias, run)
    return Published(out, pictures, page, metrics, calibration.numbers, of_bias)


def _predictions(
    checkpoint: Checkpoint,
    files: Sequence[str | Path],
    *,
    device: str,
    batch_size: int,
    label_map: LabelMap | None,
    reporter: Reporter,
) -> Predictions:
    """What the model says of the samples in the path files. Raises DataError where one has no label."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        save_checkpoint(
            model, checkpoint.state, model=checkpoint.model, input=checkpoint.input, labels=checkpoint.labels
        )
        predictions = infer(
            files,
            model=model,
            device=device,
            out=folder / "out",
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
    """The recipe without the folders of its first weights, its teachers and its runs, which are of this machine."""
    recipe = copy.deepcopy(recipe)
    if recipe.get("output"):
        recipe["output"] = Path(recipe["output"]).name
    model, data = recipe.get("model", {}), recipe.get("data", {})
    if model.get("checkpoint"):
        model["checkpoint"] = Path(model["checkpoint"]).name
    if distillation := recipe.get("distillation"):
        teacher = distillation["teacher"]
        several = isinstance(teacher, list)
        distillation["teacher"] = [Path(name).name for name in teacher] if several else Path(teacher).name
    if data.get("teachers"):  # All are called predictions.csv.
        data["teachers"] = ["/".join(Path(file).parts[-2:]) for file in data["teachers"]]
    return recipe


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


def _biased(predictions: Predictions, samples: Predictions) -> tuple[Predictions, NDArray[np.float64], dict[str, Any]]:
    """The predictions with the bias (K,) of each class that fits `samples` best, the bias, and what is said of it."""
    try:
        bias = fit_bias(samples.probs, samples.target)
    except ValueError as error:
        raise DataError(f"no bias can be fitted: {error}", "Fit it on a list that the model does well on.") from error
    before = predictions.metrics()
    about = {
        "values": [round(value, 4) for value in bias.tolist()],
        "samples": len(samples.target),
        "war_before": before.war,
        "uar_before": before.uar,
    }
    return replace(predictions, probs=with_bias(predictions.probs, bias).astype(np.float32)), bias, about


def _calibrated_head(checkpoint: Checkpoint, bias: NDArray[np.float64], temperature: float) -> dict[str, Tensor]:
    """The weights with the bias added to the classifier's and all of it divided by the temperature.

    Its outputs are linear in it. Raises CheckpointError where it has no bias to add to.
    """
    state, head = dict(checkpoint.state), _head(checkpoint)
    biases = [key for key in head if state[key].ndim == 1]
    if bias.any():
        if len(biases) != 1:
            raise CheckpointError(
                f"the classifier of {checkpoint.model.backbone} has {len(biases) or 'no'} bias to add to",
                "Leave --class-bias out.",
            )
        state[biases[0]] = state[biases[0]] + torch.from_numpy(bias).to(state[biases[0]].dtype)
    return state | {key: state[key] / temperature for key in head}


def _in_half(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights, those of two and more dimensions in fp16 but for the classifier's, which is calibrated later.

    Raises CheckpointError where a value is too large for fp16.
    """
    head = _head(checkpoint)
    state = {
        key: tensor.half() if tensor.is_floating_point() and tensor.ndim >= 2 and key not in head else tensor
        for key, tensor in checkpoint.state.items()
    }
    if infinite := [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"weights too large for fp16: {', '.join(infinite)}", "Leave --half out.")
    return state


def _head(checkpoint: Checkpoint) -> list[str]:
    """The keys of the classifier."""
    network = bare(lambda: build_model(checkpoint.model, checkpoint.input.modality))
    return [key for key in head_dimensions(network, checkpoint.model.num_classes) if key in checkpoint.state]


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
