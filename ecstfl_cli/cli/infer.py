"""`ecstfl infer`: what a trained model sees in videos, images, streams or path files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli.finetune import Device, Modality, Precision
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.media.faces import MOST_BETWEEN

if TYPE_CHECKING:
    from ecstfl_cli.api import Modality as ModelModality
    from ecstfl_cli.engine.inference.infer import InferResult
    from ecstfl_cli.engine.inference.infer_media import Compute, MediaSettings
    from ecstfl_cli.engine.inference.results import FaceResult
    from ecstfl_cli.labels import LabelMap

MODEL, LOOKING, OUTPUT, JOB, LISTS = "Model", "Videos and images", "Output", "Computing", "Path files"
# The exit code of shells for what Ctrl-C has ended.
INTERRUPTED = 130
ROWS_SHOWN = 20
PATH_WIDTH = 60


def register(app: typer.Typer) -> None:
    """Add the command `infer`."""
    app.command("infer")(infer)


def infer(
    ctx: typer.Context,
    inputs: list[str] = typer.Argument(
        None,
        metavar="[VIDEO|IMAGE|DIRECTORY|PATTERN|ADDRESS|PATHFILE|-]...",
        help="What to look at; - reads paths from standard input, one a line. The path file that `ecstfl prepare` "
        "wrote last if not given.",
    ),
    model: str = typer.Option(
        None,
        "--model",
        "--model-name",
        rich_help_panel=MODEL,
        help="A checkpoint file, a run folder, an .onnx file, or a name of `ecstfl checkpoints`. If not given, the one "
        "that ships with ecstfl; for path files the newest finished run.",
    ),
    modality: Modality = typer.Option(
        None, "--type", rich_help_panel=MODEL, help="Stills or clips; the model must be for them."
    ),
    backbone: str = typer.Option(
        None,
        "--backbone",
        rich_help_panel=MODEL,
        help="Backbone of a foreign checkpoint, where its tensors do not tell.",
    ),
    model_label_map: str = typer.Option(
        None,
        "--model-label-map",
        rich_help_panel=MODEL,
        help="Label map of a foreign checkpoint's outputs, which names no classes.",
    ),
    flip: bool = typer.Option(
        False,
        "--flip",
        rich_help_panel=MODEL,
        help="Look at each face and its mirror image, and take the mean: more accurate, twice the computation.",
    ),
    camera: str = typer.Option(
        None, "--camera", rich_help_panel=LOOKING, help="A camera by its number, from 0, or its name."
    ),
    faces: bool = typer.Option(
        None,
        "--faces/--no-faces",
        rich_help_panel=LOOKING,
        help="Find faces, or take each picture for one. If not given, square pictures of 16 to 128 pixels are faces.",
    ),
    every: int = typer.Option(1, "--every", rich_help_panel=LOOKING, min=1, help="Look at every Nth frame of videos."),
    fps: float = typer.Option(
        None, "--fps", rich_help_panel=LOOKING, help="Look at so many frames a second, whatever a video has."
    ),
    detect_every: int = typer.Option(
        3,
        "--detect-every",
        rich_help_panel=LOOKING,
        min=1,
        max=MOST_BETWEEN,
        help="Find faces in every Nth of the frames looked at and interpolate in between; streams: in each.",
    ),
    smoothing: float = typer.Option(
        0.3,
        "--smoothing",
        rich_help_panel=LOOKING,
        min=0.0,
        help="Seconds over which a face's probabilities are averaged; 0 leaves them as they are.",
    ),
    window: float = typer.Option(1.0, "--window", rich_help_panel=LOOKING, help="Seconds that a model for clips sees."),
    stride: float = typer.Option(
        0.5, "--stride", rich_help_panel=LOOKING, help="Seconds from one such window to the next."
    ),
    min_score: float = typer.Option(
        None,
        "--min-score",
        rich_help_panel=LOOKING,
        min=0.0,
        max=1.0,
        help="Leave out faces that the detector is less sure of.",
    ),
    frame_rate: float = typer.Option(
        None,
        "--frame-rate",
        rich_help_panel=LOOKING,
        help="A folder's images are the frames of a video, so many a second; without it they are stills.",
    ),
    max_seconds: float = typer.Option(
        None, "--max-seconds", rich_help_panel=LOOKING, help="Look at the first seconds of videos or streams."
    ),
    null: bool = typer.Option(
        False, "--null", "-0", rich_help_panel=LOOKING, help="Paths read by - end with NUL characters."
    ),
    out: Path = typer.Option(
        None, "--out", rich_help_panel=OUTPUT, help="Folder for the results. A new one under runs/infer if not given."
    ),
    as_json: bool = typer.Option(
        False,
        "--json",
        rich_help_panel=OUTPUT,
        help="Print the result as JSON, and write predictions.json too; of a camera or stream each row as it comes.",
    ),
    parquet: bool = typer.Option(False, "--parquet", rich_help_panel=OUTPUT, help="Write predictions.parquet too."),
    annotate: bool = typer.Option(
        False, "--annotate", rich_help_panel=OUTPUT, help="Write copies with boxes, names and bar charts drawn on them."
    ),
    report: bool = typer.Option(
        False, "--report", rich_help_panel=OUTPUT, help="Write report.html, to look at in a browser."
    ),
    resume: Path = typer.Option(
        None, "--resume", rich_help_panel=JOB, help="Go on with an unfinished result in this folder."
    ),
    shard: str = typer.Option(
        None,
        "--shard",
        rich_help_panel=JOB,
        metavar="I/N",
        help="Do part I of N, from 1, with the same --out as the others.",
    ),
    merge: Path = typer.Option(
        None, "--merge", rich_help_panel=JOB, help="Put the parts together that shards have left in this folder."
    ),
    device: Device = typer.Option(
        Device.auto, "--device", rich_help_panel=JOB, help="Where to compute; gpu is CUDA or Apple's."
    ),
    precision: Precision = typer.Option(
        Precision.auto, "--precision", rich_help_panel=JOB, help="Number format; auto is fp32 on a CPU."
    ),
    batch_size: int = typer.Option(
        None,
        "--batch-size",
        "-b",
        rich_help_panel=JOB,
        min=1,
        help="Faces or clips computed at a time; 32, for path files 16.",
    ),
    workers: int = typer.Option(
        None,
        "--workers",
        "-j",
        "--jobs",
        rich_help_panel=JOB,
        min=0,
        help="Processes that look at files, or read the images of path files. Chosen by the machine if not given.",
    ),
    label_map: str = typer.Option(
        None,
        "--label-map",
        rich_help_panel=LISTS,
        help="Label map of the path files' labels, where `ecstfl prepare` did not record it.",
    ),
    data_root: Path = typer.Option(
        None, "--data-root", rich_help_panel=LISTS, help="Folder that relative paths in path files start from."
    ),
    drop_classes: bool = typer.Option(
        False,
        "--drop-classes",
        rich_help_panel=LISTS,
        help="Leave samples out whose class the model lacks, instead of stopping.",
    ),
    skip_bad: bool = typer.Option(
        False,
        "--skip-bad",
        rich_help_panel=LISTS,
        help="Leave unreadable samples out, into a rejects file, instead of stopping. Videos and images always are.",
    ),
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
            ctx, "path files", "annotate", "report", "shard", panels=[LOOKING], but=() if faces else ("faces",)
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
            batch_size=batch_size or 16,
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
    if merge:
        console.refuse(ctx, "--merge", "out", "annotate", "report", panels=[MODEL, LOOKING, LISTS, JOB], but=("merge",))
        if inputs:
            raise EcstflError(f"{inputs[0]}: not with --merge", "The parts are those of the folder; name nothing else.")
    if null and "-" not in (inputs or ()):
        console.refuse(ctx, "inputs without a list on standard input, -", "null")
    if resume:
        console.refuse(ctx, "--resume, which goes on in its folder", "out")
    console.refuse(ctx, "videos and images", panels=[LISTS])
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
    compute = Compute(device.value, precision.value, batch_size or 32, workers, backbone, outputs_of)
    _look(settings, compute, wanted, out, resume, merge, shard, null)


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
    from ecstfl_cli.engine.inference.infer_media import infer_media, merge, parse_shard

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
