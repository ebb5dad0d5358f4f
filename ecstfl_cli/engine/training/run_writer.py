"""What the main process writes into a run folder as training goes on."""

from __future__ import annotations

import json
import tempfile
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
from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import environment
from ecstfl_cli.engine.training.repeat import changes, environment_differences, result_differences
from ecstfl_cli.engine.training.run_folder import RunFolder, write_text
from ecstfl_cli.engine.training.trackers import Trackers, open_trackers
from ecstfl_cli.engine.training.training_data import TrainingData
from ecstfl_cli.engine.training.training_state import Progress, SavedState, save_state
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.sinks import read_predictions, write_predictions
from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import dump
from ecstfl_cli.report.plots import plot_confusion, plot_curves, plot_samples

PLOT_EVERY_SECONDS = 30.0
SAMPLES_SHOWN = 16
ON_THE_MACHINE = ("versions", "device", "precision", "processes", "threads")


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
        if not progress.rows or progress.epoch < self.recipe.train.epochs:  # A finished run keeps what made it.
            write_text(self.run.recipe, dump(self.recipe))
        found = environment(self.device) | dict(settings) | {"data": self.data.summary(self.labels)}
        earlier = self._earlier()
        # Already another number of threads rounds otherwise.
        for line in changes(earlier["earlier"][-1], found, ON_THE_MACHINE) if earlier else ():
            self.reporter.warn(f"not as before the interruption, so not equal to the bit: {line}")
        self.run.write_json(self.run.environment, found | earlier)
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

    def _earlier(self) -> dict[str, Any]:
        """Where a run is continued, what it was made with until then."""
        try:
            last = json.loads(self.run.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {"earlier": [*last.pop("earlier", []), last]}

    def mended_best(self, progress: Progress, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """On resuming: the progress's `best`, or another where its checkpoint is lost, or nothing within an epoch.

        At the end of an epoch, the epoch's checkpoints are written again from the state's own weights.
        """
        best, has_ended = progress.best, bool(progress.rows) and not progress.step
        if has_ended:
            self._checkpoint(self.run.last, weights, progress.rows[-1])
            if best.get("epoch") == progress.epoch:
                self._checkpoint(self.run.best, weights, progress.rows[-1])
        if not best:
            return best
        try:
            found = load_native(self.run.best).metrics.get("epoch")
            lost = "" if found == best["epoch"] else f"{self.run.best} is of epoch {found}, not {best['epoch']}"
        except CheckpointError as error:
            lost = error.message
        if not lost:
            return best
        self.reporter.warn(
            f"{lost}; the best epoch is chosen among those from {'the last one' if has_ended else 'here'} on"
        )
        if not has_ended:
            return {}
        self._checkpoint(self.run.best, weights, progress.rows[-1])
        return dict(progress.last)

    def state(self, state: SavedState) -> None:
        """What the run continues from. Raises CheckpointError where it cannot be written."""
        save_state(self.run.states, state)

    def unfinish(self) -> None:
        """A run is finished where it has metrics.json: one that goes on has none until it is finished again."""
        self.run.metrics.unlink(missing_ok=True)

    def epoch(self, progress: Progress, weights: Mapping[str, Tensor], predictions: Mapping[str, Predictions]) -> None:
        """At the end of an epoch: checkpoints, metrics.csv, now and then plots."""
        row, is_best = progress.rows[-1], progress.best["epoch"] == progress.epoch
        self._checkpoint(self.run.last, weights, row)
        if is_best:
            self._checkpoint(self.run.best, weights, row)
        self.run.write_metrics_table(progress.rows)
        if is_best and predictions:
            self.best_on_validation(next(iter(predictions.values())))
        self._track(row)
        # Short epochs come faster than a picture of them is worth.
        if time.monotonic() - self._plotted > PLOT_EVERY_SECONDS:
            self._plotted = time.monotonic()
            plot_curves(progress.rows, self.run.curves)
            if predictions:
                self._track_images(*next(iter(predictions.items())), progress.epoch)

    def best_on_validation(self, predicted: Predictions) -> None:
        """Without test lists, the validation of the best epoch is the last word: it is kept, and not done again."""
        if not self.data.test:
            write_predictions(predicted, self.labels.names, self.run.predictions)

    def conclude(self, progress: Progress, results: Mapping[str, Any], predictions: Mapping[str, Predictions]) -> None:
        """After the last epoch. `predictions` are those of the best checkpoint on the test lists."""
        plot_curves(progress.rows, self.run.curves)
        for name, predicted in predictions.items():
            ending = "" if name == next(iter(predictions)) else f"_{name}"
            path = self.run.predictions.with_stem(self.run.predictions.stem + ending)
            write_predictions(predicted, self.labels.names, path)
            self._picture(name, predicted, results["best"][name]["confusion"], progress.best["epoch"], ending)
        if not self.data.test and self.data.val:
            name = next(iter(self.data.val))
            kept = Predictions(*read_predictions(self.run.predictions, self.labels.names))
            self._picture(name, kept, progress.best[name]["confusion"], progress.best["epoch"])
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

    def _picture(self, name: str, predicted: Predictions, confusion: Any, epoch: int, ending: str = "") -> None:
        """The best checkpoint on a list: its confusion matrix, and some of the samples."""
        run = self.run
        paths = {
            key: path.with_stem(path.stem + ending)
            for key, path in (("confusion", run.confusion), ("samples", run.samples))
        }
        plot_confusion(confusion, self.labels.names, paths["confusion"], f"best checkpoint (epoch {epoch}) on {name}")
        self._plot_samples(name, predicted, paths["samples"])
        self._track_files(name, paths, epoch)

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
        """Pictures of an epoch's validation, for the trackers only."""
        if self.recipe.train.trackers:
            with tempfile.TemporaryDirectory() as folder:
                paths = {kind: Path(folder, f"{kind}.png") for kind in ("confusion", "samples")}
                matrix = predicted.metrics().confusion
                plot_confusion(matrix, self.labels.names, paths["confusion"], f"epoch {epoch} on {name}")
                self._plot_samples(name, predicted, paths["samples"])
                self._track_files(name, paths, epoch)

    def _track_files(self, name: str, pictures: Mapping[str, Path], epoch: int) -> None:
        for kind, path in pictures.items():
            if self._trackers is not None:
                self._trackers.log_image(f"{name}/{kind}", path, epoch)


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
