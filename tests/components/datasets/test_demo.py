"""The demo data set: what lies on disk, that it is reproducible and safe, and how hard it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ecstfl_cli import registry
from ecstfl_cli.api import PathRow, PreparedDataset
from ecstfl_cli.components.datasets.demo import DemoDataset, draw_clip
from ecstfl_cli.components.datasets.parametric_actions import BLINK, PROTOTYPES, SYLLABLES, sample_actions
from ecstfl_cli.components.datasets.parametric_face import render_clip
from ecstfl_cli.components.datasets.parametric_subject import sample_identity, sample_scene
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError

SMALL = {"train_clips": 5, "test_clips": 3}
UPPER_FACE = {1, 2, 4, 5, 6, 7, BLINK}
UNITS = {unit for moves in [*SYLLABLES, *(v for vs in PROTOTYPES.values() for v in vs)] for unit in moves} | {BLINK}


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def frames_of(root: Path, row: PathRow) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((root / row.path).iterdir())])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedDataset]:
    root = tmp_path_factory.mktemp("demo") / "data"
    return root, DemoDataset(**SMALL).prepare(root, Reporter())


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedDataset]:
    """Enough clips to tell an easy data set from a hard one."""
    root = tmp_path_factory.mktemp("demo")
    return root, DemoDataset(train_clips=210, test_clips=90).prepare(root, Reporter())


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_it_is_a_registered_data_set() -> None:
    assert registry.load("datasets", "demo") is DemoDataset


def test_clips_lie_on_disk_as_those_of_dfew(small: tuple[Path, PreparedDataset]) -> None:
    root, prepared = small
    assert (prepared.name, prepared.modality, prepared.label_map) == ("demo", "video", "dfew")
    assert {split: len(rows) for split, rows in prepared.splits.items()} == {"train": 5, "test": 3}
    assert prepared.splits["train"][0].path == "clips/00001"
    for row in [*prepared.splits["train"], *prepared.splits["test"]]:
        number = Path(row.path).name
        names = sorted(path.name for path in (root / row.path).iterdir())
        assert row.n_frames is not None
        assert names == [f"{number}_{t:05d}.jpg" for t in range(1, row.n_frames + 1)]
        with Image.open(root / row.path / names[0]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (112, 112))


def test_the_stamp_says_what_made_the_clips(small: tuple[Path, PreparedDataset]) -> None:
    root, _ = small
    assert DemoDataset().recognise(root)
    stamp = json.loads((root / "demo.json").read_text())
    assert stamp["complete"] is True
    assert {"version", "seed", "train_clips", "test_clips"} <= set(stamp)
    assert sorted(path.name for path in root.iterdir()) == ["clips", "demo.json"]


def test_subjects_of_train_and_test_are_disjoint_and_classes_uneven_but_not_tiny() -> None:
    train, test = DemoDataset().plan()
    assert {clip.subject for clip in train}.isdisjoint(clip.subject for clip in test)
    assert 40 <= len({clip.subject for clip in [*train, *test]}) <= 60
    for clips in (train, test):
        counts = Counter(clip.expression for clip in clips)
        assert set(counts) == set(dfew.names)
        assert min(counts.values()) >= 0.07 * len(clips)
        assert max(counts.values()) >= 2 * min(counts.values())
    lengths = [clip.frames for clip in train]
    assert min(lengths) == 12
    assert 28 <= max(lengths) <= 32


def test_labels_are_those_of_the_label_map(small: tuple[Path, PreparedDataset]) -> None:
    _, prepared = small
    train, test = DemoDataset(**SMALL).plan()
    for rows, clips in ((prepared.splits["train"], train), (prepared.splits["test"], test)):
        assert [dfew.names[row.label or 0] for row in rows] == [clip.expression for clip in clips]
        assert [row.subject for row in rows] == [f"S{clip.subject:02d}" for clip in clips]


# --- reproducible, reused, redone, never in the way ------------------------------------------------------------------


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(
    small: tuple[Path, PreparedDataset], tmp_path: Path
) -> None:
    root, prepared = small
    assert DemoDataset(**SMALL).prepare(tmp_path / "again", Reporter()) == prepared
    assert tree(tmp_path / "again") == tree(root)
    DemoDataset(seed=1, **SMALL).prepare(tmp_path / "other", Reporter())
    first = "clips/00001/00001_00001.jpg"
    assert tree(tmp_path / "other")[first] != tree(root)[first]


def test_a_clip_does_not_depend_on_those_drawn_before_it(small: tuple[Path, PreparedDataset], tmp_path: Path) -> None:
    root, _ = small
    clip = DemoDataset(**SMALL).plan()[1][-1]
    draw_clip(tmp_path / clip.folder, clip, seed=0)
    assert tree(tmp_path / clip.folder) == tree(root / "clips" / clip.folder)


def test_a_complete_generation_is_reused(tmp_path: Path) -> None:
    DemoDataset(**SMALL).prepare(tmp_path, Reporter())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    DemoDataset(**SMALL).prepare(tmp_path, Reporter())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("damage", ["frame lost", "interrupted", "another seed"])
def test_what_is_not_complete_is_redone_and_other_files_stay(
    damage: str, small: tuple[Path, PreparedDataset], tmp_path: Path
) -> None:
    DemoDataset(seed=1 if damage == "another seed" else 0, **SMALL).prepare(tmp_path, Reporter())
    (tmp_path / "notes.txt").write_text("mine")
    if damage == "frame lost":
        (tmp_path / "clips" / "00002" / "00002_00003.jpg").unlink()
    if damage == "interrupted":
        (tmp_path / "clips").rename(tmp_path / "clips.unfinished")
        stamp = json.loads((tmp_path / "demo.json").read_text())
        (tmp_path / "demo.json").write_text(json.dumps({**stamp, "complete": False}))
    DemoDataset(**SMALL).prepare(tmp_path, Reporter())
    assert tree(tmp_path) == {**tree(small[0]), "notes.txt": b"mine"}


@pytest.mark.parametrize("stamp", [None, "{}", '{"generator": "someone else"}', "not json", "[1]"])
def test_a_foreign_folder_is_refused_and_left_alone(stamp: str | None, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "holiday.jpg").write_bytes(b"mine")
    if stamp is not None:
        (tmp_path / "demo.json").write_text(stamp)
    before = tree(tmp_path)
    assert not DemoDataset().recognise(tmp_path)
    with pytest.raises(DataError, match="nothing was written") as caught:
        DemoDataset(**SMALL).prepare(tmp_path, Reporter())
    assert "--data-root" in caught.value.hint
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["a_file", "a_file/below"])
def test_a_root_that_cannot_be_a_folder_is_an_expected_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("mine")
    with pytest.raises(DataError, match="a_file"):
        DemoDataset(**SMALL).prepare(tmp_path / place, Reporter())
    assert (tmp_path / "a_file").read_text() == "mine"


# --- faces and movements ---------------------------------------------------------------------------------------------


def test_prototypes_cover_the_label_map_and_only_neutral_has_none() -> None:
    assert set(PROTOTYPES) == set(dfew.names)
    assert [name for name, variants in PROTOTYPES.items() if not all(variants)] == ["neutral"]


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_every_action_unit_moves_its_half_of_the_face(unit: int) -> None:
    rng = np.random.default_rng(3)
    identity = replace(sample_identity(rng), moustache=False, stubble=0.0, glasses=False, hair_style=0)
    scene = replace(sample_scene(rng, 2), noise=0.0)
    still = {name: np.full(2, getattr(scene, name)[0]) for name in ("roll", "yaw", "pitch", "scale", "x", "y", "gaze")}
    # Pressed and tightened lips show where the lips are not closed already.
    rest = {25: np.ones(2)} if unit in (23, 24) else {}
    moving = {**rest, unit: np.array([0.0, 1.0])}
    before, after = (f.astype(int) for f in render_clip(identity, moving, replace(scene, **still), rng))
    change = np.abs(after - before).mean(axis=(1, 2))
    upper, lower = change[15:56].mean(), change[56:].mean()
    assert max(upper, lower) > 0.3
    # The nose's root wrinkles above the middle of the frame and lifts the lip below it.
    assert unit == 9 or (upper > lower) == (unit in UPPER_FACE)


@pytest.mark.parametrize("expression", dfew.names)
def test_intensities_stay_in_range_and_vary_between_clips(expression: str) -> None:
    peaks = []
    for seed in range(40):
        actions = sample_actions(np.random.default_rng(seed), expression, 20)
        assert all(curve.shape == (20,) and curve.min() >= 0 and curve.max() <= 1 for curve in actions.values())
        shown = {unit for variant in PROTOTYPES[expression] for unit in variant}
        peaks.append(max((actions[unit].max() for unit in shown & set(actions)), default=0.0))
    if expression != "neutral":
        assert np.std(peaks) > 0.1
        assert np.mean(np.array(peaks) > 0.4) > 0.7


def test_neutral_faces_talk_and_blink() -> None:
    clips = [sample_actions(np.random.default_rng(seed), "neutral", 24) for seed in range(40)]
    assert 0.4 < np.mean([25 in actions for actions in clips]) < 0.9
    assert 0.4 < np.mean([BLINK in actions for actions in clips]) < 0.95


# --- how hard it is --------------------------------------------------------------------------------------------------


def _accuracy(
    larger: tuple[Path, PreparedDataset], features: Callable[[np.ndarray], np.ndarray], model: Pipeline
) -> tuple[float, float]:
    """Test accuracy, and that of always naming the most frequent class."""
    root, prepared = larger
    x = {split: np.stack([features(frames_of(root, row)) for row in rows]) for split, rows in prepared.splits.items()}
    y = {split: np.array([row.label for row in rows]) for split, rows in prepared.splits.items()}
    model.fit(x["train"], y["train"])
    return model.score(x["test"], y["test"]), np.bincount(y["test"]).max() / len(y["test"])


def test_the_mean_colour_of_one_frame_says_next_to_nothing(larger: tuple[Path, PreparedDataset]) -> None:
    accuracy, majority = _accuracy(
        larger,
        lambda frames: frames[len(frames) // 2].mean(axis=(0, 1)),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    )
    assert accuracy < majority + 0.08


def test_what_changes_within_a_clip_says_more_than_chance(larger: tuple[Path, PreparedDataset]) -> None:
    def extremes(frames: np.ndarray) -> np.ndarray:
        small = frames.mean(axis=-1).reshape(len(frames), 28, 4, 28, 4).mean(axis=(2, 4)) / frames.std()
        return np.concatenate([(small.max(0) - small.mean(0)).ravel(), (small.min(0) - small.mean(0)).ravel()])

    model = make_pipeline(PCA(60, whiten=True, random_state=0), LinearDiscriminantAnalysis())
    accuracy, majority = _accuracy(larger, extremes, model)
    assert majority + 0.12 < accuracy < 0.9
