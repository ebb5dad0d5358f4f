"""Samples: everything that is wrong with a list or its data is found before training starts, and reported together."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.engine.data.samples import Sample, class_counts, fingerprint, load_samples, stratified_split
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError


def load(path: Path, **options) -> list[Sample]:
    defaults = {"modality": "img" if path.suffix == ".csv" else "video", "root": None, "label_map": dfew}
    return load_samples([path], **{**defaults, "reporter": Reporter(), **options})


def error_of(path: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return caught.value


@pytest.fixture
def spoilt_images(tiny_images: Callable) -> Path:
    """Twelve rows: one file missing, one empty, one truncated, one not an image; one label outside the map."""
    data = tiny_images()
    images = data.root / "images"
    (images / "train_happy_1.jpg").unlink()
    (images / "train_happy_2.jpg").write_bytes(b"")
    whole = (images / "train_sad_0.jpg").read_bytes()
    (images / "train_sad_0.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "train_sad_1.jpg").write_text("not an image")
    data.train.write_text(data.train.read_text().replace("neutral_3.jpg,2", "neutral_3.jpg,8"))
    return data.train


@pytest.fixture
def spoilt_clips(tiny_clips: Callable) -> Path:
    """Nine rows: one folder missing, one empty, one with a bad frame, one listed with another count."""
    data = tiny_clips(frames=3)
    clips = data.root / "clips"
    for frame in (clips / "train_happy_0").iterdir():
        frame.unlink()
    (clips / "train_happy_0").rmdir()
    for frame in (clips / "train_happy_1").iterdir():
        frame.unlink()
    (clips / "train_sad_0" / "2.jpg").write_bytes(b"\xff\xd8\xff")
    data.train.write_text(data.train.read_text().replace("sad_1 3", "sad_1 30"))
    return data.train


def test_sound_lists_become_samples_with_what_is_on_disk(tiny_images, tiny_clips) -> None:
    images = load(tiny_images().train)
    assert class_counts(images, 7) == [4, 4, 4, 0, 0, 0, 0]
    assert images[0].clip_id == "images/train_happy_0.jpg"
    assert images[0].source.is_file()
    clips = load(tiny_clips(frames=5).train)
    assert {clip.n_frames for clip in clips} == {5}
    assert class_counts(clips, 7) == [3, 3, 3, 0, 0, 0, 0]


def test_all_that_is_wrong_with_images_is_reported_at_once(spoilt_images: Path) -> None:
    error = error_of(spoilt_images)
    assert "5 of 12 rows are wrong" in error.message
    for line, problem in {
        3: "images/train_happy_1.jpg: no such file",
        4: "images/train_happy_2.jpg: is empty (0 bytes)",
        6: "images/train_sad_0.jpg: cannot be decoded",
        7: "images/train_sad_1.jpg: is not an image",
        13: "images/train_neutral_3.jpg: label '8' is not in label map 'dfew'",
    }.items():
        assert f"{spoilt_images}:{line}: {problem}" in error.message
    assert f"ecstfl prepare --data-root DIR {spoilt_images}" in error.hint
    assert "--skip-bad" in error.hint


def test_all_that_is_wrong_with_clips_is_reported_at_once(spoilt_clips: Path) -> None:
    message = error_of(spoilt_clips).message
    assert "4 of 9 rows are wrong" in message
    assert f"{spoilt_clips}:1: clips/train_happy_0: no such folder" in message
    assert f"{spoilt_clips}:2: clips/train_happy_1: folder holds no images" in message
    assert f"{spoilt_clips}:4: clips/train_sad_0: 1 of 3 frames unreadable: 2.jpg" in message
    assert f"{spoilt_clips}:5: clips/train_sad_1: list says 30 frames, folder has 3" in message


def test_a_missing_clip_is_called_what_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("gone.mp4 9 0\ngone 9 0\n")
    message = error_of(path).message
    assert f"{path}:1: gone.mp4: no such file" in message
    assert f"{path}:2: gone: no such folder" in message


def test_more_than_twenty_problems_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,label\n" + "".join(f"gone{i}.jpg,0\n" for i in range(50)))
    message = error_of(path).message
    assert "50 of 50 rows are wrong" in message
    assert message.count("no such file") == 20
    assert "30 more" in message


def test_skip_bad_leaves_wrong_rows_out_into_a_rejects_file(spoilt_images: Path, tmp_path: Path) -> None:
    reporter = Reporter()
    samples = load(spoilt_images, skip_bad=True, rejects=tmp_path / "run" / "rejects.csv", reporter=reporter)
    assert class_counts(samples, 7) == [2, 2, 3, 0, 0, 0, 0]
    with (tmp_path / "run" / "rejects.csv").open() as file:
        rejected = list(csv.DictReader(file))
    assert [row["line"] for row in rejected] == ["3", "4", "6", "7", "13"]
    assert {row["file"] for row in rejected} == {str(spoilt_images)}
    assert rejected[0]["path"] == "images/train_happy_1.jpg"
    assert rejected[0]["problem"] == "no such file"
    assert "5 of 12 rows left out" in reporter.warnings[0]


def test_skip_bad_keeps_a_clip_whose_count_differs_and_believes_the_disk(spoilt_clips: Path, tmp_path: Path) -> None:
    reporter = Reporter()
    samples = load(spoilt_clips, skip_bad=True, rejects=tmp_path / "rejects.csv", reporter=reporter)
    assert len(samples) == 6
    assert {sample.n_frames for sample in samples} == {3}
    assert "count corrected: list says 30 frames, folder has 3" in (tmp_path / "rejects.csv").read_text()
    assert "3 of 9 rows left out, frame counts corrected: 1" in reporter.warnings[0]


def test_nothing_left_is_an_error_even_with_skip_bad(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,label\ngone.jpg,0\n")
    assert "none of 1 rows can be used" in error_of(path, skip_bad=True, rejects=tmp_path / "r.csv").message


def test_a_list_of_the_other_kind_is_refused(tiny_images, tiny_clips) -> None:
    error = error_of(tiny_images().train, modality="video")
    assert "lists images, but the model takes clips" in error.message
    assert "--type img" in error.hint
    assert "lists clips, but the model takes images" in error_of(tiny_clips().train, modality="img").message


def test_unknown_labels_are_minus_one_where_labels_are_not_required(tiny_images) -> None:
    path = tiny_images().train
    path.write_text(path.read_text().replace("happy_0.jpg,0", "happy_0.jpg,"))
    assert "has no label" in error_of(path).message
    samples = load(path, require_labels=False)
    assert samples[0].label == -1
    assert class_counts(samples, 7) == [3, 4, 4, 0, 0, 0, 0]


def test_relative_paths_start_from_the_data_root(tiny_clips, tmp_path: Path) -> None:
    data = tiny_clips()
    moved = tmp_path / "lists" / "train.txt"
    moved.parent.mkdir()
    data.train.rename(moved)
    assert "no such folder" in error_of(moved).message
    assert len(load(moved, root=data.root)) == 9


def test_the_check_reports_its_progress(tiny_clips) -> None:
    started, advanced = [], []

    class Watching(Reporter):
        @contextmanager
        def progress(self, description: str, total: int, unit: str = "clips"):
            started.append((description, total, unit))
            yield advanced.append

    load(tiny_clips().train, reporter=Watching())
    assert started == [("checking clips", 9, "clips")]
    assert sum(advanced) == 9


# --- fingerprint and split ------------------------------------------------------------------------------------------


def made(*labels: int, folder: str = "clips") -> list[Sample]:
    return [Sample(Path(f"{folder}/{i:03d}"), label, f"{folder}/{i:03d}") for i, label in enumerate(labels)]


def test_the_fingerprint_changes_with_labels_order_and_rows_but_not_with_where_the_data_lies() -> None:
    original = fingerprint(made(0, 1, 2))
    assert fingerprint(made(0, 1, 2, folder="/home/x/DFEW/clips")) == original
    assert fingerprint(made(0, 1, 2, folder="D:\\DFEW\\clips")) == original
    changed = [made(0, 1, 1), made(0, 1, 2)[::-1], made(0, 1), made(0, 1, 2, 3), []]
    assert len({fingerprint(samples) for samples in changed} | {original}) == 6


def test_the_split_holds_its_fraction_of_every_class_and_keeps_the_order() -> None:
    samples = made(*[0] * 100, *[1] * 50, *[2] * 10, *[-1] * 10)
    train, val = stratified_split(samples, 0.2, seed=3)
    assert class_counts(val, 3) == [20, 10, 2]
    assert sum(sample.label == -1 for sample in val) == 2
    assert sorted([*train, *val], key=samples.index) == samples
    assert train == [sample for sample in samples if sample in set(train)]
    assert val == [sample for sample in samples if sample in set(val)]


def test_rare_classes_stay_in_training_and_reach_validation_where_they_can() -> None:
    train, val = stratified_split(made(*[0] * 50, 1, 1, 2), 0.05, seed=0)
    assert class_counts(train, 3)[1:] == [1, 1]
    assert class_counts(val, 3)[1:] == [1, 0]
    train, val = stratified_split(made(0, 0, 0), 0.99, seed=0)
    assert (len(train), len(val)) == (1, 2)


def test_the_split_depends_on_the_seed_alone() -> None:
    samples = made(*[0] * 40, *[1] * 40)
    assert stratified_split(samples, 0.25, 1) == stratified_split(list(samples), 0.25, 1)
    assert stratified_split(samples, 0.25, 1) != stratified_split(samples, 0.25, 2)
    # Written down, so that a split made today is made again by every later version.
    assert " ".join(s.clip_id[-2:] for s in stratified_split(samples, 0.1, 7)[1]) == "06 08 21 34 51 56 70 78"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(made(0, 0), fraction, 0)


# --- real data ------------------------------------------------------------------------------------------------------


def test_real_images_with_wrong_suffixes_are_read(real_data) -> None:
    from ecstfl_cli.components.label_maps import muxspace

    root = real_data("muxspace")
    samples = load_samples(
        [root / "train.csv", root / "test.csv"], modality="img", root=None, label_map=muxspace, reporter=Reporter()
    )
    assert len(samples) == 958 + 411
