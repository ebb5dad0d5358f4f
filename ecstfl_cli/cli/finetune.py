"""`ecstfl finetune`: train and evaluate what a recipe, or the reference release's flags, describe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ecstfl_cli.cli import console, launcher
from ecstfl_cli.cli import finetune_options as options

if TYPE_CHECKING:
    from rich.table import Table

    from ecstfl_cli.engine.reporter import Reporter
    from ecstfl_cli.engine.training.finetune import RunResult
    from ecstfl_cli.engine.training.reference_release import Flags
    from ecstfl_cli.recipe import Recipe


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("finetune")(finetune)


def finetune(
    recipe: options.RecipeName = None,
    type: options.Type = None,
    model_name: options.ModelName = None,
    list_file_train: options.ListFileTrain = None,
    list_file_val: options.ListFileVal = None,
    val_split: options.ValSplit = None,
    data_root: options.DataRoot = None,
    label_map: options.LabelMapName = None,
    drop_classes: options.DropClasses = False,
    skip_bad: options.SkipBad = False,
    gamma: options.Gamma = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    momentum: options.Momentum = None,
    wd: options.WeightDecay = None,
    scheduler_stepsize: options.StepSize = None,
    seed: options.Seed = None,
    settings: options.Settings = None,
    device: options.DeviceName = None,
    precision: options.PrecisionName = None,
    compile: options.Compile = False,
    workers: options.Workers = None,
    processes: options.ProcessCount = None,
    save_every: options.SaveEvery = None,
    max_minutes: options.MaxMinutes = None,
    detect_anomaly: options.DetectAnomaly = False,
    trackers: options.TrackerNames = None,
    resume: options.Resume = None,
    repeat: options.Repeat = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a recipe, evaluate its last and its best epoch, and keep everything in a run folder.

    The flags of the reference release override the recipe, or replace it: with --type or --model-name and no recipe
    its own protocol and default path files are used. Options may be written with hyphens or underscores.

    Ctrl-C, SIGTERM and SIGUSR1 finish the step, save and say how to continue. `torchrun` and `accelerate launch` start
    it in several processes, also of several machines: `torchrun … -m ecstfl_cli finetune …`.
    """
    from ecstfl_cli.engine.training.reference_release import Flags

    if processes is not None and processes > 1 and not launcher.is_launched():
        raise typer.Exit(launcher.launch(processes))
    flags = Flags(
        type=type.value if type else None,
        model_name=model_name,
        list_file_train=list_file_train,
        list_file_val=list_file_val,
        val_split=val_split,
        gamma=gamma,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        wd=wd,
        scheduler_stepsize=scheduler_stepsize,
        workers=workers,
        device=device.value if device else None,
        precision=precision.value if precision else None,
        seed=seed,
        data_root=data_root,
        label_map=label_map,
        drop_classes=drop_classes or None,
        skip_bad=skip_bad or None,
        output=output,
        save_every=int(save_every) if save_every and save_every.isdecimal() else save_every,
        max_minutes=max_minutes,
        compile=compile or None,
        detect_anomaly=detect_anomaly or None,
        trackers=[tracker.value for tracker in trackers] if trackers else None,
    )
    _run(recipe, flags, settings or [], resume, repeat, as_json)


def _run(
    name: str | None, flags: Flags, settings: list[str], resume: Path | None, repeat: Path | None, as_json: bool
) -> None:
    reporter = console.reporter()
    recipe = _wanted(name, flags, settings, resume, repeat, reporter)
    # Only now, because this import takes seconds and a recipe's errors should not.
    from ecstfl_cli.engine.training.finetune import finetune as train

    result = train(recipe, reporter=reporter, resume=resume, repeat=repeat)
    if console.is_main():
        if as_json:
            stopped = result.stopped.reason if result.stopped else None
            console.print_json(
                {"folder": str(result.folder), "recipe": recipe.name, "stopped": stopped, **result.metrics}
            )
        elif not result.stopped:
            _show(result, recipe)
    code = result.stopped.exit_code if result.stopped else 0
    if launcher.is_launched():
        launcher.leave(code)
    raise typer.Exit(code)


