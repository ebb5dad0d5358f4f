"""`ecstfl export`: a trained model as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console
from ecstfl_cli.cli.choices import Device

if TYPE_CHECKING:
    from ecstfl_cli.engine.weights.export import ExportResult


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export")(export)


def export(
    model: str = typer.Argument(..., help="A checkpoint file, a run folder, or a name of `ecstfl checkpoints`."),
    format: str = typer.Option("onnx", "--format", help="Format to write; `ecstfl plugins` lists the exporters."),
    out: Path = typer.Option(None, "--out", help="File or folder to write to. Beside the checkpoint if not given."),
    samples: list[Path] = typer.Option(
        None,
        "--samples",
        metavar="PATHFILE",
        help="Path file of real samples, best of the training list, for onnx_int8: some hundred at random are looked "
        "at; labels are not needed. Repeat it for several.",
    ),
    data_root: Path = typer.Option(None, "--data-root", help="Folder that relative paths in path files start from."),
    tolerance: float = typer.Option(
        None,
        "--tolerance",
        min=0.0,
        help="Largest difference of logits from PyTorch, relative to the largest logit where that exceeds 1; 1e-4 if "
        "not given. With --samples the largest share of them whose most probable class is another; 0.06 if not given.",
    ),
    device: Device = typer.Option(Device.cpu, "--device", help="Where PyTorch computes its side of the comparison."),
    backbone: str = typer.Option(
        None, "--backbone", help="Backbone of a foreign checkpoint, where its tensors do not tell."
    ),
    model_label_map: str = typer.Option(
        None, "--model-label-map", help="Label map of a foreign checkpoint's outputs, which names no classes itself."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Write a model in another format and check it against PyTorch.

    Preprocessing is inside: the file takes uint8 RGB frames at the model's size, in batches of any size, and gives
    logits and probs. Class names and input spec are in its metadata. Nothing is written if the check fails.

    onnx is for any runtime and equals PyTorch; onnx_int8 is smaller, faster on CPUs, and all but equal: it needs
    --samples.
    """
    from ecstfl_cli.engine.weights.export import export as run_export
    from ecstfl_cli.labels import label_map_from

    result = run_export(
        model,
        format=format,
        out=out,
        samples=samples or (),
        data_root=data_root,
        tolerance=tolerance,
        device=device.value,
        backbone=backbone,
        label_map=label_map_from(model_label_map) if model_label_map else None,
        reporter=console.TerminalReporter(),
    )
    if as_json:
        console.print_json(result.to_dict())
    else:
        print_result(result)


def print_result(result: ExportResult) -> None:
    """What was written, what it takes and gives, and how far it is from PyTorch."""
    lines = (
        ("written", f"{result.path} ({result.size / 1e6:.1f} MB)"),
        ("input", result.input),
        ("outputs", f"{result.outputs}: {', '.join(result.classes)}"),
        ("check", _check(result)),
        *((("next", f"ecstfl infer INPUT --model {result.path}"),) if result.path.suffix == ".onnx" else ()),
    )
    for name, text in lines:
        console.out.print(f"{name:<8} {text}", markup=False)


def _check(result: ExportResult) -> str:
    comparison = result.comparison
    same = f"same class for {comparison.same_class} of {comparison.samples}"
    if not result.samples:
        return (
            f"logits differ from PyTorch by {comparison.difference:.1e} at most, tolerance {result.tolerance:.0e}; "
            f"{same} samples"
        )
    return (
        f"{same} samples of {', '.join(result.samples)}, at most {result.tolerance:.1%} may have another; "
        f"probabilities differ from PyTorch's by {comparison.mean_probs_difference:.4f} on average, "
        f"{comparison.probs_difference:.2f} at most"
    )
