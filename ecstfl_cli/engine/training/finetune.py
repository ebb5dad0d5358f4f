"""`ecstfl finetune`: from a recipe to a run folder with trained, evaluated checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ecstfl_cli.api import LossContext, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import resolve_device, resolve_parallel, seed_everything, slow_precision
from ecstfl_cli.engine.training.distillation import open_teacher
from ecstfl_cli.engine.training.distributed import Processes, random_state, set_random_state
from ecstfl_cli.engine.training.listed_face_crop import with_begun_face_crop, with_listed_face_crop
from ecstfl_cli.engine.training.objective import Objective
from ecstfl_cli.engine.training.parallel import load_network
from ecstfl_cli.engine.training.recipe_checks import check_mixing, check_soft_labels
from ecstfl_cli.engine.training.repeat import require_run
from ecstfl_cli.engine.training.run_folder import LoggingReporter, RunFolder
from ecstfl_cli.engine.training.run_writer import RunWriter
from ecstfl_cli.engine.training.stages import freeze
from ecstfl_cli.engine.training.trainer import Trainer
from ecstfl_cli.engine.training.training_data import load_training_data
from ecstfl_cli.engine.training.training_loaders import TrainingLoaders
from ecstfl_cli.engine.training.training_state import (
    Progress,
    SavedState,
    changed_recipe,
    check_fits,
    check_steps,
    load_state,
    states,
)
from ecstfl_cli.engine.training.watch import Stop, StoppedError, Watch
from ecstfl_cli.engine.weights.checkpoint import load_native
from ecstfl_cli.engine.weights.fitting import initialise
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError, listing
from ecstfl_cli.labels import LabelMap, label_map_from
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import dump

T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    """`metrics` maps `last` and `best` to {`epoch`, `val`: {…}, `test`: {…}}, as in the run's metrics.json.

    `stopped` says why the run ended before its end, with everything saved to continue it; `metrics` are those so far.
    """

    folder: Path
    metrics: dict[str, Any]
    stopped: Stop | None = None


def finetune(
    recipe: Recipe, *, reporter: Reporter, resume: Path | None = None, repeat: Path | None = None
) -> RunResult:
    """Train a recipe, or continue the run folder `resume`, and evaluate its last and best checkpoints.

    `repeat` is a run that this one repeats: what differs between them is reported. Raises EcstflError for anything the
    user can mend, before the first step where possible.
    """
    with ExitStack() as held:
        processes = held.enter_context(Processes(resolve_device(recipe.train.device)))
        if not processes.is_main:
            reporter = Reporter()
        if resume is None:
            recipe = with_listed_face_crop(recipe, reporter)
        before = processes.on_main(lambda: require_run(repeat).path) if repeat else None
        run = _folder(recipe, processes, resume, held)
        if processes.is_main:
            reporter = LoggingReporter(reporter, run.log)
        try:
            if resume:
                recipe = with_begun_face_crop(recipe, run)
            changed = processes.on_main(lambda: changed_recipe(run, recipe)) if resume else []
            training = _Training(recipe, processes, run, reporter, resume is not None)
            if changed and training.is_finished():
                raise EcstflError(
                    f"{run.path} is finished, and nothing would be trained with\n" + listing(changed),
                    "Leave that out, add epochs with --epochs N, or start a new run without --resume.",
                )
            for line in changed:
                reporter.warn(f"not as before the interruption: {line}")
            training.begin(RunFolder(before) if before else None)
        except BaseException:
            if resume is None and processes.is_main:
                run.discard()
            raise
        return training.run_to_end()


def _folder(recipe: Recipe, processes: Processes, resume: Path | None, held: ExitStack) -> RunFolder:
    """The run folder, which the main process makes or opens, and holds until the end."""

    def opened() -> Path:
        run = RunFolder.open(resume) if resume else RunFolder.create(recipe.run_parent())
        held.enter_context(run.in_use())
        return run.path

    return RunFolder(processes.on_main(opened))


class _Training:
    """One run, set up: data checked, network and objective built, a resumed state loaded."""

    def __init__(self, recipe: Recipe, processes: Processes, run: RunFolder, reporter: Reporter, resumed: bool) -> None:
        self.recipe, self.processes, self.run, self.reporter = recipe, processes, run, reporter
        self.labels = label_map_from(recipe.label_map)
        spec, model_spec = recipe.input.to_spec(), recipe.model.to_spec(len(self.labels))
        seed_everything(recipe.seed)
        network = _network(recipe, model_spec, self.labels, processes, reporter, resumed)
        if frozen := freeze(network, recipe.model.freeze):
            reporter.note(f"{len(frozen)} of {len(list(network.parameters()))} parameters are frozen")
        self.data = processes.on_main(lambda: load_training_data(recipe, self.labels, run.path, reporter))
        self.loaders = TrainingLoaders(recipe, spec, self.data, processes)
        objective = Objective(
            recipe.losses, LossContext(len(self.labels), network.num_features, self.data.class_counts)
        )
        check_mixing(recipe, objective, reporter)
        check_soft_labels(recipe, objective, reporter)
        teacher = open_teacher(recipe, self.labels, reporter)
        self.trainer = Trainer(
            recipe,
            processes,
            FrameModel(network, spec),
            objective,
            self.loaders.order,
            reporter,
            self.loaders.soft_targets,
            teacher,
        )
        self.writer = RunWriter(run, recipe, self.labels, spec, model_spec, self.data, processes.device, reporter)
        self.taught_by = teacher.fingerprint if teacher else ""
        self.fingerprint = self.data.fingerprint() + self.taught_by
        self.chooser = next(iter(self.data.val), None)
        # Dropout differs between processes; the main one continues the sequence that built the network.
        if processes.rank:
            seed_everything(recipe.seed + 1_000_003 * processes.rank)
        self.progress = self._resumed() if resumed else Progress()
        self.is_resumed, self.is_trained = resumed, False
        reporter.note(f"{self.data.describe()}; classes {self.labels.describe()}")
        where = f"{model_spec.backbone} on {processes.device}, precision {self.trainer.precision}"
        reporter.note(where + _sharing(recipe, processes))
        if warning := slow_precision(self.trainer.precision, processes.device):
            reporter.warn(warning)
        if recipe.train.patience and not self.chooser:
            reporter.warn("train.patience has no effect: without validation samples no epoch is better than another")

    def begin(self, before: RunFolder | None) -> None:
        """Write what is known before the first step; `before` is the run that this one repeats."""
        self.reporter.note(f"run folder {self.run.path}")
        self.writer.before = before
        settings = {
            "precision": self.trainer.precision,
            "processes": self.processes.count,
            "teacher": self.taught_by or None,
            "parallel": resolve_parallel(self.recipe.train.parallel) if self.processes.count > 1 else None,
        }
        self._write(lambda: self.writer.begin(self.progress, settings))

    def run_to_end(self) -> RunResult:
        """Train the epochs that are left, and evaluate; or stop where the watch says so, with everything saved."""
        train = self.recipe.train
        try:
            with Watch(self.processes, train.max_minutes, train.save_every) as watch:
                try:
                    if self.is_resumed:
                        self._mend_evaluation(watch)
                    while not self.is_finished():
                        self._epoch(watch)
                    self.is_trained = True
                    return RunResult(self.run.path, self._conclude(watch))
                except StoppedError as stopped:
                    return self._stopped(stopped.stop)
                except DataError:
                    # Once the broken file is mended, the run continues where it was.
                    if self.processes.count == 1 and not (self.is_trained or self.trainer.is_within_update):
                        self._save()
                    raise
        finally:
            self.loaders.close()
            self.writer.close()

    def _epoch(self, watch: Watch) -> None:
        progress, train, per_epoch = self.progress, self.recipe.train, len(self.loaders.order)
        limit = train.max_steps or train.epochs * per_epoch
        self._write(self.writer.unfinish)
        steps = min(per_epoch, limit - progress.epoch * per_epoch)
        row: dict[str, Any] = {"epoch": progress.epoch + 1}
        row |= self.trainer.train_epoch(progress, self.loaders.train, steps, watch, self._save)
        started, last = time.monotonic(), {"epoch": row["epoch"]}
        with self.trainer.averaged():
            predictions = {
                n: self.trainer.predict(x, f"validation ({n})", watch.check) for n, x in self.loaders.val.items()
            }
            weights = self.trainer.weights()
        for name, predicted in predictions.items():
            metrics = predicted.metrics()
            row |= {f"{name}_war": metrics.war, f"{name}_uar": metrics.uar, f"{name}_macro_f1": metrics.macro_f1}
            last[name] = self._scores(name, predicted)
        row["seconds"] = progress.seconds + time.monotonic() - started
        progress.finish_epoch(row, last)
        if self._is_best():
            progress.best = last
        # The state first: whatever a kill leaves undone after it is written again on resuming.
        self._save()
        watch.saved()
        self._write(lambda: self.writer.epoch(progress, weights, predictions))
        self.reporter.note(_epoch_line(row, train.epochs, self.chooser, progress.best))

    def is_finished(self) -> bool:
        """Whether all epochs or steps are done, or no better epoch has come for too long."""
        progress, train = self.progress, self.recipe.train
        if progress.epoch >= train.epochs:
            return True
        if train.max_steps and progress.epoch * len(self.loaders.order) >= train.max_steps:
            return True
        if not (train.patience and self.chooser and progress.best):
            return False
        waited = progress.epoch - progress.best["epoch"]
        if waited >= train.patience:
            self.reporter.note(f"stopping early: no better epoch than {progress.best['epoch']} in the last {waited}")
        return waited >= train.patience

    def _is_best(self) -> bool:
        """Without validation samples the latest epoch counts as the best."""
        last, best, metric = self.progress.last, self.progress.best, self.recipe.train.select_by
        return not best or self.chooser is None or last[self.chooser][metric] > best[self.chooser][metric]

    def _save(self) -> None:
        """Keep the state of all processes."""
        parts, randoms = self.trainer.state_dict(), self.processes.gather_objects(random_state())
        state = SavedState(self.progress, parts, randoms, self._order(), self.fingerprint, dump(self.recipe))
        self._write(lambda: self.writer.state(state))

    def _write(self, work: Callable[[], T]) -> T:
        """Writing is for the main process. Raises EcstflError in every process where it cannot, as on a full disk."""

        def guarded() -> T:
            try:
                return work()
            except (OSError, CheckpointError) as error:
                kept = states(self.run.states)
                raise CheckpointError(
                    f"cannot write into the run folder: {error}",
                    f"The last good state is intact: {kept[0]}. "
                    f"Make room, then continue: ecstfl finetune --resume {self.run.path}"
                    if kept
                    else "There is no state to continue from yet. Make room and start again.",
                ) from error

        return self.processes.on_main(guarded)

    def _scores(self, name: str, predicted: Predictions) -> dict[str, Any]:
        """Metrics of a list, and under `data_sets` those of each data set in it where there are several."""
        samples = {**self.data.val, **self.data.test}[name]
        parts = predicted.metrics_by([sample.data_set for sample in samples])
        found = predicted.metrics().to_dict(self.labels.names)
        if len(parts) > 1:
            found["data_sets"] = {part: metrics.to_dict(self.labels.names) for part, metrics in parts.items()}
        return found

    def _order(self) -> dict[str, Any]:
        train = self.recipe.train
        return {
            "batch_size": train.batch_size,
            "drop_last": train.drop_last,
            "accumulate": train.accumulate,
            "seed": self.recipe.seed,
            "weights": [part.weight for part in self.data.parts.values()],
        }

    def _resumed(self) -> Progress:
        state = self.processes.on_main(lambda: load_state(self.run.states, self.reporter))
        check_fits(state, self._order(), self.fingerprint, self.run.states)
        train, per_epoch = self.recipe.train, len(self.loaders.order)
        check_steps(state, per_epoch, train.max_steps or train.epochs * per_epoch, self.run.path)
        try:
            self.trainer.load_state_dict(dict(state.parts))
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"cannot continue {self.run.path}: its state is of another model or optimiser: {error}",
                f"Resume with the recipe of that run: ecstfl finetune --resume {self.run.path}",
            ) from error
        if self.processes.rank < len(state.random):
            set_random_state(state.random[self.processes.rank])
        self.reporter.note(f"continuing after {state.progress}")
        progress = state.progress
        with self.trainer.averaged():
            weights = self.trainer.weights()
        progress.best = self._write(lambda: self.writer.mended_best(progress, weights))
        return progress

    def _mend_evaluation(self, watch: Watch) -> None:
        """A kill after an epoch's state was saved may have left the predictions of an earlier best epoch."""
        progress, name = self.progress, self.chooser
        if progress.step or name is None or self.loaders.test or progress.best.get("epoch") != progress.epoch:
            return
        with self.trainer.averaged():
            predicted = self.trainer.predict(self.loaders.val[name], f"validation ({name})", watch.check)
        self._write(lambda: self.writer.best_on_validation(predicted))

    def _stopped(self, stop: Stop) -> RunResult:
        if not self.is_trained:  # The state of the last epoch is kept, and the network has a checkpoint's weights.
            self._save()
        self.reporter.note(f"stopped by {stop.reason} after {self.progress}; everything is saved")
        self.reporter.note(f"continue with: ecstfl finetune --resume {self.run.path}")
        return RunResult(self.run.path, self._metrics(), stop)

    def _metrics(self) -> dict[str, Any]:
        chosen_on = "the test list" if self.data.val_is_test else self.chooser
        selected_by = f"{self.recipe.train.select_by} on {chosen_on}" if chosen_on else "the last epoch"
        return {
            "selected_by": selected_by,
            "epochs": self.progress.epoch,
            "last": dict(self.progress.last),
            "best": dict(self.progress.best),
        }

    def _conclude(self, watch: Watch) -> dict[str, Any]:
        """Evaluate the last and the best checkpoint on the test lists, and write what a paper's table needs."""
        results, progress = self._metrics(), self.progress
        predictions: dict[str, Predictions] = {}
        for which, path in (("last", self.run.last), ("best", self.run.best)):
            if self.loaders.test and (not predictions or progress.best["epoch"] != progress.last["epoch"]):
                load_network(self.trainer.network, self.processes.on_main(partial(_weights_of, path)))
                predictions = {
                    n: self.trainer.predict(x, f"{which} on {n}", watch.check) for n, x in self.loaders.test.items()
                }
            results[which] |= {n: self._scores(n, p) for n, p in predictions.items()}
        self._write(lambda: self.writer.conclude(progress, results, predictions))
        self.reporter.note(f"finished; everything is in {self.run.path}")
        return results


