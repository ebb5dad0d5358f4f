from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.labels import label_map_from
from ecstfl_cli.report.plots import plot_confusion, plot_curves, plot_samples

pytestmark = pytest.mark.pictures


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
    as_read = [{key: str(value) for key, value in row.items()} for row in rows(5)]
    plot_curves(as_read, tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_named_validation_lists_have_the_curves_that_val_has(tmp_path):
    named = [{key.replace("val_", "clean_"): value for key, value in row.items()} for row in rows(10)]
    plot_curves(rows(10), tmp_path / "val.png")
    plot_curves(named, tmp_path / "clean.png")
    plot_curves([{k: v for k, v in row.items() if "val_" not in k} for row in rows(10)], tmp_path / "none.png")
    for colour in (GREEN, VERMILION):
        assert share(tmp_path / "clean.png", colour) == pytest.approx(share(tmp_path / "val.png", colour), rel=0.05)
        assert share(tmp_path / "none.png", colour) < share(tmp_path / "val.png", colour)


@pytest.mark.parametrize("bad", [None, "", float("nan"), float("inf"), "nan"])
def test_one_epoch_with_a_missing_value_can_be_drawn(tmp_path, bad):
    plot_curves([{**rows(1)[0], "val_war": bad}], tmp_path / "curves.png")
    assert ink(tmp_path / "curves.png") > 0


GREEN, VERMILION = (0, 158, 115), (213, 94, 0)


def share(path, colour: tuple[int, int, int]) -> float:
    """Part of the pixels that have a colour."""
    return float((abs(pixels(path) - colour).sum(axis=2) < 20).mean())


def longest_side(path, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour in the column that has most of them."""
    return int((abs(pixels(path) - colour).sum(axis=2) < 60).sum(axis=0).max())


def grey_samples(n: int, k: int, confidence: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """N grey frames, and probabilities of which each says class i mod K."""
    probs = np.full((n, k), (1 - confidence) / (k - 1))
    probs[np.arange(n), np.arange(n) % k] = confidence
    return np.full((n, 48, 40, 3), 128, np.uint8), probs


def test_right_and_wrong_samples_differ_in_colour_and_without_it_and_unknown_ones_are_neither(tmp_path):
    names = label_map_from("dfew").names
    frames, probs = grey_samples(7, 7)
    clip_ids = [f"clips/{i}" for i in range(7)]
    targets = {"right": list(range(7)), "wrong": [6, 0, 1, 2, 3, 4, 5], "unknown": [-1] * 7}
    for name, target in targets.items():
        plot_samples(frames, target, probs, names, clip_ids, tmp_path / f"{name}.png")
    right, wrong, unknown = (tmp_path / f"{name}.png" for name in targets)
    assert share(right, GREEN) > 0.02
    assert share(right, VERMILION) == 0
    assert share(wrong, VERMILION) > 0.02
    assert share(unknown, GREEN) == share(unknown, VERMILION) == 0
    # The frame of a wrong one has gaps: seen in grey, too.
    assert longest_side(wrong, VERMILION) < 0.75 * longest_side(right, GREEN)


def test_samples_show_the_frames_they_are_given(tmp_path):
    frames, probs = grey_samples(3, 3)
    for i, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
        frames[i] = colour
    plot_samples(frames, [0, 1, 2], probs, ["a", "b", "c"], ["1", "2", "3"], tmp_path / "samples.png")
    picture = pixels(tmp_path / "samples.png")
    places = [np.nonzero((picture == frames[i, 0, 0]).all(axis=2))[1] for i in range(3)]
    assert [len(columns) > 10_000 for columns in places] == [True] * 3
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()


def test_the_likely_classes_are_bars_as_long_as_their_probability(tmp_path):
    def green(confidence: float) -> float:
        frames, probs = grey_samples(1, 3, confidence)
        plot_samples(frames, [0], probs, ["a", "b", "c"], ["1"], tmp_path / "samples.png")
        return share(tmp_path / "samples.png", GREEN)

    assert green(0.95) - green(0.65) == pytest.approx(green(0.65) - green(0.35), rel=0.1)
    assert green(0.95) > green(0.65)


def test_the_true_class_has_a_bar_though_it_is_not_among_the_likeliest(tmp_path):
    probs = np.array([[0.3, 0.25, 0.2, 0.15, 0.1]])
    frame = np.full((1, 48, 48, 3), 128, np.uint8)
    for name, target in (("fourth", 3), ("unknown", -1)):
        plot_samples(frame, [target], probs, list("abcde"), ["1"], tmp_path / f"{name}.png")
    assert share(tmp_path / "fourth.png", GREEN) > 0
    assert share(tmp_path / "unknown.png", GREEN) == 0


@pytest.mark.parametrize("n", [1, 8, 19])
def test_samples_are_eight_in_a_row_however_long_the_names(tmp_path, n):
    frames, probs = grey_samples(n, 3)
    short, long = tmp_path / "short.png", tmp_path / "long.png"
    plot_samples(frames, [0] * n, probs, ["a", "b", "c"], ["1"] * n, short)
    names = ["sadly surprised, disgusted and then some", "злобный и весёлый одновременно", "غاضب"]
    plot_samples(frames, [0] * n, probs, names, ["a/very/long/path/to/some/clip/00001"] * n, long)
    heights, widths = zip(*(pixels(path).shape[:2] for path in (short, long)), strict=True)
    assert max(widths) - min(widths) < 20
    assert max(heights) - min(heights) < 20
    assert widths[0] == pytest.approx(min(n, 8) * 217, rel=0.1)


def test_a_dollar_sign_in_a_name_is_one(tmp_path):
    frames, probs = grey_samples(1, 2)
    for name in ("1", "$"):
        plot_samples(frames, [0], probs, ["a", f"b{name}\\nope{name}"], ["1"], tmp_path / f"{name}.png")
        plot_confusion([[1, 2], [3, 4]], ["a", f"b{name}\\nope{name}"], tmp_path / f"{name}_confusion.png")
    assert ink(tmp_path / "$.png") == pytest.approx(ink(tmp_path / "1.png"), rel=0.02)


def test_no_samples_can_be_drawn(tmp_path):
    plot_samples(np.zeros((0, 8, 8, 3), np.uint8), [], np.zeros((0, 2)), ["a", "b"], [], tmp_path / "none.png")
    assert ink(tmp_path / "none.png") > 0


def test_real_faces_can_be_drawn(tmp_path, real_data):
    folder = real_data("fer2013")
    files = sorted((folder / "images").iterdir())[:3]
    frames = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    probs = np.eye(7)[[0, 1, 2]]
    names = label_map_from("fer2013").names
    plot_samples(frames, [0, 2, -1], probs, names, [file.name for file in files], tmp_path / "faces.png")
    assert share(tmp_path / "faces.png", GREEN) > 0
    assert share(tmp_path / "faces.png", VERMILION) > 0