def _wanted(
    name: str | None,
    flags: Flags,
    settings: list[str],
    resume: Path | None,
    repeat: Path | None,
    reporter: Reporter,
) -> Recipe:
    """The recipe that the command line asks for, checked."""
    from ecstfl_cli.engine.training.reference_release import recipe_from_flags, recipe_with_flags
    from ecstfl_cli.recipe_loading import RecipeDraft, find_recipe

    if repeat is not None and (name is not None or resume is not None):
        raise typer.BadParameter("has a recipe of its own: give neither RECIPE nor --resume", param_hint="--repeat")
    if name is not None:
        path = find_recipe(name)
    elif resume is not None:
        path = _resumed_recipe(resume, reporter)
    elif repeat is not None:
        from ecstfl_cli.engine.training.repeat import require_run

        path = require_run(repeat).recipe
    elif flags.name_a_model():
        return recipe_from_flags(flags, settings, reporter=reporter)
    else:
        raise typer.BadParameter(
            "give a recipe (`ecstfl recipes` lists them), or --type or --model-name to train as the reference release "
            "does, or --resume RUN to continue a run",
            param_hint="RECIPE",
        )
    reporter.note(f"recipe {path}")
    return recipe_with_flags(RecipeDraft.read(path), flags, settings)


def _resumed_recipe(resume: Path, reporter: Reporter) -> Path:
    from ecstfl_cli.engine.training.run_folder import RunFolder
    from ecstfl_cli.recipe_loading import is_whole

    run = RunFolder.open(resume)
    if not is_whole(run.recipe):
        from ecstfl_cli.engine.training.training_state import mend_recipe

        mend_recipe(run, reporter)
    return run.recipe


def _show(result: RunResult, recipe: Recipe) -> None:
    console.out.print(_table(result))
    if len(result.metrics["last"]) < 2:
        console.out.print("Nothing was evaluated: there is no validation or test list.", markup=False)
    best = str(result.folder / "best.safetensors")
    for line in (
        f"run folder: {result.folder}",
        f"next: {shlex.join([*_evaluation(recipe), '--model', best])}",
        f"      {shlex.join(['ecstfl', 'export', best])}",
    ):
        console.out.print(line, markup=False)


def _evaluation(recipe: Recipe) -> list[str]:
    """The command that evaluates a model on the first list of the recipe, so far as one command can: on those of its
    files that have the same label map and the same root as the first.
    """
    from ecstfl_cli.engine.data.manifest import read_manifest_for
    from ecstfl_cli.pathfile import SUFFIXES

    lists = [*recipe.data.entries("test").values(), *recipe.data.entries("val").values()]
    told = []
    for entry in lists[0] if lists else ():
        manifest = read_manifest_for(Path(entry.file))
        own = None if manifest and manifest["label_map"] else entry.label_map or recipe.data.label_map
        if Path(entry.file).suffix.lower() == SUFFIXES[recipe.input.modality] and not isinstance(own, list):
            told.append((own, entry.root or recipe.data.root, entry.file))
    words = ["ecstfl", "infer", *(file for *same, file in told if same == list(told[0][:2]))]
    if not told:
        return [*words, "PATHFILE"]
    label_map, root, _ = told[0]
    words += ["--label-map", label_map] if label_map else []
    words += ["--data-root", root] if root else []
    words += ["--drop-classes"] if recipe.data.drop_classes else []
    return [*words, "--skip-bad"] if recipe.data.skip_bad else words


def _with_data_sets(split: str, scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The scores of a list and, below it, of each data set in it."""
    return [(split, scores), *((f"  {name}", found) for name, found in scores.get("data_sets", {}).items())]


def _table(result: RunResult) -> Table:
    """For the last epoch and for the best, a line for each list, with WAR and UAR in percent."""
    from rich.table import Table

    chosen = result.metrics.get("selected_by", "")
    table = Table(title=f"best by {chosen}" if chosen else None, title_justify="left")
    table.add_column("checkpoint")
    table.add_column("epoch", justify="right")
    splits = [key for key in result.metrics["last"] if key != "epoch"]
    if splits:
        table.add_column("list")
        table.add_column("WAR %", justify="right")
        table.add_column("UAR %", justify="right")
    for which in ("last", "best"):
        row = result.metrics[which]
        scores = [line for split in splits for line in _with_data_sets(split, row[split])]
        lines = [[name, f"{found['war']:.2f}", f"{found['uar']:.2f}"] for name, found in scores] or [[]]
        for number, line in enumerate(lines):
            table.add_row(*((which, str(row["epoch"])) if number == 0 else ("", "")), *line)
    return table
