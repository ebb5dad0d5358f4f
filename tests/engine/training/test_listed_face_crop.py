"""Lists of face crops tell the checkpoint how faces are cropped, so that `infer` does the same with raw pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.listed_face_crop import with_listed_face_crop
from ecstfl_cli.engine.weights.checkpoint import load_native
from tests.small_run import small_recipe, train

EYES = FaceCrop("centerface", 0.6, "eyes", 0.25, 96)


def cropped_list(data: Any, out: Path, crop: FaceCrop | None) -> str:
    """A training list whose manifest says `crop`, as `prepare --faces` leaves it."""
    prepared = prepare_dataset(data.root, label_map="dfew", name="tiny", out=out, reporter=Reporter())
    manifest = json.loads(prepared.path.read_text())
    if crop:
        prepared.path.write_text(json.dumps({**manifest, "face_crop": asdict(crop)}))
    return str(out / manifest["files"]["train"])


def test_the_checkpoint_knows_how_the_faces_of_its_training_lists_were_cropped(
    tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=2, per_class=4)
    lists = {"train": [cropped_list(data, tmp_path / "lists", EYES)], "test": [], "val_split": 0.0}
    recipe = small_recipe(data, tmp_path / "runs", data=lists, train={"epochs": 1})
    result = train(recipe)
    assert load_native(result.folder / "last.safetensors").input.face_crop == EYES
    assert "align: eyes" in (result.folder / "recipe.yaml").read_text()


def test_a_run_goes_on_with_its_recipe_named(tiny_images: Callable, tmp_path: Path) -> None:
    """The recipe as the user wrote it says no face crop; and the lists may have gone elsewhere since."""
    data = tiny_images(classes=2, per_class=4)
    lists = {"train": [cropped_list(data, tmp_path / "lists", EYES)], "test": [], "val_split": 0.0}
    begun = train(small_recipe(data, tmp_path / "runs", data=lists, train={"epochs": 1}))
    for manifest in (tmp_path / "lists").glob("*.json"):
        manifest.unlink()
    longer = train(small_recipe(data, tmp_path / "runs", data=lists, train={"epochs": 2}), resume=begun.folder)
    assert longer.metrics["epochs"] == 2
    assert load_native(longer.folder / "last.safetensors").input.face_crop == EYES


def test_a_recipe_that_says_otherwise_counts_and_is_warned_of(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    lists = {"train": [cropped_list(data, tmp_path / "lists", EYES)]}
    own = {**asdict(EYES), "margin": 0.5}
    recipe = small_recipe(data, tmp_path, data=lists, input={"face_crop": own})
    reporter = Reporter()
    assert with_listed_face_crop(recipe, reporter) == recipe
    assert "margin 0.5" in reporter.warnings[0]
    assert "margin 0.25" in reporter.warnings[0]
    same = small_recipe(data, tmp_path, data=lists, input={"face_crop": asdict(EYES)})
    reporter = Reporter()
    assert with_listed_face_crop(same, reporter) == same
    assert not reporter.warnings


@pytest.mark.parametrize("other", [None, FaceCrop()])
def test_lists_that_were_not_cropped_alike_give_none(
    tiny_images: Callable, tmp_path: Path, other: FaceCrop | None
) -> None:
    data = tiny_images(classes=2, per_class=4)
    files = [cropped_list(data, tmp_path / "a", EYES), cropped_list(data, tmp_path / "b", other)]
    reporter = Reporter()
    recipe = with_listed_face_crop(small_recipe(data, tmp_path, data={"train": files}), reporter)
    assert recipe.input.face_crop is None
    assert "not cropped alike" in reporter.warnings[0]


def test_lists_without_face_crops_change_nothing(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    recipe = small_recipe(data, tmp_path, data={"train": [cropped_list(data, tmp_path / "a", None)]})
    reporter = Reporter()
    assert with_listed_face_crop(recipe, reporter) is recipe
    assert not reporter.warnings
    assert not reporter.notes
