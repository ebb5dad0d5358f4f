"""`ecstfl infer`: what a trained model sees in videos, images, streams or path files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli import infer_options as options
from ecstfl_cli.cli.choices import Device, Precision
from ecstfl_cli.engine.inference import defaults
from ecstfl_cli.errors import EcstflError

if TYPE_CHECKING:
    from ecstfl_cli.api import Modality as ModelModality
    from ecstfl_cli.engine.inference.infer import InferResult
    from ecstfl_cli.engine.inference.infer_media import Compute, MediaSettings
    from ecstfl_cli.engine.inference.results import FaceResult
    from ecstfl_cli.labels import LabelMap

# The exit code of shells for what Ctrl-C has ended.
INTERRUPTED = 130
ROWS_SHOWN = 20
PATH_WIDTH = 60


def register(app: typer.Typer) -> None:
    """Add the command `infer`."""
    app.command("infer")(infer)


def infer(
    ctx: typer.Context,
    inputs: options.Inputs = None,
    model: options.ModelName = None,
    modality: options.Type = None,
    backbone: options.BackboneName = None,
    model_label_map: options.ModelLabelMap = None,
    flip: options.Flip = False,
    camera: options.Camera = None,
    faces: options.Faces = None,
    every: options.Every = 1,
    fps: options.Fps = None,
    detect_every: options.DetectEvery = defaults.DETECT_EVERY,
    smoothing: options.Smoothing = defaults.SMOOTHING,
    window: options.Window = defaults.WINDOW,
    stride: options.Stride = defaults.STRIDE,
    min_score: options.MinScore = None,
    frame_rate: options.FrameRate = None,
    max_seconds: options.MaxSeconds = None,
    null: options.Null = False,
    out: options.Out = None,
    as_json: options.AsJson = False,
    parquet: options.Parquet = False,
    annotate: options.Annotate = False,
    report: options.WithReport = False,
    resume: options.Resume = None,
    shard: options.Shard = None,
    merge: options.Merge = None,
    device: options.DeviceName = Device.auto,
    precision: options.PrecisionName = Precision.auto,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    label_map: options.LabelMap = None,
    data_root: options.DataRoot = None,
    drop_classes: options.DropClasses = False,
    skip_bad: options.SkipBad = False,
) -> None:
    """Recognise facial expressions in videos, images, folders of them, a camera or a stream, or evaluate on path files.

    Faces are found and followed. predictions.csv has a row for each face in each frame, with its time, box and
    probabilities; the screen shows a summary. A file that cannot be read is reported and does not stop the others.

    A path file (.csv, .txt) is a list of prepared samples: predictions.csv has a row for each of them, and where labels
    are known, WAR, UAR and the rest go to metrics.json and confusion.png.
    """
    from ecstfl_cli.engine.inference.infer_inputs import are_path_files
    from ecstfl_cli.labels import label_map_from

    formats = ("csv", *(["json"] if as_json else []), *(["parquet"] if parquet else []))
    outputs_of = label_map_from(model_label_map) if model_label_map else None
    wanted: ModelModality | None = modality.value if modality else None
    if camera is None and resume is None and merge is None and are_path_files(inputs or ()):
        # --no-faces is what path files are.
        console.refuse(
            ctx, "path files", "annotate", "report", "shard", panels=[options.LOOKING], but=() if faces else ("faces",)
        )
        from ecstfl_cli.engine.inference.infer import infer as run_infer

        evaluated = run_infer(
            inputs or (),
            model=model,
            modality=wanted,
            device=device.value,
            precision=precision.value,
            flip=flip,
            out=out,
            formats=formats,
            batch_size=batch_size or defaults.LISTED_BATCH_SIZE,
            workers="auto" if workers is None else workers,
            label_map=label_map_from(label_map) if label_map else None,
            model_label_map=outputs_of,
            backbone=backbone,
            data_root=data_root,
            drop_classes=drop_classes,
            skip_bad=skip_bad,
            reporter=console.TerminalReporter(),
        )
        console.print_json(evaluated.to_dict()) if as_json else print_result(evaluated)
        return
    _refuse_what_does_nothing(ctx, inputs or (), merge is not None, resume is not None, null)
    if fps is not None and every != 1:
        raise typer.BadParameter("--every and --fps both thin frames; give one of them")
    from ecstfl_cli.engine.inference.infer_media import Compute, MediaSettings

    settings = MediaSettings(
        inputs=tuple(inputs or ()),
        camera=camera,
        model=model or "",
        flip=flip,
        faces="auto" if faces is None else faces,
        every=every,
        fps=fps,
        detect_every=detect_every,
        smoothing=smoothing,
        window=window,
        stride=stride,
        min_score=min_score,
        frame_rate=frame_rate,
        max_seconds=max_seconds,
        formats=formats,
        annotate=annotate,
        report=report,
    )
    compute = Compute(device.value, precision.value, batch_size or defaults.BATCH_SIZE, workers, backbone, outputs_of)
    _look(settings, compute, wanted, out, resume, merge, shard, null)


def _refuse_what_does_nothing(ctx: typer.Context, inputs: Sequence[str], merge: bool, resume: bool, null: bool) -> None:
    if merge:
        panels = [options.MODEL, options.LOOKING, options.LISTS, options.JOB]
        console.refuse(ctx, "--merge", "out", "annotate", "report", panels=panels, but=("merge",))
        if inputs:
            raise EcstflError(f"{inputs[0]}: not with --merge", "The parts are those of the folder; name nothing else.")
    if null and "-" not in inputs:
        console.refuse(ctx, "inputs without a list on standard input, -", "null")
    if resume:
        console.refuse(ctx, "--resume, which goes on in its folder", "out")
    console.refuse(ctx, "videos and images", panels=[options.LISTS])


def _look(
    settings: MediaSettings,
    compute: Compute,
    modality: ModelModality | None,
    out: Path | None,
    resume: Path | None,
    parts: Path | None,
    shard: str | None,
    null: bool,
) -> None:
    """Videos, images and streams: look at them, or put parts together, and show the result."""
    from ecstfl_cli.cli.infer_screen import LiveScreen, print_lines, print_media_json, print_media_result, tell_part
    from ecstfl_cli.engine.inference.infer_media import infer_media, parse_shard
    from ecstfl_cli.engine.inference.media_result import merge

    as_json, live = "json" in settings.formats, False

    def on_live(time: float, results: Sequence[FaceResult], labels: LabelMap) -> None:
        nonlocal live
        live = True
        show(time, results, labels)

    show = print_lines if as_json else LiveScreen()
    try:
        if parts:
            result = merge(parts, settings.formats)
        else:
            result = infer_media(
                settings,
                compute=compute,
                modality=modality,
                out=out,
                resume=resume,
                stdin=sys.stdin.buffer if "-" in settings.inputs else None,
                null=null,
                shard=parse_shard(shard) if shard else None,
                on_live=on_live,
                reporter=console.reporter(),
            )
    except KeyboardInterrupt as stop:
        raise typer.Exit(stop.args[0] if stop.args else INTERRUPTED) from None
    if as_json and live:
        return
    if not result.finished:
        tell_part(result)
    elif as_json:
        print_media_json(result)
    else:
        print_media_result(result)


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
    styles: list[str | None] = []
    shown = list(zip(predictions.clip_ids, predictions.target.tolist(), predictions.predicted.tolist(), strict=True))
    for i, (clip_id, target, predicted) in enumerate(shown[:ROWS_SHOWN]):
        label = ["" if target < 0 else names[target]] if labelled else []
        rows.append((_shortened(clip_id), names[predicted], f"{predictions.probs[i, predicted]:.3f}", *label))
        styles.append("red" if 0 <= target != predicted else None)
    console.print_columns(rows, styles, numeric=(2,))
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
    console.print_columns(rows, numeric=(1, 2, 3, 4))


def _shortened(path: str) -> str:
    """The end of a long path, which tells samples apart."""
    return path if len(path) <= PATH_WIDTH else f"…{path[1 - PATH_WIDTH :]}"
