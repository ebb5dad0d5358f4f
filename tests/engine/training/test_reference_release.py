"""The reference release without a recipe: its models, hyperparameters, default lists; and its flags over a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli import registry
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.reference_release import (
    REFERENCE_MODELS,
    Flags,
    recipe_from_flags,
    recipe_with_flags,
)
from ecstfl_cli.errors import DataError, EcstflError, RecipeError
from ecstfl_cli.recipe import OptimizerSection, Recipe
from ecstfl_cli.recipe_loading import RecipeDraft


@pytest.fixture
def lists(tmp_path: Path) -> Callable[..., Path]:
    """`lists("Imgs_train.csv", …)` makes empty path files in an annotation folder and returns it."""

    def make(*names: str) -> Path:
        folder = tmp_path / "annotation"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).touch()
        return folder

    return make


def from_flags(folder: Path | None = None, overrides: Sequence[str] = (), **flags: Any) -> Recipe:
    flags.setdefault("list_file_train", None if folder else "train.lst")
    return recipe_from_flags(
        Flags(**flags), overrides, reporter=Reporter(), annotation=folder or Path("no such folder")
    )


def over(values: dict[str, Any], overrides: Sequence[str] = (), **flags: Any) -> Recipe:
    return recipe_with_flags(RecipeDraft({"name": "x", **values}, "x.yaml"), Flags(**flags), overrides)


def weights(recipe: Recipe) -> dict[str, float]:
    return {name: term.weight for name, term in recipe.losses.items()}


# --- models and protocol ---------------------------------------------------------------------------------------------


def test_the_released_names_are_all_known() -> None:
    assert set(REFERENCE_MODELS) == {
        *("resnet18", "resnet18_ECSTFL", "r3d", "r3d_ECSTFL"),
        *("r3d_dfew", "r3d_ECSTFL_dfew", "resnet18_rafdb", "resnet18_ECSTFL_rafdb"),
    }


@pytest.mark.parametrize("name", list(REFERENCE_MODELS))
def test_a_model_name_gives_network_loss_and_first_weights(name: str) -> None:
    recipe = from_flags(model_name=name)
    still = name.startswith("resnet18")
    assert recipe.name == name
    assert recipe.input.modality == ("img" if still else "video")
    assert recipe.model.backbone == ("torchvision/resnet18" if still else "torchvision/r3d_18")
    registry.find("backbones", recipe.model.backbone)
    assert weights(recipe) == {"cross_entropy": 1.0, **({"ec_stfl": 10.0} if "ECSTFL" in name else {})}
    released = name.endswith(("_dfew", "_rafdb"))
    assert recipe.model.checkpoint == (name if released else None)


def test_first_weights_are_names_of_the_catalogue() -> None:
    from ecstfl_cli.engine.weights.catalogue import entries

    catalogue = {entry.name: entry for entry in entries()}
    for model in REFERENCE_MODELS.values():
        if model.checkpoint:
            assert catalogue[model.checkpoint].backbone == model.backbone
            assert catalogue[model.checkpoint].gamma == model.gamma
            assert catalogue[model.checkpoint].file == f"{model.name}.pth"


def test_the_protocol_is_the_release_s() -> None:
    video, still = from_flags(type="video"), from_flags(type="img")
    for recipe in (video, still):
        assert recipe.optimizer == OptimizerSection.model_validate(
            {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
        )
        assert (recipe.schedule.name, recipe.schedule.step_size, recipe.schedule.factor) == ("step", 50, 0.1)
        assert recipe.schedule.warmup_epochs == 0
        assert (recipe.train.epochs, recipe.train.batch_size) == (200, 32)
        assert (recipe.input.mean, recipe.input.std) == ([0, 0, 0], [1, 1, 1])
        assert recipe.input.resize == "stretch"
        assert recipe.augment.random_resized_crop
        assert recipe.augment.scale == [0.08, 1.0]
        assert recipe.augment.ratio == pytest.approx([3 / 4, 4 / 3])
        assert recipe.augment.hflip == 0.5
        assert recipe.data.val_split == 0
        assert recipe.label_map == "dfew"
    sampling = video.input.sampling
    assert (video.input.size, sampling.scheme, sampling.segments, sampling.duration) == (112, "segments", 8, 2)
    assert still.input.size == 224


def test_a_type_alone_trains_from_scratch_with_ec_stfl() -> None:
    assert from_flags(type="img").name == "resnet18_ECSTFL"
    assert from_flags(type="video").name == "r3d_ECSTFL"


def test_a_name_that_was_never_released_says_so_and_names_what_there_is() -> None:
    with pytest.raises(RecipeError) as caught:
        from_flags(model_name="resnet18_mscele1m")
    assert "README" in caught.value.message
    assert "never released" in caught.value.message
    assert "resnet18_ECSTFL_rafdb" in caught.value.hint


def test_a_misspelt_name_is_suggested() -> None:
    with pytest.raises(RecipeError) as caught:
        from_flags(model_name="r3d_ecstfl_dfw")
    assert "Did you mean 'r3d_ECSTFL_dfew'" in caught.value.hint


def test_a_model_of_the_other_type_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        from_flags(model_name="r3d", type="img")
    assert "--model-name r3d is a model of type video" in caught.value.message
    assert "resnet18" in caught.value.hint
    assert from_flags(model_name="r3d", type="video").input.modality == "video"


def test_every_flag_reaches_its_key() -> None:
    recipe = from_flags(
        type="video",
        list_file_train="a_b.txt",
        list_file_val="c_d.txt",
        gamma=2.5,
        epochs=3,
        batch_size=4,
        lr=0.5,
        momentum=0.1,
        wd=0.2,
        scheduler_stepsize=7,
        workers=0,
        device="cpu",
        precision="fp32",
        seed=9,
        data_root="root",
        label_map="fer2013",
        skip_bad=True,
        output="out",
    )
    assert (recipe.data.train, recipe.data.val, recipe.data.test) == (["a_b.txt"], ["c_d.txt"], [])
    assert weights(recipe) == {"cross_entropy": 1.0, "ec_stfl": 2.5}
    assert recipe.optimizer == OptimizerSection.model_validate(
        {"name": "sgd", "lr": 0.5, "momentum": 0.1, "weight_decay": 0.2}
    )
    assert recipe.schedule.step_size == 7
    train = recipe.train
    assert (train.epochs, train.batch_size, train.workers, train.device, train.precision) == (3, 4, 0, "cpu", "fp32")
    assert (recipe.seed, recipe.label_map, recipe.output) == (9, "fer2013", "out")
    assert (recipe.data.root, recipe.data.skip_bad) == ("root", True)


def test_wrong_flags_are_all_named_before_any_list_is_looked_for() -> None:
    with pytest.raises(RecipeError) as caught:
        from_flags(type="img", list_file_train=None, epochs=0, lr=-1.0, gamma=-2.0, label_map="dfwe")
    lines = caught.value.message.splitlines()
    assert "  --epochs: train.epochs: must be at least 1, not 0" in lines
    assert "  --lr: optimizer.lr: must be above 0, not -1.0" in lines
    assert "  --gamma: losses.ec_stfl.weight: must be at least 0, not -2.0" in lines
    assert any(line.startswith("  --label-map: label_map: unknown label map 'dfwe'") for line in lines)


def test_overrides_work_without_a_recipe_too() -> None:
    recipe = from_flags(type="img", overrides=["input.size=64", "schedule.name=cosine"])
    assert (recipe.input.size, recipe.schedule.name) == (64, "cosine")


# --- gamma -----------------------------------------------------------------------------------------------------------


def test_gamma_is_the_weight_of_the_ec_stfl_term_that_is_there() -> None:
    paper = {"losses": {"cross_entropy": {"weight": 1.0}, "ec_stfl_paper": {"weight": 10.0}}}
    assert weights(over(paper, gamma=3.0)) == {"cross_entropy": 1.0, "ec_stfl_paper": 3.0}
    assert weights(over(paper, gamma=0.0)) == {"cross_entropy": 1.0, "ec_stfl_paper": 0.0}


def test_gamma_adds_the_term_where_there_is_none_and_only_above_zero() -> None:
    assert weights(over({}, gamma=3.0)) == {"cross_entropy": 1.0, "ec_stfl": 3.0}
    assert weights(over({}, gamma=0.0)) == {"cross_entropy": 1.0}
    assert weights(from_flags(model_name="r3d", gamma=1.0)) == {"cross_entropy": 1.0, "ec_stfl": 1.0}


def test_gamma_beside_two_terms_is_ambiguous() -> None:
    both = {"losses": {name: {"weight": 1.0} for name in ("cross_entropy", "ec_stfl", "ec_stfl_paper")}}
    with pytest.raises(RecipeError, match=r"--set losses\.NAME\.weight=3"):
        over(both, gamma=3.0)


# --- flags over a recipe ---------------------------------------------------------------------------------------------


def test_flags_override_a_recipe_and_leave_the_rest() -> None:
    recipe = over({"train": {"epochs": 7, "batch_size": 5}, "seed": 3}, epochs=2)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.seed) == (2, 5, 3)


def test_flags_come_after_overrides() -> None:
    assert over({}, ["train.epochs=5", "losses.ec_stfl_paper.weight=1"], epochs=2, gamma=4.0).train.epochs == 2
    assert weights(over({}, ["losses.ec_stfl_paper.weight=1"], gamma=4.0))["ec_stfl_paper"] == 4.0


def test_a_model_name_replaces_the_network_of_a_recipe_but_not_its_losses() -> None:
    values = {
        "model": {
            "backbone": "timm/resnet18",
            "temporal_head": "gru",
            "temporal_args": {"hidden": 8},
            "args": {"a": 1},
        },
    }
    recipe = over(values, model_name="r3d_ECSTFL_dfew")
    model = recipe.model
    assert (model.backbone, model.checkpoint) == ("torchvision/r3d_18", "r3d_ECSTFL_dfew")
    assert (model.temporal_head, model.temporal_args, model.args) == (None, {}, {})
    assert weights(recipe) == {"cross_entropy": 1.0}
    assert over(values, model_name="resnet18").input.modality == "img"


def test_flags_without_effect_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        over({"optimizer": {"name": "adamw"}, "schedule": {"name": "cosine"}}, momentum=0.5, scheduler_stepsize=3)
    assert "--momentum: optimizer.momentum: has no effect: optimizer.name is adamw, not sgd" in caught.value.message
    assert "--scheduler-stepsize: schedule.step_size: has no effect: schedule.name is cosine" in caught.value.message


def test_the_validation_list_is_for_choosing_unless_a_split_does_that() -> None:
    assert over({}, list_file_val="v.txt").data.val == ["v.txt"]
    split = over({}, list_file_val="v.txt", val_split=0.1).data
    assert (split.val, split.test, split.val_split) == ([], ["v.txt"], 0.1)
    of_recipe = over({"data": {"val_split": 0.2, "test": "t.txt"}}, list_file_val="v.txt").data
    assert (of_recipe.val, of_recipe.test, of_recipe.val_split) == ([], ["v.txt"], 0.2)


def test_a_split_takes_the_place_of_a_recipe_s_validation_list() -> None:
    without_test = over({"data": {"val": "v.txt"}}, val_split=0.1).data
    assert (without_test.val, without_test.test) == ([], ["v.txt"])
    with_test = over({"data": {"val": ["v.txt"], "test": ["t.txt"]}}, val_split=0.1).data
    assert (with_test.val, with_test.test) == ([], ["t.txt"])
    assert over({"data": {"val_split": 0.2}}, val_split=0.0).data.val_split == 0


# --- default lists ---------------------------------------------------------------------------------------------------


def taken(recipe: Recipe) -> dict[str, list[str]]:
    return {key: [Path(f).name for f in getattr(recipe.data, key)] for key in ("train", "val", "test")}


def test_lists_named_after_the_model_come_first_then_the_release_s_plain_names(lists: Callable[..., Path]) -> None:
    folder = lists("Imgs_train.csv", "Imgs_test.csv", "other_train.csv", "other_test.csv", "Videos_train.txt")
    assert taken(from_flags(folder, model_name="resnet18")) == {
        "train": ["Imgs_train.csv"],
        "val": [],
        "test": ["Imgs_test.csv"],
    }
    assert taken(from_flags(folder, type="video"))["train"] == ["Videos_train.txt"]
    lists("resnet18_train.csv", "resnet18_val.csv")
    assert taken(from_flags(folder, model_name="resnet18")) == {
        "train": ["resnet18_train.csv"],
        "val": ["resnet18_val.csv"],
        "test": [],
    }


def test_the_only_pair_in_the_folder_is_taken_and_said(lists: Callable[..., Path]) -> None:
    folder = lists("demo_train.txt", "demo_test.txt", "lonely_train.txt", "faces_train.csv", "faces_test.csv")
    reporter = Reporter()
    recipe = recipe_from_flags(Flags(type="video"), reporter=reporter, annotation=folder)
    assert taken(recipe) == {"train": ["demo_train.txt"], "val": [], "test": ["demo_test.txt"]}
    assert reporter.notes == [
        f"training list {folder / 'demo_train.txt'}",
        f"test list {folder / 'demo_test.txt'}",
    ]


def test_with_validation_and_test_lists_both_are_used_for_what_they_are(lists: Callable[..., Path]) -> None:
    folder = lists("a_train.csv", "a_val.csv", "a_test.csv")
    assert taken(from_flags(folder, type="img")) == {
        "train": ["a_train.csv"],
        "val": ["a_val.csv"],
        "test": ["a_test.csv"],
    }
    split = from_flags(folder, type="img", val_split=0.1)
    assert taken(split) == {"train": ["a_train.csv"], "val": [], "test": ["a_test.csv"]}


def test_a_training_list_that_is_given_brings_the_lists_beside_it(lists: Callable[..., Path], tmp_path: Path) -> None:
    folder = lists("Imgs_train.csv", "Imgs_test.csv")
    (tmp_path / "train.csv").touch()
    (tmp_path / "val.csv").touch()
    recipe = from_flags(folder, type="img", list_file_train=str(tmp_path / "train.csv"))
    assert taken(recipe) == {"train": ["train.csv"], "val": ["val.csv"], "test": []}
    alone = from_flags(folder, type="img", list_file_train=str(tmp_path / "all.csv"))
    assert taken(alone) == {"train": ["all.csv"], "val": [], "test": []}


def test_a_list_that_is_given_is_not_joined_by_default_ones(lists: Callable[..., Path]) -> None:
    folder = lists("Imgs_train.csv", "Imgs_test.csv", "Imgs_val.csv")
    recipe = from_flags(folder, type="img", list_file_val="mine.csv")
    assert taken(recipe) == {"train": ["Imgs_train.csv"], "val": ["mine.csv"], "test": []}
    by_override = from_flags(folder, ["data.train=mine.csv"], type="img")
    assert by_override.data.train == ["mine.csv"]


def test_several_pairs_are_listed_instead_of_guessed(lists: Callable[..., Path]) -> None:
    folder = lists(*(f"dfew_fold{k}_{split}.txt" for k in (1, 2) for split in ("train", "test")))
    with pytest.raises(DataError) as caught:
        from_flags(folder, type="video")
    assert "dfew_fold1_train.txt" in caught.value.message
    assert "dfew_fold2_train.txt" in caught.value.message
    assert "--list-file-train" in caught.value.hint


def test_without_lists_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EcstflError) as caught:
        from_flags(tmp_path / "annotation", model_name="resnet18_rafdb")
    for name in ("resnet18_rafdb_train.csv", "Imgs_train.csv", "*_train.csv with *_test.csv or *_val.csv"):
        assert name in caught.value.message
    assert "ecstfl prepare" in caught.value.hint
