"""`ecstfl finetune` from the command line: recipe, flags in either spelling, resuming, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.recipe import OptimizerSection
from ecstfl_cli.recipe_loading import load_recipe
from ecstfl_cli.resources import shipped

Cli = Callable[..., Any]
SMALL = ["--device", "cpu", "--workers", "0", "-b", "4", "--set", "input.size=32", "--set", "train.max_steps=2"]


def test_the_flags_of_the_reference_release_train_in_its_own_spelling(
    cli: Cli, tmp_path: Path, tiny_images: Callable[..., Any]
) -> None:
    data = tiny_images(classes=2, per_class=4)
    train, test = data.train.rename(data.root / "my_train.csv"), data.test.rename(data.root / "my_list.csv")
    flags = ["--type", "img", "--model_name", "resnet18_ECSTFL", "--list_file_train", train, f"--list_file_val={test}"]
    more = ["--gamma", "3", "--epochs", "1", "--lr", "0.001", "--wd", "0", "--momentum", "0.5"]
    result = cli("finetune", *flags, *more, "--scheduler_stepsize", "7", *SMALL, "--json", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["recipe"] == "resnet18_ECSTFL", "values keep their underscores"
    assert {"war", "uar"} <= set(printed["last"]["val"])
    recipe = load_recipe(tmp_path / printed["folder"] / "recipe.yaml")
    assert recipe.data.train == [str(train)]
    assert recipe.data.val == [str(test)]
    assert recipe.losses["ec_stfl"].weight == 3
    assert recipe.optimizer == OptimizerSection.model_validate({"name": "sgd", "lr": 0.001, "momentum": 0.5, "weight_decay": 0.0})
    assert recipe.schedule.step_size == 7
    assert (recipe.train.device, recipe.train.workers, recipe.train.batch_size) == ("cpu", 0, 4)


def test_a_recipe_trains_and_its_run_is_resumed_without_naming_it(
    cli: Cli, tmp_path: Path, tiny_images: Callable[..., Any]
) -> None:
    data = tiny_images(classes=2, per_class=4)
    (tmp_path / "my.yaml").write_text(
        f"name: my\ndata: {{train: '{data.train}', test: '{data.test}', val_split: 0.5}}\n"
        "input: {modality: img, size: 32}\nmodel: {backbone: timm/test_resnet}\n"
        "train: {epochs: 1, batch_size: 2, workers: 0, device: cpu}\n",
        encoding="utf-8",
    )
    first = cli("finetune", "my.yaml", cwd=tmp_path)
    assert first.exit_code == 0, first.stderr
    assert "recipe my.yaml" in first.stderr
    (run,) = (tmp_path / "runs/my").iterdir()
    folder = run.relative_to(tmp_path)
    for part in ("val WAR", "test UAR", "last", "best", f"run folder: {folder}"):
        assert part in first.stdout
    assert f"next: ecstfl infer {data.test} --model {folder}/best.safetensors" in first.stdout
    assert f"ecstfl export {folder}/best.safetensors" in first.stdout

    again = cli("finetune", "--resume", folder, "--epochs", "2", "--json", cwd=tmp_path)
    assert again.exit_code == 0, again.stderr
    printed = json.loads(again.stdout)
    assert (printed["folder"], printed["epochs"]) == (str(folder), 2)
    assert f"recipe {folder}/recipe.yaml" in again.stderr
    assert load_recipe(run / "recipe.yaml").train.epochs == 2


def test_a_shipped_recipe_is_used_by_path_where_there_is_none_and_said(cli: Cli, tmp_path: Path) -> None:
    result = cli("finetune", "recipes/dfew.yaml", "--list-file-train", "my_list.txt", "--device=cpu", cwd=tmp_path)
    assert result.exit_code == 1
    assert f"recipe {shipped('recipes') / 'dfew.yaml'}" in result.stderr
    assert "my_list.txt" in result.stderr
    assert "annotation/dfew_fold1_test.txt" in result.stderr
    assert not list(tmp_path.glob("runs/*/*")), "a run that never started leaves no folder"


def test_without_recipe_and_flags_the_usage_is_wrong(cli: Cli, tmp_path: Path) -> None:
    for words in ([], ["--epochs", "3"]):
        result = cli("finetune", *words, cwd=tmp_path)
        assert result.exit_code == 2
        assert "ecstfl recipes" in " ".join(result.stderr.replace("│", "").split())


@pytest.mark.parametrize(
    "words", [["--type", "vid"], ["--device", "tpu"], ["--epochs", "many"], ["--precision=half"], ["--list-file-trian"]]
)
def test_a_wrong_option_is_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli("finetune", "dfew", *words)
    assert result.exit_code == 2
    assert words[0].partition("=")[0] in result.stderr


def test_errors_of_recipe_overrides_and_flags_come_together(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: my\ntrain:\n  epoch: 3\n", encoding="utf-8")
    result = cli("finetune", "my.yaml", "--set", "optimizer.lrr=1", "--gamma", "-1", "--seed=-1", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stdout == ""
    for part in (
        "my.yaml has 4 problems:",
        "my.yaml:3: train.epoch: unknown key. Did you mean 'epochs'?",
        "--set: optimizer.lrr: unknown key. Did you mean 'lr'?",
        "--gamma: losses.ec_stfl.weight: must be at least 0, not -1.0",
        "--seed: seed: must be at least 0, not -1",
    ):
        assert part in result.stderr


def test_a_model_that_was_never_released_is_explained(cli: Cli, tmp_path: Path) -> None:
    result = cli("finetune", "--model_name", "resnet18_mscele1m", cwd=tmp_path)
    assert result.exit_code == 1
    assert "'resnet18_mscele1m'" in result.stderr
    assert "never released" in result.stderr


def test_released_weights_that_are_missing_say_how_to_get_them(
    cli: Cli, tmp_path: Path, tiny_clips: Callable[..., Any]
) -> None:
    data = tiny_clips(classes=2, per_class=2)
    words = ["--model_name", "r3d_ECSTFL_dfew", "--list-file-train", data.train, *SMALL]
    result = cli("finetune", *words, cwd=tmp_path)
    assert result.exit_code == 1
    assert "checkpoint_load/r3d_ECSTFL_dfew.pth" in result.stderr
    assert "ecstfl checkpoints download r3d_ECSTFL_dfew" in result.stderr


@pytest.mark.parametrize(("make", "said"), [("file", "is a file"), ("folder", "no recipe.yaml")])
def test_only_a_run_folder_is_resumed(cli: Cli, tmp_path: Path, make: str, said: str) -> None:
    target = tmp_path / "old"
    target.mkdir() if make == "folder" else target.touch()
    result = cli("finetune", "--resume", target, cwd=tmp_path)
    assert result.exit_code == 1
    assert said in result.stderr
