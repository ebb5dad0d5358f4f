from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.labels import label_map_from
from ecstfl_cli.report.plots import plot_confusion, plot_curves


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def ink(path) -> int:
    """Pixels that are not white."""
    return int((pixels(path) < 250).any(axis=2).sum())


@pytest.mark.parametrize("label_map", ["dfew", "affectnet8", "mafw"])
def test_a_confusion_matrix_grows_with_its_classes_and_darkens_on_its_diagonal(tmp_path, label_map):
    names = label_map_from(label_map).names
    k = len(names)
    right, wrong = tmp_path / "right.png", tmp_path / "wrong.png"
    plot_confusion(np.eye(k, dtype=int) * 10, names, right, "all right")
    plot_confusion(np.full((k, k), 10), names, wrong, "all alike")
    assert pixels(right).shape[0] > 100 * k
    dark = (pixels(right)[:, : 100 * k].sum(axis=2) < 300).sum()
    assert dark > 2 * (pixels(wrong)[:, : 100 * k].sum(axis=2) < 300).sum()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["right.png", "wrong.png"]


def test_the_matrix_shows_shares_of_the_true_class_whatever_its_size(tmp_path):
    def cell_colours(name: str, counts: list[list[int]]) -> set[tuple[int, ...]]:
        plot_confusion(counts, ["happy", "sad"], tmp_path / name)
        found = Counter(map(tuple, pixels(tmp_path / name).reshape(-1, 3).tolist()))
        return {colour for colour, _ in found.most_common(5)} - {(255, 255, 255)}

    few = cell_colours("few.png", [[8, 2], [4, 6]])
    assert len(few) == 4
    assert few == cell_colours("many.png", [[8, 2], [400, 600]])
    assert few != cell_colours("other.png", [[2, 8], [5, 5]])


def test_classes_without_samples_and_an_empty_matrix_can_be_drawn(tmp_path):
    plot_confusion([[3, 1, 0], [0, 0, 0], [0, 0, 2]], ["happy", "sad", "neutral"], tmp_path / "gap.png")
    plot_confusion(np.zeros((7, 7), dtype=int), label_map_from("dfew").names, tmp_path / "empty.png")
    assert ink(tmp_path / "gap.png") > 0
    assert ink(tmp_path / "empty.png") > 0


def rows(epochs: int) -> list[dict]:
    return [
        {
            "epoch": e + 1,
            "lr": 0.01,
            "train_loss": 2.0 / (e + 1),
            "loss_cross_entropy": 1.5 / (e + 1),
            "loss_ec_stfl": 0.5 / (e + 1),
            "train_war": 50 + e,
            "val_war": 40 + e,
            "val_uar": 35 + e,
            "seconds": 1.0,
        }
        for e in range(epochs)
    ]


def test_curves_draw_every_column_there_is_and_do_without_the_others(tmp_path):
    all_columns, some = tmp_path / "all.png", tmp_path / "some.png"
    plot_curves(rows(10), all_columns)
    plot_curves([{k: row[k] for k in ("epoch", "train_loss", "train_war")} for row in rows(10)], some)
    assert ink(all_columns) > ink(some)


def test_curves_are_the_same_from_the_rows_and_from_metrics_csv(tmp_path):
    plot_curves(rows(5), tmp_path / "a.png")
    as_read = [{key: str(value) for key, value in row.items()} | {"val_loss": ""} for row in rows(5)]
    plot_curves(as_read, tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


@pytest.mark.parametrize("bad", [None, "", float("nan"), float("inf"), "nan"])
def test_one_epoch_with_a_missing_value_can_be_drawn(tmp_path, bad):
    plot_curves([{**rows(1)[0], "val_war": bad}], tmp_path / "curves.png")
    assert ink(tmp_path / "curves.png") > 0
