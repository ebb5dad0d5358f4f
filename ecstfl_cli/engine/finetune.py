"""`ecstfl finetune`: from a recipe to a run folder with trained, evaluated checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from ecstfl_cli.api import InputSpec, LossContext, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.components.transforms import Augmentation
from ecstfl_cli.engine.checkpoint import initialise, load_native, open_checkpoint, save_checkpoint
from ecstfl_cli.engine.loader import EvaluationOrder, TrainingOrder, evaluation_loader, training_loader
from ecstfl_cli.engine.objective import Objective
from ecstfl_cli.engine.optimisation import build_optimizer
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.run_folder import LoggingReporter, RunFolder, write_text
from ecstfl_cli.engine.runtime import (
    environment,
    resolve_device,
    resolve_precision,
    seed_everything,
    use_channels_last,
)
from ecstfl_cli.engine.trainer import Trainer
from ecstfl_cli.engine.training_data import TrainingData, load_training_data
from ecstfl_cli.engine.training_state import TrainingState
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.labels import LabelMap, label_map_from
from ecstfl_cli.media.sinks import write_predictions
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import dump
from ecstfl_cli.report.plots import plot_confusion, plot_curves

PLOT_EVERY_SECONDS = 30.0


@dataclass(frozen=True)
class RunResult:
    """`metrics` maps `last` and `best` to {`epoch`, `val`: {…}, `test`: {…}}, as in the run's metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def finetune(recipe: Recipe, *, reporter: Reporter, resume: Path | None = None) -> RunResult:
    """Train a recipe, or continue the run folder `resume`, and evaluate its last and best checkpoints.

    Raises EcstflError for anything the user can mend, before the first step where possible.
    """
    accelerator = _start(recipe)
    run = RunFolder.open(resume) if resume else RunFolder.create(recipe.run_parent())
    reporter = LoggingReporter(reporter, run.log)
    try:
        trainer, loaders, saver, fingerprint = _set_up(recipe, accelerator, run, reporter, fresh=resume is None)
        state = TrainingState()
        if resume:
            state = TrainingState.restore(run.state, trainer.stateful, fingerprint)
            reporter.note(f"continuing after epoch {state.epoch}")
    except BaseException:
        if resume is None:
            run.discard()
        raise
    reporter.note(f"run folder {run.path}")
    write_text(run.recipe, dump(recipe))
    run.write_json(run.environment, environment(accelerator.device))
    _train(trainer, loaders, state, saver, fingerprint)
    return _conclude(trainer, loaders, state, saver, reporter)


def _set_up(
    recipe: Recipe, accelerator: Accelerator, run: RunFolder, reporter: Reporter, *, fresh: bool
) -> tuple[Trainer, _Loaders, _Saver, str]:
    """Data checked, network and objective built; nothing has been trained."""
    labels = label_map_from(recipe.label_map)
    spec, model_spec = recipe.input.to_spec(), recipe.model.to_spec(len(labels))
    network = build_model(model_spec, recipe.input.modality)
    if recipe.model.checkpoint and fresh:
        _load_first_weights(recipe, network, labels, reporter)
    data = load_training_data(recipe, labels, run.path, reporter)
    objective = Objective(recipe.losses, LossContext(len(labels), network.num_features, data.class_counts))
    use_channels_last(network)
    # A loss may have parameters of its own, such as class centres.
    optimizer = build_optimizer(recipe.optimizer, network, objective)
    trainer = Trainer(recipe, accelerator, FrameModel(network, spec), objective, optimizer, reporter)
    reporter.note(
        f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test samples; "
        f"classes {labels.describe()}"
    )
    precision = accelerator.mixed_precision.replace("no", "fp32")
    reporter.note(f"{model_spec.backbone} on {accelerator.device}, precision {precision}")
    saver = _Saver(run, recipe, labels, spec, model_spec, data.summary(labels), data.val_is_test)
    return trainer, _Loaders(recipe, spec, data), saver, data.fingerprint()


def _start(recipe: Recipe) -> Accelerator:
    device = resolve_device(recipe.train.device)
    precision = resolve_precision(recipe.train.precision, device)
    # The state is global to the process; a second run in it may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))
    if accelerator.num_processes > 1:
        raise EcstflError(
            f"{accelerator.num_processes} processes were started; training runs in one process so far",
            "Start it without torchrun or accelerate launch.",
        )
    seed_everything(recipe.seed)
    return accelerator


def _load_first_weights(recipe: Recipe, network: Any, labels: LabelMap, reporter: Reporter) -> None:
    assert recipe.model.checkpoint
    needs_head = not (recipe.model.replace_head or recipe.model.temporal_head)
    checkpoint = open_checkpoint(
        recipe.model.checkpoint, backbone=recipe.model.backbone, need_labels=needs_head, reporter=reporter
    )
    for note in initialise(network, checkpoint, labels=labels, replace_head=recipe.model.replace_head):
        reporter.note(note)


