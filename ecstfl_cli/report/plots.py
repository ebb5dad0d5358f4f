"""Pictures of a run: the confusion matrix, the training curves and sample predictions, as PNG."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ecstfl_cli.components.calibration import Reliability
from ecstfl_cli.components.metrics import evaluate
from ecstfl_cli.files import complete_file
from ecstfl_cli.palette import OKABE_ITO as PALETTE

DPI = 150
GREY = "0.35"
RIGHT, WRONG = PALETTE[2], PALETTE[1]
# Inches; eight tiles fill the width of a screen.
SAMPLE_COLUMNS, SAMPLE_WIDTH, SAMPLE_HEIGHT = 8, 1.45, 2.45
TOTAL = {"train_loss": "train, total"}


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


def plot_reliability(diagrams: Mapping[str, Reliability], path: Path, title: str = "") -> None:
    """Accuracy over confidence, one panel for each named diagram; the grey line is where they are equal.

    The bars' opacity is the bin's part of the samples; the expected calibration error stands in each panel's title.
    """
    figure = Figure(figsize=(4.6 * len(diagrams), 4.4), layout="constrained")
    panels = figure.subplots(1, len(diagrams), sharey=True, squeeze=False)[0]
    for axes, (name, diagram) in zip(panels, diagrams.items(), strict=True):
        n = len(diagram.samples)
        share = diagram.samples / max(1, diagram.samples.max())
        for i in np.flatnonzero(diagram.samples).tolist():
            axes.bar((i + 0.5) / n, diagram.accuracy[i], 0.9 / n, color=PALETTE[0], alpha=0.25 + 0.75 * float(share[i]))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        axes.set_title(f"{name}: calibration error {100 * diagram.error:.1f}%", fontsize=11)
        axes.set_xlabel("confidence")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Curves over the epochs of metrics.csv: losses on the left, WAR and UAR in percent on the right.

    `loss_<name>` columns are the terms of the objective, `<list>_war` and `<list>_uar` the scores on a list. The best
    epoch is that of the first validation list. Columns and values that are missing are left out.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    terms = dict.fromkeys(key for row in rows for key in row if key.startswith("loss_"))
    labelled_terms = {key: key.removeprefix("loss_") for key in terms}
    # With one term the total is that term times its weight: a second line would say nothing.
    named_losses = TOTAL | (labelled_terms if len(terms) > 1 else {})
    for colour, (key, label) in zip(_colours(len(named_losses)), named_losses.items(), strict=True):
        _curve(losses, rows, key, label, colour, "--" if key in terms else "-")
    named_scores = {key: _score_label(key) for row in rows for key in row if key.endswith(("_war", "_uar"))}
    for colour, (key, label) in zip(_colours(len(named_scores)), named_scores.items(), strict=True):
        _curve(scores, rows, key, label, colour)
    if chosen_on := next((key for key in named_scores if key.endswith("_war") and key != "train_war"), None):
        _mark_best(scores, rows, chosen_on)
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


def _score_label(key: str) -> str:
    name, _, score = key.rpartition("_")
    return f"{name} {score.upper()}"


def _mark_best(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    points = _points(rows, key)
    if not points:
        return
    epoch, war = max(points, key=lambda point: point[1])
    label = f"best {_score_label(key)} {war:.2f}, epoch {epoch:.0f}"
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


def plot_samples(
    frames: np.ndarray,
    target: Sequence[int],
    probs: np.ndarray,
    label_names: Sequence[str],
    clip_ids: Sequence[str],
    path: Path,
) -> None:
    """N samples with what the model makes of each: `frames` (N, H, W, 3) uint8 RGB, `probs` (N, K).

    A right one has a tick and a solid frame, a wrong one a cross, a dashed frame and its true class. The bars are the
    likeliest classes, the true one always among them. Target -1, an unknown class, has neither tick nor cross.
    """
    columns = max(1, min(len(frames), SAMPLE_COLUMNS))
    rows = max(1, math.ceil(len(frames) / columns))
    layout = ConstrainedLayoutEngine(h_pad=0.15)
    figure = Figure(figsize=(SAMPLE_WIDTH * columns, SAMPLE_HEIGHT * rows), layout=layout)
    tiles = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[SAMPLE_WIDTH, 0.45] * rows)
    for axes in tiles.flat:
        axes.set_axis_off()
    for i, frame in enumerate(frames):
        picture, bars = tiles[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        picture.set_axis_on()
        _picture(picture, frame, target[i], int(probs[i].argmax()), label_names, clip_ids[i])
        _class_bars(bars, probs[i], target[i], label_names)
    if not len(frames):
        tiles[0, 0].text(0.5, 0.5, "no samples", ha="center", va="center", color="0.65", fontsize=9)
    _save(figure, path)


def _picture(
    axes: Axes, frame: np.ndarray, target: int, predicted: int, label_names: Sequence[str], clip_id: str
) -> None:
    known, right = target >= 0, target == predicted
    colour = (RIGHT if right else WRONG) if known else GREY
    axes.imshow(frame, interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, capstyle="butt", linestyle="-" if right or not known else (0, (2, 1.5)))
    mark = ("✓ " if right else "✗ ") if known else ""
    truth = f"true: {_shortened(label_names[target], 17)}" if known else "true class unknown"
    axes.set_title(_shortened(clip_id[::-1], 26)[::-1], fontsize=6, color=GREY, pad=3, in_layout=False)
    for text, below, size, tint, weight in (
        (mark + _shortened(label_names[predicted], 15), 11, 8.5, colour, "bold"),
        (truth, 20, 7, "black", "normal"),
    ):
        axes.annotate(
            text, (0.5, 0), (0, -below), "axes fraction", "offset points", ha="center", va="baseline",
            fontsize=size, color=tint, weight=weight, in_layout=False,
        )  # fmt: skip


def _class_bars(axes: Axes, probs: np.ndarray, target: int, label_names: Sequence[str]) -> None:
    """The three likeliest classes; a true class that is not one of them takes the place of the third."""
    shown = (-probs).argsort(kind="stable")[:3].tolist()
    if target >= 0 and target not in shown:
        shown[-1] = target
    for row, k in enumerate(shown):
        colour = RIGHT if k == target else WRONG if row == 0 and target >= 0 else "0.6"
        axes.barh(row, 1, left=0, height=0.62, color="0.94")
        axes.barh(row, probs[k], left=0, height=0.62, color=colour)
        # Out of the layout, so that a long name does not push the pictures apart.
        style: dict[str, Any] = {"va": "center_baseline", "fontsize": 6, "in_layout": False}
        axes.text(-0.05, row, _shortened(label_names[k], 11), ha="right", **style)
        axes.text(1.05, row, f"{100 * probs[k]:.0f}%", ha="left", **style)
    axes.set_xlim(-1.1, 1.4)
    axes.set_ylim(2.5, -0.5)


def _shortened(text: str, width: int) -> str:
    """At most `width` letters, cut at the end; the letters of East Asian scripts are two wide."""
    widths = [2 if east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(widths) <= width:
        return text
    kept = sum(total < width for total in accumulate(widths))
    return text[:kept] + "…"


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _save(figure: Figure, path: Path) -> None:
    texts: list[Text] = figure.findobj(Text)
    families = _families(frozenset(letter for text in texts for letter in text.get_text() if letter.isprintable()))
    for text in texts:
        text.set_fontfamily(families)
        # A dollar sign in a name is one.
        text.set_parse_math(False)
    with complete_file(path) as partial:
        FigureCanvasAgg(figure).print_figure(partial, dpi=DPI, format="png", bbox_inches="tight")


@functools.cache
def _families(letters: frozenset[str]) -> list[str]:
    """The usual font and, for the letters it lacks, the first installed ones that have them."""
    families = list(rcParams["font.family"])
    lacking = letters - _letters_of(findfont(FontProperties(family=families)), letters)
    for font in fontManager.ttflist if lacking else []:
        if font.style == "normal" and not font.name.startswith("Last Resort"):
            found = _letters_of(font.fname, lacking)
            lacking -= found
            families += [font.name] if found else []
    return families


def _letters_of(font_file: str, letters: frozenset[str]) -> frozenset[str]:
    font = get_font(font_file)
    return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
