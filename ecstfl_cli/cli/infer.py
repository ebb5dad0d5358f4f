"""`ecstfl infer`: what a trained model sees in images, clips or path files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli.finetune import Device, Modality, Precision

if TYPE_CHECKING:
    from ecstfl_cli.engine.infer import InferResult

ROWS_SHOWN = 20
PATH_WIDTH = 60


def register(app: typer.Typer) -> None:
    """Add the command `infer`."""
    app.command("infer")(infer)


def infer(
    inputs: list[Path] = typer.Argument(
        None,
        metavar="[PATHFILE|IMAGE|FRAME FOLDER|DIRECTORY]...",
        help="What to look at. The path file that `ecstfl prepare` wrote last if not given.",
    ),
    model: str = typer.Option(
        None,
        "--model",
        "--model-name",
        help="A checkpoint file, a run folder, an .onnx file, or a name of `ecstfl checkpoints`. "
        "The newest finished run if not given.",
    ),
    modality: Modality = typer.Option(None, "--type", help="Stills or clips; the model must be for them."),
    device: Device = typer.Option(Device.auto, "--device", help="Where to compute; gpu is CUDA or Apple's."),
    out: Path = typer.Option(None, "--out", help="Folder for the results. A new one under runs/infer if not given."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON, and write predictions.json too."),
    parquet: bool = typer.Option(False, "--parquet", help="Write predictions.parquet too."),
    batch_size: int = typer.Option(16, "--batch-size", "-b", min=1, help="Images or clips computed at a time."),
    workers: int = typer.Option(
        None, "--workers", "-j", min=0, help="Processes that read images. Chosen by the machine if not given."
    ),
    label_map: str = typer.Option(
        None, "--label-map", help="Label map of the path files' labels, where `ecstfl prepare` did not record it."
    ),
    model_label_map: str = typer.Option(
        None, "--model-label-map", help="Label map of a foreign checkpoint's outputs, which names no classes itself."
    ),
    backbone: str = typer.Option(
        None, "--backbone", help="Backbone of a foreign checkpoint, where its tensors do not tell."
    ),
    data_root: Path = typer.Option(None, "--data-root", help="Folder that relative paths in path files start from."),
    skip_bad: bool = typer.Option(
        False, "--skip-bad", help="Leave unreadable samples out, into a rejects file, instead of stopping."
    ),
    precision: Precision = typer.Option(Precision.auto, "--precision", help="Number format; auto is fp32 on a CPU."),
) -> None:
    """Predict the expression in images or clips.

    A model for stills takes images, folders of images and .csv path files; a model for clips takes folders of frames,
    directories of such folders and .txt path files. Several may be given at once. Predictions go to predictions.csv;
    where labels are known, WAR, UAR and the rest go to metrics.json and confusion.png.
    """
    from ecstfl_cli.engine.infer import infer as run_infer
    from ecstfl_cli.labels import label_map_from

    result = run_infer(
        inputs or (),
        model=model,
        modality=modality.value if modality else None,
        device=device.value,
        precision=precision.value,
        out=out,
        formats=["csv", *(["json"] if as_json else []), *(["parquet"] if parquet else [])],
        batch_size=batch_size,
        workers="auto" if workers is None else workers,
        label_map=label_map_from(label_map) if label_map else None,
        model_label_map=label_map_from(model_label_map) if model_label_map else None,
        backbone=backbone,
        data_root=data_root,
        skip_bad=skip_bad,
        reporter=console.TerminalReporter(),
    )
    if as_json:
        console.print_json(result.to_dict())
    else:
        print_result(result)


def print_result(result: InferResult) -> None:
    """The first predictions, how often each class was predicted, the metrics, and the files."""
    _print_predictions(result)
    console.out.print()
    _print_classes(result)
    if result.metrics:
        m = result.metrics
        console.out.print(
            f"\nWAR {m.war:.2f}  UAR {m.uar:.2f}  macro F1 {m.macro_f1:.2f}  ({sum(m.support)} samples with a label)",
            style="bold",
        )
    console.out.print()
    for path in result.files:
        console.out.print(f"wrote {path}", markup=False)


def _print_predictions(result: InferResult) -> None:
    names, predictions = result.model.labels.names, result.predictions
    labelled = predictions.has_labels
    rows = [("path", "predicted", "probability", *(["label"] if labelled else []))]
    styles: list[str | None] = ["bold"]
    shown = list(zip(predictions.clip_ids, predictions.target.tolist(), predictions.predicted.tolist(), strict=True))
    for i, (clip_id, target, predicted) in enumerate(shown[:ROWS_SHOWN]):
        label = ["" if target < 0 else names[target]] if labelled else []
        rows.append((_shortened(clip_id), names[predicted], f"{predictions.probs[i, predicted]:.3f}", *label))
        styles.append("red" if 0 <= target != predicted else None)
    _print_columns(rows, styles, numeric=(2,))
    if len(shown) > ROWS_SHOWN:
        console.out.print(f"… and {len(shown) - ROWS_SHOWN} more, in {result.out / 'predictions.csv'}", markup=False)


def _print_classes(result: InferResult) -> None:
    """One row a class: how often it was predicted, and where labels are known how often it was there and found."""
    names, metrics = result.model.labels.names, result.metrics
    predicted = result.predictions.predicted.tolist()
    rows: list[tuple[str, ...]] = [("class", "predicted", "%", *(["samples", "recall %"] if metrics else []))]
    for i, name in enumerate(names):
        n = predicted.count(i)
        row: tuple[str, ...] = (name, str(n), f"{100 * n / len(predicted):.1f}")
        if metrics:
            recall = metrics.recall[i]
            row = (*row, str(metrics.support[i]), "-" if recall is None else f"{recall:.2f}")
        rows.append(row)
    _print_columns(rows, ["bold", *[None] * len(names)], numeric=(1, 2, 3, 4))


def _print_columns(rows: Sequence[Sequence[str]], styles: Sequence[str | None], numeric: Sequence[int]) -> None:
    """Columns as wide as they need to be, so that nothing is cut where the output is piped."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, style in zip(rows, styles, strict=True):
        cells = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        console.out.print("  ".join(cells).rstrip(), markup=False, style=style)


def _shortened(path: str) -> str:
    """The end of a long path, which tells samples apart."""
    return path if len(path) <= PATH_WIDTH else f"…{path[1 - PATH_WIDTH :]}"
