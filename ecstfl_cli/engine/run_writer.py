"""What the main process writes into a run folder as training goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecstfl_cli.api import InputSpec, ModelSpec
from ecstfl_cli.components.sample_dataset import SampleDataset
from ecstfl_cli.engine.checkpoint import load_native, save_checkpoint
from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.engine.repeat import environment_differences, result_differences
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.run_folder import RunFolder, write_text
from ecstfl_cli.engine.runtime import environment
from ecstfl_cli.engine.trackers import Trackers, open_trackers
from ecstfl_cli.engine.training_data import TrainingData
from ecstfl_cli.engine.training_state import Progress, SavedState, save_state
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.sinks import write_predictions
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import dump
from ecstfl_cli.report.plots import plot_confusion, plot_curves, plot_samples

PLOT_EVERY_SECONDS = 30.0
SAMPLES_SHOWN = 16
ANEW = "the best epoch is chosen among those from here on"


@dataclass
class RunWriter:
    """Recipe, environment, states, checkpoints, tables, plots and trackers of one run; `before` is one it repeats."""

    run: RunFolder
    recipe: Recipe
    labels: LabelMap
    input: InputSpec
    model: ModelSpec
    data: TrainingData
    device: torch.device
    reporter: Reporter
    before: RunFolder | None = None
    _trackers: Trackers | None = field(default=None, init=False)
    _plotted: float = field(default=-PLOT_EVERY_SECONDS, init=False)

    def begin(self, progress: Progress, settings: Mapping[str, Any]) -> None:
        """Before the first step. On resuming, what a kill may have left unwritten or damaged is written again."""
        write_text(self.run.recipe, dump(self.recipe))
        found = environment(self.device) | dict(settings) | {"data": self.data.summary(self.labels)}
        self.run.write_json(self.run.environment, found)
        if self.before:
            for line in environment_differences(self.before, self.run):
                self.reporter.warn(f"not as in {self.before.path}: {line}")
        self._trackers = open_trackers(
            self.recipe.train.trackers,
            self.run.path,
            f"{self.recipe.name}/{self.run.path.name}",
            self.recipe.model_dump(),
            self.reporter,
            step=progress.epoch,
        )
        if progress.rows:
            self.run.write_metrics_table(progress.rows)

    def mended_best(self, progress: Progress, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """On resuming: the progress's `best`, or nothing where its checkpoint is lost.

        At the end of an epoch, the epoch's checkpoints are written again from the state's own weights.
        """
        best = progress.best
        if progress.rows and not progress.step:
            self._checkpoint(self.run.last, weights, progress.rows[-1])
            if best.get("epoch") == progress.epoch:
                self._checkpoint(self.run.best, weights, progress.rows[-1])
        if not best:
            return best
        try:
            found = load_native(self.run.best).metrics.get("epoch")
        except CheckpointError as error:
            self.reporter.warn(f"{error.message}; {ANEW}")
            return {}
        if found != best["epoch"]:
            self.reporter.warn(f"{self.run.best} is of epoch {found}, not {best['epoch']}; {ANEW}")
            return {}
        return best

    def state(self, state: SavedState) -> None:
        """What the run continues from. Raises CheckpointError where it cannot be written."""
        save_state(self.run.states, state)

    def epoch(self, progress: Progress, weights: Mapping[str, Tensor], predictions: Mapping[str, Predictions]) -> None:
        """At the end of an epoch: checkpoints, metrics.csv, now and then plots."""
        row, is_best = progress.rows[-1], progress.best["epoch"] == progress.epoch
        self._checkpoint(self.run.last, weights, row)
        if is_best:
            self._checkpoint(self.run.best, weights, row)
        self.run.write_metrics_table(progress.rows)
        if is_best and not self.data.test and predictions:
            # What is evaluated last is also what is evaluated now: it need not be done again.
            self._evaluated(next(iter(predictions)), next(iter(predictions.values())), progress, "")
        self._track(row)
        # Short epochs come faster than a picture of them is worth.
        if time.monotonic() - self._plotted > PLOT_EVERY_SECONDS:
            self._plotted = time.monotonic()
            plot_curves(progress.rows, self.run.curves)
            if predictions:
                self._track_images(*next(iter(predictions.items())), progress.epoch)

    def conclude(self, progress: Progress, results: Mapping[str, Any], predictions: Mapping[str, Predictions]) -> None:
        """After the last epoch. `predictions` are those of the best checkpoint on the test lists."""
        plot_curves(progress.rows, self.run.curves)
        for name, predicted in predictions.items():
            self._evaluated(name, predicted, progress, "" if name == next(iter(predictions)) else f"_{name}")
        for name, predicted in list(predictions.items())[:1]:
            self._track_images(name, predicted, progress.best["epoch"])
        self.run.write_json(self.run.metrics, results)
        if self.before:
            self._compare(self.before)

    def _compare(self, before: RunFolder) -> None:
        try:
            differences = result_differences(before, self.run)
        except CheckpointError as error:
            differences = [error.message]
        for line in differences:
            self.reporter.warn(line)
        if not differences:
            self.reporter.note(f"repeats {before.path} to the bit: weights and metrics are equal")

    def close(self) -> None:
        """Let go of the trackers."""
        if self._trackers is not None:
            self._trackers.close(finished=self.run.metrics.is_file())

    def _checkpoint(self, path: Path, weights: Mapping[str, Tensor], row: Mapping[str, Any]) -> None:
        save_checkpoint(
            path,
            weights,
            model=self.model,
            input=self.input,
            labels=self.labels,
            recipe=self.recipe.model_dump(),
            metrics=row,
            data=self.data.summary(self.labels),
        )

    def _evaluated(self, name: str, predicted: Predictions, progress: Progress, ending: str) -> None:
        """Predictions of the best checkpoint on a list: the table, the confusion matrix, some of the samples."""
        title = f"best checkpoint (epoch {progress.best['epoch']}) on {name}"
        run, names = self.run, self.labels.names
        write_predictions(predicted, names, run.predictions.with_stem(run.predictions.stem + ending))
        confusion = run.confusion.with_stem(run.confusion.stem + ending)
        plot_confusion(predicted.metrics().confusion, names, confusion, title)
        self._plot_samples(name, predicted, run.samples.with_stem(run.samples.stem + ending))

    def _plot_samples(self, name: str, predicted: Predictions, path: Path) -> None:
        samples = {**self.data.val, **self.data.test}[name]
        chosen = np.unique(np.linspace(0, len(samples) - 1, SAMPLES_SHOWN).astype(int)).tolist()
        dataset = SampleDataset(samples, self.input)
        frames = [dataset[(0, i)].frames for i in chosen]
        shown = np.stack([f if f.ndim == 3 else f[len(f) // 2] for f in frames])
        clip_ids = [predicted.clip_ids[i] for i in chosen]
        plot_samples(shown, predicted.target[chosen], predicted.probs[chosen], self.labels.names, clip_ids, path)

    def _track(self, row: Mapping[str, Any]) -> None:
        if self._trackers is not None:
            self._trackers.log_scalars(tracked(row), row["epoch"])

    def _track_images(self, name: str, predicted: Predictions, epoch: int) -> None:
        if self._trackers is None or not self.recipe.train.trackers:
            return
        confusion, samples = self.run.path / "tracked_confusion.png", self.run.path / "tracked_samples.png"
        plot_confusion(predicted.metrics().confusion, self.labels.names, confusion, f"epoch {epoch} on {name}")
        self._plot_samples(name, predicted, samples)
        for kind, path in (("confusion", confusion), ("samples", samples)):
            self._trackers.log_image(f"{name}/{kind}", path, epoch)
            path.unlink()


def tracked(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of metrics.csv by the names that trackers group curves by: `train_loss` is `train/loss`."""
    found = {}
    for key, value in row.items():
        group, _, rest = key.rpartition("_") if key.endswith(("_war", "_uar")) else key.partition("_")
        if key.endswith("_macro_f1"):
            group, rest = key.removesuffix("_macro_f1"), "macro_f1"
        if key != "epoch":
            found[f"{group}/{rest}" if rest and group != "samples" else key] = float(value)
    return found
