"""The cheap check before a run: what would make its scores wrong is said before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ecstfl_cli.engine.check.run import check
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.training_data import load_training_data
from ecstfl_cli.errors import DataError
from ecstfl_cli.recipe_loading import recipe_from_mapping


def said(train: Path, test: Path, modality: str = "img") -> Reporter:
    """What is said while the lists are loaded for a run."""
    recipe = recipe_from_mapping(
        {
            "name": "small",
            "label_map": "dfew",
            "data": {"train": [str(train)], "val": [str(test)]},
            "input": {"modality": modality},
            "model": {"backbone": "grid_cnn" if modality == "img" else "motion_grid_cnn"},
            "train": {"batch_size": 2},
        }
    )
    reporter = Reporter()
    from ecstfl_cli.labels import label_map_from

    load_training_data(recipe, label_map_from("dfew"), train.parent / "rejects", reporter)
    return reporter


def warnings_about_data(reporter: Reporter) -> list[str]:
    return [warning for warning in reporter.warnings if "has no sample of" not in warning]


def test_nothing_is_said_of_clean_lists(tiny_images: Callable) -> None:
    data = tiny_images()
    assert warnings_about_data(said(data.train, data.test)) == []


def test_a_sample_of_the_training_list_that_is_evaluated_on_is_warned_of(tiny_images: Callable) -> None:
    data = tiny_images()
    data.test.write_text(data.test.read_text().replace("test_happy_0", "train_happy_0"))
    (warning,) = warnings_about_data(said(data.train, data.test))
    assert warning.startswith("1 of 12 val samples are in the training list too, e.g. images/train_happy_0.jpg")


def test_a_copy_under_another_name_is_warned_of(tiny_images: Callable, tiny_clips: Callable) -> None:
    data = tiny_images()
    shutil.copy(data.root / "images/train_sad_1.jpg", data.root / "images/test_sad_3.jpg")
    (warning,) = warnings_about_data(said(data.train, data.test))
    assert warning.startswith("1 of 12 val samples are copies of training samples, e.g. images/test_sad_3.jpg of ")
    clips = tiny_clips()
    shutil.rmtree(clips.root / "clips/test_sad_0")
    shutil.copytree(clips.root / "clips/train_sad_1", clips.root / "clips/test_sad_0")
    (warning,) = warnings_about_data(said(clips.train, clips.test, "video"))
    assert "clips/test_sad_0 of clips/train_sad_1" in warning


def test_two_labels_for_one_sample_stop_the_run(tiny_images: Callable) -> None:
    data = tiny_images()
    data.train.write_text(data.train.read_text() + "images/train_happy_0.jpg,2\n")
    with pytest.raises(DataError, match="gives 1 samples another label than before"):
        said(data.train, data.test)


def test_short_clips_are_noted(tiny_clips: Callable) -> None:
    data = tiny_clips(frames=12)
    notes = said(data.train, data.test, "video").notes
    assert any("18 of 18 clips have fewer than the 16 frames of a view, the shortest 12" in note for note in notes)


def test_shared_subjects_are_warned_of(tiny_images: Callable) -> None:
    data = tiny_images()
    for file in (data.train, data.test):
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([f"{header},subject", *(f"{row},{i % 5}" for i, row in enumerate(rows))]) + "\n")
    (warning,) = warnings_about_data(said(data.train, data.test))
    assert warning.startswith("5 of 5 subjects of val are in the training list too, e.g. 0")


def test_each_unchecked_manifest_has_a_command_of_its_own(cli: Callable, tiny_images: Callable, tmp_path: Path) -> None:
    data, out = tiny_images(), tmp_path / "annotation"
    for name in ("one", "two"):
        assert (
            cli("prepare", "--data-root", data.root, "--label-map", "dfew", "--name", name, "--out", out).exit_code == 0
        )
    (note,) = (n for n in said(out / "one_train.csv", out / "two_test.csv").notes if "not read in full" in n)
    for name in ("one", "two"):
        assert f"`ecstfl prepare --check {out}/{name}.json`" in note
        assert cli("prepare", "--check", out / f"{name}.json").exit_code in (0, 2)


def test_what_a_full_check_called_wrong_is_said_again_while_the_lists_stay_the_same(
    cli: Callable, tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images()
    out = tmp_path / "annotation"
    cli("prepare", "--data-root", data.root, "--label-map", "dfew", "--out", out)
    train, test = out / "tiny_images_train.csv", out / "tiny_images_test.csv"
    assert any(f"prepare --check {out}/tiny_images.json` says" in note for note in said(train, test).notes)

    # Only decoding all of it shows the damage.
    image = data.root / "images/train_happy_0.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2] + bytes(200) + whole[len(whole) // 2 :])
    check([Path("tiny_images")], out=out, faces=0, reporter=Reporter())
    reporter = said(train, test)
    assert any("prepare --check` said of tiny_images: unreadable: 1 of 24" in warning for warning in reporter.warnings)
    assert not any("not read in full" in note for note in reporter.notes)

    train.write_text(train.read_text().replace("\n", "\n\n"))
    assert not any("said of tiny_images" in warning for warning in said(train, test).warnings)
