"""`ecstfl finetune` from the command line: recipe, flags in either spelling, resuming, and what is printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.cli.finetune import _evaluation
from ecstfl_cli.recipe import OptimizerSection, Recipe
from ecstfl_cli.recipe_loading import dump, load_recipe
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
    assert recipe.optimizer == OptimizerSection.model_validate(
        {"name": "sgd", "lr": 0.001, "momentum": 0.5, "weight_decay": 0.0}
    )
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
    for part in ("WAR %", "UAR %", "val", "test", "last", "best", f"run folder: {folder}"):
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


# --- options of the training engine ---------------------------------------------------------------------------------


@pytest.fixture
def small(tiny_images: Callable[..., Any], tmp_path: Path) -> Path:
    """A recipe file of two epochs of two steps."""
    from tests.small_run import small_recipe

    recipe = small_recipe(tiny_images(classes=2, per_class=4), tmp_path / "runs")
    path = tmp_path / "small.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    return path


@pytest.mark.parametrize(("word", "value"), [("500", 500), ("15min", "15min"), ("2.5 min", "2.5 min")])
def test_save_every_takes_steps_or_minutes(cli: Cli, small: Path, word: str, value: Any) -> None:
    result = cli("finetune", small, "--save-every", word, "--set", "train.max_steps=1", "--json")
    assert result.exit_code == 0, result.stderr
    run = Path(json.loads(result.stdout)["folder"])
    assert load_recipe(run / "recipe.yaml").train.save_every == value


@pytest.mark.parametrize("word", ["soon", "0", "-3", "15s"])
def test_save_every_that_is_neither_is_refused_by_name(cli: Cli, small: Path, word: str) -> None:
    result = cli("finetune", small, f"--save-every={word}")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "--save-every: train.save_every: must be a number of steps, e.g. 500, or of minutes, e.g. 15min" in said
    assert repr(int(word) if word.isdecimal() else word) in said


def test_a_run_that_is_stopped_says_so_in_its_json(cli: Cli, small: Path) -> None:
    stopped = cli("finetune", small, "--max-minutes", "0.000001", "--json")
    assert stopped.exit_code == 0, stopped.stderr
    printed = json.loads(stopped.stdout)
    assert printed["stopped"] == "the time limit of 1e-06 minutes"
    assert printed["last"] == {}
    assert f"continue with: ecstfl finetune --resume {printed['folder']}" in " ".join(stopped.stderr.split())
    words = ["--set", "train.max_minutes=null", "--json"]
    finished = cli("finetune", "--resume", printed["folder"], *words)
    assert finished.exit_code == 0, finished.stderr
    assert json.loads(finished.stdout)["stopped"] is None
    assert json.loads(finished.stdout)["last"] == {"epoch": 2}


def test_the_engines_options_reach_the_runs_recipe(cli: Cli, small: Path) -> None:
    pytest.importorskip("tensorboard")
    words = ["--detect-anomaly", "--max-minutes", "5", "--trackers", "tensorboard", "--precision", "fp32"]
    result = cli("finetune", small, *words, "--set", "train.max_steps=1", "--json")
    assert result.exit_code == 0, result.stderr
    run = Path(json.loads(result.stdout)["folder"])
    train = load_recipe(run / "recipe.yaml").train
    assert (train.detect_anomaly, train.max_minutes, train.trackers) == (True, 5.0, ["tensorboard"])
    assert list((run / "tensorboard").iterdir())
    assert f"tensorboard --logdir {run}" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compile", "--detect-anomaly"], "looks at single layers, which train.compile melts into one"),
        (["--max-minutes", "0"], "--max-minutes: train.max_minutes: must be above 0"),
        (["--lr", "0"], "--lr: optimizer.lr: must be above 0"),
        (["--set", "train.accumulate=0"], "train.accumulate: must be at least 1"),
        (["--set", "train.ema=1"], "train.ema: must be below 1"),
        (["--set", "augment.mixup=0.2", "--set", "augment.mix_prob=0"], "so that mixup and cutmix have no effect"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_training(
    cli: Cli, small: Path, words: list[str], said: str
) -> None:
    result = cli("finetune", small, *words)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())
    assert not (small.parent / "runs").exists()


@pytest.mark.parametrize("words", [["--trackers", "comet"], ["--processes", "0"], ["--precision", "fp8"]])
def test_a_wrong_choice_is_wrong_usage(cli: Cli, small: Path, words: list[str]) -> None:
    result = cli("finetune", small, *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr


def proposed(data: dict[str, Any], **more: Any) -> str:
    """The command that evaluates the best epoch of a run of these lists, up to `--model`."""
    return shlex.join(
        _evaluation(Recipe.model_validate({"name": "x", "data": data, "input": {"modality": "img"}, **more}))
    )


def test_the_proposed_evaluation_is_of_what_the_run_has_evaluated() -> None:
    a, b = {"file": "a.csv", "label_map": "fer2013"}, {"file": "b.csv", "label_map": "muxspace"}
    train = {"train": ["t.csv"]}
    assert proposed(train) == "ecstfl infer PATHFILE"
    assert proposed({**train, "test": ["a.csv"], "val": ["v.csv"]}) == "ecstfl infer a.csv"
    # One command has one label map, and one root.
    assert proposed({**train, "test": [a, b]}) == "ecstfl infer a.csv --label-map fer2013"
    assert proposed({**train, "test": [b, "c.csv"], "label_map": "muxspace"}) == (
        "ecstfl infer b.csv c.csv --label-map muxspace"
    )
    assert proposed({**train, "test": ["a.csv", {"file": "b.csv", "root": "/x y"}], "root": "/d"}) == (
        "ecstfl infer a.csv --data-root /d"
    )
    assert proposed({**train, "test": [a], "drop_classes": True, "skip_bad": True}) == (
        "ecstfl infer a.csv --label-map fer2013 --drop-classes --skip-bad"
    )
    # Clips are not for a model of stills; and own classes have no name to give.
    assert proposed({**train, "test": ["c.txt", "a.csv"], "any_modality": True}) == ("ecstfl infer a.csv")
    assert proposed({**train, "test": ["a.csv"], "label_map": ["x", "y"]}) == "ecstfl infer PATHFILE"