def _weights_of(path: Path) -> dict[str, Tensor]:
    return load_native(path).state


def _network(
    recipe: Recipe, spec: ModelSpec, labels: LabelMap, processes: Processes, reporter: Reporter, resumed: bool
) -> Any:
    """The network with its first weights. The main process goes first, because it may download; the others follow."""
    made: list[Any] = []

    def first() -> dict[str, Any] | None:
        network = build_model(spec, recipe.input.modality)
        if recipe.model.checkpoint and not resumed:
            needs_head = not (recipe.model.replace_head or recipe.model.temporal_head)
            checkpoint = open_checkpoint(
                recipe.model.checkpoint, backbone=recipe.model.backbone, need_labels=needs_head, reporter=reporter
            )
            for note in initialise(network, checkpoint, labels=labels, replace_head=recipe.model.replace_head):
                reporter.note(note)
        made.append(network)
        return network.state_dict() if processes.count > 1 else None

    weights = processes.on_main(first)
    if not made:
        made.append(build_model(spec, recipe.input.modality))
        made[0].load_state_dict(weights)
    return made[0]


def _sharing(recipe: Recipe, processes: Processes) -> str:
    """How several processes share the work, in words; nothing for one."""
    if processes.count == 1:
        return ""
    parallel = resolve_parallel(recipe.train.parallel)
    return f", {processes.count} processes ({parallel}) with {recipe.train.batch_size} samples in the batch of all"


def _epoch_line(row: dict[str, Any], epochs: int, chooser: str | None, best: dict[str, Any]) -> str:
    line = f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, train WAR {row['train_war']:.2f}"
    if chooser:
        line += (
            f", {chooser} WAR {row[f'{chooser}_war']:.2f} UAR {row[f'{chooser}_uar']:.2f} (best epoch {best['epoch']})"
        )
    return line + f", {row['samples_per_second']:.1f}/s, {row['seconds']:.0f} s"
