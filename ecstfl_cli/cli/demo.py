"""`ecstfl demo`: the whole way on drawn faces, from data to a checked export."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecstfl_cli.cli import console

if TYPE_CHECKING:
    from ecstfl_cli.engine.inference.infer import InferResult
    from ecstfl_cli.engine.training.finetune import RunResult
    from ecstfl_cli.engine.weights.export import ExportResult
    from ecstfl_cli.recipe import Recipe

STEPS = 4


def register(app: typer.Typer) -> None:
    """Add the command `demo`."""
    app.command("demo")(demo)


def demo(
    folder: Path = typer.Option(Path("data/demo"), "--dir", help="Folder that the clips are drawn into."),
    settings: list[str] = typer.Option(
        None, "--set", metavar="KEY.PATH=VALUE", help="Set a key of the recipe, e.g. --set train.epochs=2."
    ),
) -> None:
    """Show the whole way in a few minutes: draw a data set, train with EC-STFL, infer and export.

    Each step shows the command that does the same. Nothing is downloaded, and no GPU is needed.
    """
    from ecstfl_cli.components.exporters.onnx import require_packages
    from ecstfl_cli.recipe_loading import load_recipe

    # Better now than after the training.
    require_packages()
    recipe = load_recipe("demo", settings or ())
    _prepare(folder)
    run = _finetune(recipe, settings or ())
    weights = run.folder / "best.safetensors"
    inferred = _infer(weights, recipe.data.lists("test")["test"])
    exported = _export(weights)
    _name_files(run, inferred, exported)


def _step(number: int, what: str, *command: object) -> None:
    console.out.print(f"\n{number}/{STEPS} {what}", style="bold")
    console.out.print(f"$ ecstfl {shlex.join(map(str, command))}", style="cyan", markup=False)


def _prepare(folder: Path) -> None:
    from ecstfl_cli.engine.preparation.prepare import prepare_dataset
    from ecstfl_cli.engine.preparation.prepared import DEFAULT_OUT

    _step(1, "Draw the data set", "prepare", "--dataset", "demo", "--data-root", folder)
    prepared = prepare_dataset(folder, dataset="demo", out=DEFAULT_OUT, reporter=console.TerminalReporter())
    for split, samples in prepared.manifest["samples"].items():
        console.out.print(
            f"{split}: {samples} clips, listed in {prepared.path.parent / prepared.manifest['files'][split]}"
        )


def _finetune(recipe: Recipe, settings: Sequence[str]) -> RunResult:
    from ecstfl_cli.engine.training.finetune import finetune

    flags = [word for setting in settings for word in ("--set", setting)]
    _step(2, "Train with EC-STFL, and evaluate", "finetune", "recipes/demo.yaml", *flags)
    run = finetune(recipe, reporter=console.TerminalReporter())
    for which in ("last", "best"):
        test = run.metrics[which]["test"]
        epoch = run.metrics[which]["epoch"]
        console.out.print(f"{which} (epoch {epoch}) on test: WAR {test['war']:.2f}  UAR {test['uar']:.2f}")
    return run


def _infer(weights: Path, inputs: Sequence[str]) -> InferResult:
    from ecstfl_cli.cli.infer import print_result
    from ecstfl_cli.engine.inference.infer import infer

    _step(3, "Infer with the best checkpoint", "infer", *inputs, "--model", weights)
    result = infer(inputs, model=weights, reporter=console.TerminalReporter())
    print_result(result)
    return result


def _export(weights: Path) -> ExportResult:
    from ecstfl_cli.cli.export import print_result
    from ecstfl_cli.engine.weights.export import export

    _step(4, "Export to ONNX, and check it against PyTorch", "export", weights, "--format", "onnx")
    result = export(weights, reporter=console.TerminalReporter())
    print_result(result)
    return result


def _name_files(run: RunResult, inferred: InferResult, exported: ExportResult) -> None:
    files = (
        (run.folder / "curves.png", "losses, WAR and UAR over the epochs"),
        (run.folder / "confusion.png", "which expressions the best checkpoint takes for which, on the test clips"),
        (run.folder / "metrics.json", "WAR, UAR and the rest, of the last and the best epoch"),
        (inferred.out / "predictions.csv", "one line a clip: the label, the prediction, a probability for each class"),
        (run.folder / "best.safetensors", "the weights with all that is needed to use them: ecstfl infer --model FILE"),
        (exported.path, "the same model for ONNX Runtime, preprocessing inside"),
    )
    console.out.print("\nWorth opening:", style="bold")
    width = max(len(str(path)) for path, _ in files)
    for path, what in files:
        console.out.print(f"{path!s:<{width}}  {what}", markup=False)
    console.out.print(
        "\nNext: `ecstfl infer` takes this model and these clips; `ecstfl recipes` lists other experiments."
    )
