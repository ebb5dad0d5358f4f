"""`ecstfl checkpoints`: the weights that ecstfl knows, what a file holds, and fetching them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli.choices import FaceAlign

if TYPE_CHECKING:
    from ecstfl_cli.api import InputSpec, ModelSpec
    from ecstfl_cli.engine.weights.catalogue import CatalogueEntry
    from ecstfl_cli.engine.weights.checkpoint import Checkpoint
    from ecstfl_cli.labels import LabelMap

FOLDER = Path("checkpoint_load")
MODELS = "Checkpoint files, run folders or names of the catalogue, two or more."
STYLES = {"changed": "red", "verified": "green"}


def register(app: typer.Typer) -> None:
    """Add the command and its sub-commands to the application."""
    checkpoints = typer.Typer(help="List, inspect and download checkpoints.", invoke_without_command=True)
    checkpoints.callback()(list_checkpoints)
    checkpoints.command("show")(show)
    checkpoints.command("download")(download)
    checkpoints.command("publish")(publish)
    checkpoints.command("ensemble")(ensemble)
    checkpoints.command("average")(average)
    app.add_typer(checkpoints, name="checkpoints")


def list_checkpoints(
    context: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list instead of a table."),
) -> None:
    """List the catalogue: backbone, data, WAR, licence, and whether the file is here and has its recorded SHA-256.

    `show` tells what a file holds, `download` fetches one.
    """
    if context.invoked_subcommand:
        return
    from ecstfl_cli.engine.weights import catalogue

    rows = [_entry_dict(entry) for entry in catalogue.entries()]
    if as_json:
        console.print_json(rows)
    else:
        _print_list(rows)


def show(
    name: str = typer.Argument(help="A checkpoint file, a run folder, or a name of the catalogue."),
    backbone: str = typer.Option("", "--backbone", help="Backbone of a foreign file that is not recognised."),
    model_label_map: str = typer.Option(
        "", "--model-label-map", help="Label map of a foreign checkpoint's outputs, which names no classes itself."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of text."),
) -> None:
    """Show what a checkpoint holds: backbone, classes, input, training, and what is left out of a foreign file."""
    from ecstfl_cli.engine.reporter import Reporter
    from ecstfl_cli.engine.weights import catalogue
    from ecstfl_cli.engine.weights.opening import open_checkpoint
    from ecstfl_cli.labels import label_map_from

    entry = next((e for e in catalogue.entries() if e.name == name), None)
    if entry and catalogue.search(name, FOLDER) is None:
        absent = _entry_dict(entry) | {"next": entry.how_to_get(FOLDER)}
        console.print_json(absent) if as_json else _print_pairs(absent)
        return
    checkpoint = open_checkpoint(
        name,
        backbone=backbone or None,
        label_map=label_map_from(model_label_map) if model_label_map else None,
        need_labels=False,
        folder=FOLDER,
        reporter=Reporter(),  # what it would say is in the notes
    )
    console.print_json(_checkpoint_dict(checkpoint)) if as_json else _print_pairs(_checkpoint_text(checkpoint))


def download(
    name: str = typer.Argument(help="A name of the catalogue, as `ecstfl checkpoints` lists it, or yunet."),
    to: Path = typer.Option(FOLDER, "--to", help="Folder to put the file in."),
    url: str = typer.Option("", "--url", help="Fetch from this address instead of the catalogue's, e.g. a mirror."),
) -> None:
    """Fetch a checkpoint; a transfer that was interrupted is continued.

    The file's SHA-256 is recorded beside it at the first download, and another content is refused from then on. For
    files that only a person can fetch it says where they are and where to put them.
    """
    from ecstfl_cli.engine.weights import catalogue

    path = catalogue.download(name, to, console.TerminalReporter(), url or None)
    console.out.print(str(path), markup=False)


def publish(
    ctx: typer.Context,
    model: str = typer.Argument(help="A run folder or a checkpoint file."),
    files: list[Path] = typer.Argument(help="Path files with labels to calibrate and to measure on."),
    card: Path = typer.Option(..., "--card", help="YAML with name, summary, data, licence, use and limits."),
    out: Path = typer.Option(..., "--out", help="The .safetensors file to write; its card and pictures go beside it."),
    class_bias: list[Path] = typer.Option(
        None,
        "--class-bias",
        help="Path file of other samples, as a rule the training list: a bias for each class is fitted on it.",
    ),
    face_align: FaceAlign = typer.Option(
        None, "--face-align", help="How `infer` is to cut out faces, if the recipe does not say."
    ),
    face_margin: float = typer.Option(0.1, "--face-margin", help="With --face-align: margin, as part of the side."),
    grey: bool = typer.Option(False, "--grey", help="It was trained on grey pictures: have it see colours as grey."),
    half: bool = typer.Option(False, "--half", help="Write kernels and matrices in fp16: a file of half the size."),
    label_map: str = typer.Option(
        None, "--label-map", help="Label map of the path files, if `prepare` did not note it."
    ),
) -> None:
    """Make a trained model ready for others: calibrated probabilities, a model card, its pictures.

    A temperature is fitted on FILES and folded into the weights, which changes no prediction. With --class-bias so is a
    bias for each class, which makes a model name each as often as it should, and changes predictions. The card says
    what was measured: recall by class, confusion, calibration before and after, the curves and the recipe of the run.
    """
    from ecstfl_cli.api import FaceCrop
    from ecstfl_cli.engine.publishing.publish import publish as run_publish
    from ecstfl_cli.labels import label_map_from

    if face_align is None:
        console.refuse(ctx, "a model without --face-align", "face_margin")
    done = run_publish(
        model,
        files,
        card=card,
        out=out,
        bias_files=class_bias or (),
        face_crop=FaceCrop(align=face_align.value, margin=face_margin) if face_align else None,
        grey=grey,
        half=half,
        label_map=label_map_from(label_map) if label_map else None,
        reporter=console.TerminalReporter(),
    )
    values = done.calibration
    if done.bias:
        console.out.print(f"before the bias: WAR {done.bias['war_before']:.2f}  UAR {done.bias['uar_before']:.2f}")
    console.out.print(
        f"WAR {done.metrics.war:.2f}  UAR {done.metrics.uar:.2f}  calibration error {100 * values['ece_before']:.1f}% "
        f"-> {100 * values['ece_after']:.1f}%  (temperature {values['temperature']:.3f})",
        style="bold",
    )
    for path in (done.path, done.card, *done.pictures):
        console.out.print(f"wrote {path}", markup=False)


def ensemble(
    models: list[str] = typer.Argument(help=MODELS),
    out: Path = typer.Option(..., "--out", help="The .safetensors file to write."),
) -> None:
    """Put several models into one file, which says what they say on average.

    The file is a checkpoint like any other, for `infer`, `export` and `publish`, and a teacher for `finetune`.
    """
    from ecstfl_cli.engine.weights.combine import ensemble as write_ensemble

    write_ensemble(models, out=out, reporter=console.TerminalReporter())
    console.out.print(f"wrote {out}", markup=False)
    console.out.print(f"next: ecstfl infer FILES --model {out}", markup=False)


def average(
    models: list[str] = typer.Argument(help=MODELS),
    out: Path = typer.Option(..., "--out", help="The .safetensors file to write."),
    share: list[float] = typer.Option(
        None, "--share", help="The share of a model, once for each in their order; equal if not given."
    ),
) -> None:
    """Average the weights of models that were finetuned from the same ones: one network, as fast as each of them.

    Models that were trained at different sizes leave a file to finetune from: batch norm has to find its means anew.
    """
    from ecstfl_cli.engine.weights.combine import average as write_average

    write_average(models, out=out, shares=share or None, reporter=console.TerminalReporter())
    console.out.print(f"wrote {out}", markup=False)
    console.out.print(f"next: ecstfl infer FILES --model {out}, or finetune with model.checkpoint={out}", markup=False)


def _entry_dict(entry: CatalogueEntry) -> dict[str, Any]:
    from ecstfl_cli.engine.weights import catalogue

    file = catalogue.local_file(entry, FOLDER)
    return {
        "name": entry.name,
        "state": catalogue.state(entry, FOLDER),
        "file": str(file) if file else None,
        "backbone": entry.backbone,
        "classes": entry.classes,
        "label_map": entry.label_map,
        "label_map_note": entry.label_map_note,
        "data": entry.data,
        "loss": entry.loss,
        "gamma": entry.gamma,
        "war": entry.war,
        "war_note": entry.war_note,
        "licence": entry.licence,
        "where": entry.where,
    }


def _checkpoint_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "source": checkpoint.source,
        "backbone": checkpoint.model.backbone,
        "model": checkpoint.model.to_dict(),
        "classes": {"label_map": checkpoint.labels.name, "names": list(checkpoint.labels.names)},
        "input": checkpoint.input.to_dict(),
        "parameters": sum(tensor.numel() for tensor in checkpoint.state.values()),
        "recipe": checkpoint.recipe,
        "metrics": checkpoint.metrics,
        "data": checkpoint.data,
        "versions": checkpoint.versions,
        "card": checkpoint.card,
        "notes": checkpoint.notes,
    }


def _checkpoint_text(checkpoint: Checkpoint) -> dict[str, str]:
    """What a reader wants to know; `--json` holds everything."""
    model = checkpoint.model
    arguments = "".join(f", {key} {value}" for key, value in model.args.items() if not _members(model))
    members = [f"{member['model']['backbone']} at {member['size']}x{member['size']}" for member in _members(model)]
    head = f", {model.temporal_head} over the frames" if model.temporal_head else ""
    parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
    return {
        "source": checkpoint.source,
        "name": checkpoint.card.get("name", ""),
        "licence": checkpoint.card.get("licence", ""),
        "backbone": f"{model.backbone}{arguments}{head}, {parameters / 1e6:.1f} M parameters",
        "members": ", ".join(members),
        "classes": _classes_text(checkpoint.labels),
        "input": _input_text(checkpoint.input),
        "recipe": checkpoint.recipe.get("name", ""),
        "metrics": ", ".join(
            f"{key} {_short(value)}" for key, value in checkpoint.metrics.items() if not isinstance(value, dict)
        ),
        "written by": ", ".join(f"{library} {version}" for library, version in checkpoint.versions.items()),
        "notes": "; ".join(checkpoint.notes),
    }


def _members(model: ModelSpec) -> list[dict[str, Any]]:
    """The networks of an ensemble."""
    return model.args.get("members", []) if model.backbone == "ensemble" else []


def _classes_text(labels: LabelMap) -> str:
    if labels.name == "unknown":
        return f"{len(labels)}, not named in the file"
    return f"{labels.name}: {labels.describe()}"


def _input_text(spec: InputSpec) -> str:
    parts = [spec.modality, f"{spec.size}x{spec.size}"]
    if spec.modality == "video":
        sampling = spec.sampling
        how = f"{sampling.segments} segments of {sampling.duration}" if sampling.scheme == "segments" else "uniform"
        parts.append(f"{sampling.num_frames} frames ({how})")
    plain = set(spec.mean) == {0.0} and set(spec.std) == {1.0}
    parts.append(f"resize {spec.resize}")
    parts.append("values in [0, 1]" if plain else f"mean {spec.mean}, std {spec.std}")
    crop = spec.face_crop
    faces = f"cut out by {crop.detector}, {crop.align}, margin {crop.margin:g}" if crop else "as given"
    return ", ".join([*parts, f"faces {faces}"])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_list(rows: list[dict[str, Any]]) -> None:
    header = ("name", "state", "backbone", "data", "loss", "WAR", "where")
    table = [header]
    for row in rows:
        loss = f"{row['loss']}, gamma {row['gamma']:g}" if row["gamma"] else row["loss"]
        war = "-" if row["war"] is None else f"{row['war']:.2f}"
        table.append((row["name"], row["state"], row["backbone"], row["data"], loss, war, row["file"] or row["where"]))
    console.print_columns(table, [STYLES.get(row["state"]) for row in rows])
    for licence in dict.fromkeys(row["licence"] for row in rows):
        names = ", ".join(row["name"] for row in rows if row["licence"] == licence)
        console.out.print(f"\nlicence of {names}:\n  {licence}", markup=False)


def _print_pairs(pairs: dict[str, Any]) -> None:
    width = max(map(len, pairs)) + 2
    for key, value in pairs.items():
        if value not in ("", None):
            console.out.print(f"{key:<{width}}{value}", markup=False)
