"""Pictures of a run: the confusion matrix and the training curves, as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecstfl_cli.components.metrics import evaluate
from ecstfl_cli.media.atomic import complete_file

DPI = 150
GREY = "0.35"
# Okabe and Ito's palette: told apart with colour-blind eyes and in grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WAR_UAR = {"train_war": "train WAR", "val_war": "val WAR", "val_uar": "val UAR"}
TOTALS = {"train_loss": "train, total", "val_loss": "val, total"}


def plot_confusion(confusion: Any, label_names: Sequence[str], path: Path, title: str = "") -> None:
    """A (K, K) matrix of counts, rows true classes: each cell the percentage of its row, and the count below.

    A class without samples has an empty row, which is said. WAR and UAR stand under the title.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    support = counts.sum(axis=1)
    percent = 100 * counts / np.maximum(support, 1)[:, None]
    side = 2.0 + 0.72 * len(label_names)
    figure = Figure(figsize=(side + 0.9, side + 0.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (row, column), count in np.ndenumerate(counts):
        if support[row]:
            _cell(axes, row, column, percent[row, column], int(count))
    for row in np.flatnonzero(support == 0).tolist():
        axes.text((len(label_names) - 1) / 2, row, "no samples", ha="center", va="center", color="0.65", fontsize=9)
    _class_axes(axes, label_names, support)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
    bar.set_label("% of the true class")
    bar.outline.set_visible(False)
    axes.set_title("\n".join(line for line in (title, _summary(counts)) if line), fontsize=11)
    _save(figure, path)


def _cell(axes: Axes, row: int, column: int, percent: float, count: int) -> None:
    colour = "white" if percent > 55 else "black" if count else "0.65"
    weight = "bold" if row == column else "normal"
    axes.text(column, row - 0.1, f"{percent:.1f}", ha="center", va="center", color=colour, fontsize=9.5, weight=weight)
    axes.text(column, row + 0.25, f"{count}", ha="center", va="center", color=colour, fontsize=7)


def _class_axes(axes: Axes, label_names: Sequence[str], support: np.ndarray) -> None:
    positions = range(len(label_names))
    axes.set_xticks(positions, label_names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(positions, [f"{name} ({n})" for name, n in zip(label_names, support, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (samples)")
    axes.set_xticks(np.arange(len(label_names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(label_names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _summary(counts: np.ndarray) -> str:
    if not counts.sum():
        return "no sample with a known label"
    metrics = evaluate(counts)
    return f"WAR {metrics.war:.2f}   UAR {metrics.uar:.2f}   {counts.sum()} samples"


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Curves over the epochs of metrics.csv: losses on the left, WAR and UAR in percent on the right.

    `loss_<name>` columns are the terms of the objective. Columns and values that are missing are left out.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    terms = dict.fromkeys(key for row in rows for key in row if key.startswith("loss_"))
    labelled_terms = {key: key.removeprefix("loss_") for key in terms}
    # With one term the total is that term times its weight: a second line would say nothing.
    named_losses = TOTALS | (labelled_terms if len(terms) > 1 else {})
    for colour, (key, label) in zip(_colours(len(named_losses)), named_losses.items(), strict=True):
        _curve(losses, rows, key, label, colour, "--" if key in terms else "-")
    for colour, (key, label) in zip(_colours(len(WAR_UAR)), WAR_UAR.items(), strict=True):
        _curve(scores, rows, key, label, colour)
    _mark_best(scores, rows)
    _epoch_axes(losses, "loss")
    _epoch_axes(scores, "WAR and UAR in %")
    if scores.lines:
        scores.set_ylim(0, 100)
    _save(figure, path)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, style: str = "-") -> None:
    points = _points(rows, key)
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    # A single epoch has no line to see.
    marker = "o" if len(points) <= 30 else ""
    axes.plot(epochs, values, style, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of the rows that have a finite number there; metrics.csv read back holds text and blanks."""
    points = []
    for row in rows:
        value = row.get(key)
        if value not in (None, "") and math.isfinite(float(value)):
            points.append((float(row["epoch"]), float(value)))
    return points


def _mark_best(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    points = _points(rows, "val_war")
    if not points:
        return
    epoch, war = max(points, key=lambda point: point[1])
    label = f"best val WAR {war:.2f}, epoch {epoch:.0f}"
    axes.plot([epoch], [war], "o", color=GREY, markerfacecolor="none", markersize=9, label=label)


def _epoch_axes(axes: Axes, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _save(figure: Figure, path: Path) -> None:
    with complete_file(path) as partial:
        FigureCanvasAgg(figure).print_figure(partial, dpi=DPI, format="png", bbox_inches="tight")