class _Loaders:
    """The loaders of one run; their worker processes live as long as it does."""

    def __init__(self, recipe: Recipe, spec: InputSpec, data: TrainingData) -> None:
        train, augment = recipe.train, recipe.augment
        augmentation = Augmentation(
            augment.random_resized_crop,
            (augment.scale[0], augment.scale[1]),
            (augment.ratio[0], augment.ratio[1]),
            augment.hflip,
        )
        self.order = TrainingOrder(len(data.train), train.batch_size, recipe.seed)
        self.train = training_loader(data.train, spec, self.order, augmentation, train.workers)

        def evaluation(samples: Any) -> DataLoader | None:
            order = EvaluationOrder(len(samples), train.batch_size)
            return evaluation_loader(samples, spec, order, train.workers) if samples else None

        self.val, self.test = evaluation(data.val), evaluation(data.test)


@dataclass
class _Saver:
    """Writes a run's files as training goes on."""

    run: RunFolder
    recipe: Recipe
    labels: LabelMap
    spec: InputSpec
    model: ModelSpec
    data: dict[str, Any]
    val_is_test: bool

    def checkpoint(self, path: Path, network: Any, row: dict[str, Any]) -> None:
        """The present weights, with everything needed to use them."""
        save_checkpoint(
            path,
            network,
            model=self.model,
            input=self.spec,
            labels=self.labels,
            recipe=self.recipe.model_dump(),
            metrics=row,
            data=self.data,
        )


def _train(trainer: Trainer, loaders: _Loaders, state: TrainingState, saver: _Saver, fingerprint: str) -> None:
    recipe, run = saver.recipe, saver.run
    steps_per_epoch, plotted = len(loaders.order), 0.0
    limit = recipe.train.max_steps or recipe.train.epochs * steps_per_epoch
    while state.epoch < recipe.train.epochs and state.epoch * steps_per_epoch < limit:
        started = time.monotonic()
        steps = min(steps_per_epoch, limit - state.epoch * steps_per_epoch)
        row: dict[str, Any] = {"epoch": state.epoch + 1}
        row |= trainer.train_epoch(state.epoch, loaders.train, loaders.order, steps)
        state.last = {"epoch": row["epoch"]}
        if loaders.val is not None:
            metrics = trainer.predict(loaders.val, "validation").metrics()
            row |= {"val_war": metrics.war, "val_uar": metrics.uar, "val_macro_f1": metrics.macro_f1}
            state.last["val"] = metrics.to_dict(saver.labels.names)
        row["seconds"] = time.monotonic() - started
        state.epoch += 1
        state.rows.append(row)
        saver.checkpoint(run.last, trainer.network, row)
        if _is_best(state, recipe.train.select_by):
            state.best = state.last
            saver.checkpoint(run.best, trainer.network, row)
        state.save(run.state, trainer.stateful, fingerprint)
        run.write_metrics_table(state.rows)
        # Short epochs come faster than a picture of them is worth.
        if time.monotonic() - plotted > PLOT_EVERY_SECONDS:
            plot_curves(state.rows, run.curves)
            plotted = time.monotonic()
        trainer.reporter.note(_epoch_line(row, recipe.train.epochs, state.best))


def _is_best(state: TrainingState, metric: str) -> bool:
    """Without validation samples the latest epoch counts as the best."""
    return not state.best or "val" not in state.last or state.last["val"][metric] > state.best["val"][metric]


def _epoch_line(row: dict[str, Any], epochs: int, best: dict[str, Any]) -> str:
    line = f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, train WAR {row['train_war']:.2f}"
    if "val_war" in row:
        line += f", val WAR {row['val_war']:.2f} UAR {row['val_uar']:.2f} (best epoch {best['epoch']})"
    return line + f", {row['samples_per_second']:.1f}/s, {row['seconds']:.0f} s"


def _conclude(
    trainer: Trainer, loaders: _Loaders, state: TrainingState, saver: _Saver, reporter: Reporter
) -> RunResult:
    """Evaluate the last and the best checkpoint on the test list, and write what a paper's table needs."""
    run, labels = saver.run, saver.labels
    plot_curves(state.rows, run.curves)
    chosen_on = "the test list" if saver.val_is_test else "val"
    results: dict[str, Any] = {"selected_by": f"{saver.recipe.train.select_by} on {chosen_on}", "epochs": state.epoch}
    results |= {"last": dict(state.last), "best": dict(state.best)}
    split, loader = ("test", loaders.test) if loaders.test is not None else ("val", loaders.val)
    if loader is not None:
        predictions = None
        for which, path in (("last", run.last), ("best", run.best)):
            if predictions is None or state.best["epoch"] != state.last["epoch"]:
                trainer.network.load_state_dict(load_native(path).state)
                predictions = trainer.predict(loader, f"{which} on {split}")
            results[which][split] = predictions.metrics().to_dict(labels.names)
        assert predictions is not None
        title = f"best checkpoint (epoch {state.best['epoch']}) on {split}"
        write_predictions(predictions, labels.names, run.predictions)
        plot_confusion(predictions.metrics().confusion, labels.names, run.confusion, title)
    run.write_json(run.metrics, results)
    reporter.note(f"finished; everything is in {run.path}")
    return RunResult(run.path, results)
