"""`ecstfl infer` on path files: predictions of their samples, and metrics where labels are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecstfl_cli.api import Modality
from ecstfl_cli.components.metrics import Metrics
from ecstfl_cli.engine.data.loader import EvaluationOrder, evaluation_loader, shut_down
from ecstfl_cli.engine.data.samples import KIND, Sample
from ecstfl_cli.engine.evaluate import Predictions, predict
from ecstfl_cli.engine.inference.defaults import LISTED_BATCH_SIZE
from ecstfl_cli.engine.inference.infer_inputs import (
    Source,
    decodable,
    default_input,
    gather,
    lists_media,
    modality_of_inputs,
)
from ecstfl_cli.engine.inference.result_folder import require_no_result, result_folder
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import loader_workers
from ecstfl_cli.engine.weights.model_source import InferenceModel, default_model, open_model
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError
from ecstfl_cli.files import complete_file
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.sinks import prediction_rows, write_predictions


@dataclass(frozen=True)
class InferResult:
    """One inference, its files in `out`. `metrics` is None where no label is known.

    `dropped` counts, by path file and class, the samples that were left out with `drop_classes`.
    """

    model: InferenceModel
    inputs: list[str]
    predictions: Predictions
    metrics: Metrics | None
    out: Path
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """What was written to `out`."""
        return sorted(self.out.iterdir())

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON: model, inputs, out, metrics where labels are known, predictions."""
        names = self.model.labels.names
        result: dict[str, Any] = {"model": model_summary(self.model), "inputs": self.inputs, "out": str(self.out)}
        if self.metrics:
            result["metrics"] = self.metrics.to_dict(names)
        if self.dropped:
            result["dropped"] = self.dropped
        return {**result, "predictions": prediction_rows(self.predictions, names)}


def model_summary(model: InferenceModel) -> dict[str, Any]:
    """What a result should say of the model that made it."""
    return {
        "source": model.source,
        "backbone": model.backbone,
        "modality": model.input.modality,
        "label_map": model.labels.name,
        "labels": list(model.labels.names),
        "runtime": model.runtime,
        "device": str(model.device),
        "precision": model.precision,
        "flip": model.flip,
    }


def infer(
    inputs: Sequence[str | Path] = (),
    *,
    model: str | Path | None = None,
    modality: Modality | None = None,
    device: str = "auto",
    precision: str = "auto",
    flip: bool = False,
    out: Path | None = None,
    formats: Sequence[str] = ("csv",),
    batch_size: int = LISTED_BATCH_SIZE,
    workers: int | str = "auto",
    label_map: LabelMap | None = None,
    model_label_map: LabelMap | None = None,
    backbone: str | None = None,
    data_root: Path | None = None,
    drop_classes: bool = False,
    skip_bad: bool = False,
    reporter: Reporter,
) -> InferResult:
    """Predict every sample of the path files `inputs`, and write the results to `out`, by default below runs/infer.

    Without inputs it takes the path file that was prepared last, without a model the newest finished run's; it reports
    both. `label_map` is that of the path files' indices, `model_label_map` that of a foreign checkpoint's outputs;
    labels are joined to the model's by name, and `drop_classes` leaves samples of other classes out. `modality` is
    checked against the model. `flip` takes the mean over each sample and its mirror image. `workers` processes read
    images; "auto" chooses by the machine. Raises EcstflError.
    """
    with result_folder(out) as folder:
        paths = [Path(path) for path in inputs]
        try:
            chosen = model or default_model(modality or modality_of_inputs(paths))
        except CheckpointError as error:
            if not (media := next(filter(lists_media, paths), None)):
                raise
            look = f"If {media} is a list of photographs and videos, look at them: `ecstfl infer - < {media}`."
            raise CheckpointError(error.message, f"{error.hint} {look}") from error
        opened = open_model(
            chosen,
            device=device,
            precision=precision,
            backbone=backbone,
            label_map=model_label_map,
            flip=flip,
            reporter=reporter,
        )
        reporter.note(f"model {opened.describe()}" + ("" if model else " (none was named)"))
        require_modality(opened, modality)
        if not paths:
            path, why = default_input(opened.input.modality)
            paths = [path]
            reporter.note(f"input {path}: {why} (none was named)")
        rejects = folder / "rejects.csv"
        source = Source(
            opened.input.modality, opened.labels, label_map, data_root, skip_bad, rejects, reporter, drop_classes
        )
        samples = gather(paths, source)
        try:
            predictions = _predict(opened, samples, batch_size, workers, reporter)
        except DataError:
            # An image with a sound head and tail that does not decode: now every one of them is looked at in full.
            readable = decodable(samples, source)
            if len(readable) == len(samples):
                raise
            predictions = _predict(opened, readable, batch_size, workers, reporter)
        predictions.require_numbers(str(opened.source))
        metrics = predictions.metrics() if predictions.has_labels else None
        result = InferResult(opened, [str(path) for path in paths], predictions, metrics, folder, source.dropped)
        _write(result, formats)
        return result


def _predict(
    model: InferenceModel, samples: Sequence[Sample], batch_size: int, workers: int | str, reporter: Reporter
) -> Predictions:
    order = EvaluationOrder(len(samples), batch_size)
    # Starting workers takes longer than one batch does.
    started = loader_workers(workers, model.device) if len(order) > 1 else 0
    loader = evaluation_loader(samples, model.input, order, started)
    unit = KIND[model.input.modality]
    try:
        return predict(model.logits, loader, model.device, reporter, "inference", unit, model.autocast)
    finally:
        shut_down([loader])


def require_modality(model: InferenceModel, modality: Modality | None) -> None:
    """Raises EcstflError where a model is not for the modality that was asked for."""
    if modality and modality != model.input.modality:
        raise EcstflError(
            f"--type {modality} asks for {KIND[modality]}, but {model.source} takes {KIND[model.input.modality]}",
            f"Leave --type out, or name a model for {KIND[modality]} with --model.",
        )


def _write(result: InferResult, formats: Sequence[str]) -> None:
    names, out = result.model.labels.names, result.out
    require_no_result(out, [f"predictions.{format}" for format in formats])  # Another command may have been quicker.
    try:
        for format in formats:
            write_predictions(result.predictions, names, out / f"predictions.{format}")
        if result.metrics:
            _write_metrics(result, result.metrics)
    except OSError as error:
        raise EcstflError(f"cannot write to {out}: {error}", "Choose another folder with --out.") from error


def _write_metrics(result: InferResult, metrics: Metrics) -> None:
    from ecstfl_cli.report.plots import plot_confusion  # matplotlib takes half a second.

    names = result.model.labels.names
    content = {**metrics.to_dict(names), "model": model_summary(result.model), "inputs": result.inputs}
    if result.dropped:
        content["dropped"] = result.dropped
    with complete_file(result.out / "metrics.json") as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    title = f"{Path(result.model.source).name} on {', '.join(Path(path).name for path in result.inputs[:3])}"
    plot_confusion(metrics.confusion, names, result.out / "confusion.png", title)
