"""The model card of a published checkpoint: a page in Markdown and its pictures."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ecstfl_cli.components.calibration import Reliability
from ecstfl_cli.components.metrics import Metrics
from ecstfl_cli.engine.weights.checkpoint import Checkpoint
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.files import complete_file
from ecstfl_cli.report.plots import plot_confusion, plot_curves, plot_reliability


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
class Calibration:
    """How far probabilities can be trusted before and after they are scaled by `temperature`, and that in numbers."""

    temperature: float
    before: Reliability
    after: Reliability
    numbers: dict[str, float]


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


def write_card(
    path: Path,
    about: Card,
    checkpoint: Checkpoint,
    metrics: Metrics,
    calibration: Calibration,
    bias: Mapping[str, Any],
    run: Path,
) -> tuple[list[Path], Path]:
    """Write `<stem>.md` beside `path` and its pictures: confusion, calibration, and the run's curves if it is there."""
    names = checkpoint.labels.names
    pictures = {name: path.with_name(f"{path.stem}_{name}.png") for name in ("confusion", "calibration", "curves")}
    plot_confusion(metrics.confusion, names, pictures["confusion"], about.name)
    plot_reliability({"before": calibration.before, "after": calibration.after}, pictures["calibration"], about.name)
    if (run / "metrics.csv").is_file():
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            plot_curves(list(csv.DictReader(file)), pictures["curves"])
    elif (run / "curves.png").is_file():
        shutil.copy(run / "curves.png", pictures["curves"])
    there = {name: picture for name, picture in pictures.items() if picture.is_file()}
    page = path.with_suffix(".md")
    with complete_file(page) as partial:
        partial.write_text(_page(path, about, checkpoint, metrics, calibration.numbers, bias, there), encoding="utf-8")
    return list(there.values()), page


def _page(
    path: Path,
    about: Card,
    checkpoint: Checkpoint,
    metrics: Metrics,
    calibration: dict[str, float],
    bias: Mapping[str, Any],
    pictures: dict[str, Path],
) -> str:
    parts = [
        f"# {about.name}",
        about.summary,
        "Written by `ecstfl checkpoints publish`; every number below was measured by it.",
        "## Model",
        _model_table(path, checkpoint),
        "## Use and limits",
        about.use,
        "\n".join(f"- {limit}" for limit in about.limits),
        "## Data and licence",
        about.data,
        about.licence,
        f"## On {sum(metrics.support):,} validation samples",
        f"WAR **{metrics.war:.2f}**, UAR **{metrics.uar:.2f}**, macro F1 {metrics.macro_f1:.2f}.",
        _class_table(metrics, checkpoint.labels.names),
        _picture(pictures, "confusion", "Confusion matrix"),
        "## Calibration",
        _bias_text(bias, metrics, checkpoint.labels.names),
        f"Temperature {calibration['temperature']:.3f} (Guo et al. 2017), folded into the classifier: it changes no "
        "prediction. *After* is measured on halves that are each scaled by the temperature of the other.",
        _table(
            ("", "before", "after"),
            [
                ("expected calibration error, %", *_pair(calibration, "ece", 100)),
                ("negative log-likelihood, nats", *_pair(calibration, "nll")),
                ("mean confidence, %", *_pair(calibration, "mean_confidence", 100)),
            ],
        ),
        _picture(pictures, "calibration", "Confidence and accuracy"),
        "## Training",
        _picture(pictures, "curves", "Curves of the run"),
        "The recipe, as it was resolved:",
        f"```yaml\n{yaml.safe_dump(checkpoint.recipe, sort_keys=False, allow_unicode=True).rstrip()}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bias_text(bias: Mapping[str, Any], metrics: Metrics, names: Sequence[str]) -> str:
    if not bias:
        return ""
    values = ", ".join(f"{name} {value:+.2f}" for name, value in zip(names, bias["values"], strict=True))
    return (
        f"A bias for each class (Alexandari et al. 2020), fitted on {bias['samples']:,} other samples, is folded into "
        f"the classifier: {values}. Without it: WAR {bias['war_before']:.2f}, UAR {bias['uar_before']:.2f}; with it "
        f"{metrics.war:.2f} and {metrics.uar:.2f}. What follows is measured with it."
    )


def _model_table(path: Path, checkpoint: Checkpoint) -> str:
    spec, model = checkpoint.input, checkpoint.model
    parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
    stored = ", stored in fp16" if any(t.dtype == torch.float16 for t in checkpoint.state.values()) else ""
    crop = spec.face_crop
    rows = [
        ("file", f"`{path.name}`"),
        ("network", f"`{model.backbone}` {dict(model.args) or ''}, {parameters / 1e6:.2f} M parameters{stored}"),
        ("input", f"{spec.modality}, {spec.size}x{spec.size}, resize {spec.resize}"),
        ("faces", f"`{crop.detector}`, {crop.align}, margin {crop.margin:g}" if crop else "as given"),
        ("classes", checkpoint.labels.describe()),
        ("epoch", f"{checkpoint.metrics.get('epoch', '?')}"),
        ("versions", ", ".join(f"{key} {value}" for key, value in checkpoint.versions.items())),
    ]
    return _table(("", ""), rows)


def _class_table(metrics: Metrics, names: Sequence[str]) -> str:
    percentages = (metrics.recall, metrics.precision, metrics.f1)
    rows = [
        (name, str(metrics.support[i]), *(_percent(values[i]) for values in percentages))
        for i, name in enumerate(names)
    ]
    return _table(("class", "samples", "recall %", "precision %", "F1 %"), rows)


def _pair(values: dict[str, float], key: str, scale: float = 1) -> tuple[str, str]:
    return f"{scale * values[f'{key}_before']:.3f}", f"{scale * values[f'{key}_after']:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _picture(pictures: dict[str, Path], name: str, caption: str) -> str:
    return f"![{caption}]({pictures[name].name})" if name in pictures else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
