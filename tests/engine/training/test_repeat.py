"""A run holds what it was made with, and is made again from that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ecstfl_cli import __version__
from ecstfl_cli.engine.data.samples import fingerprint_of
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.repeat import result_differences
from ecstfl_cli.engine.training.run_folder import RunFolder
from ecstfl_cli.errors import EcstflError
from tests.small_run import same_weights, small_recipe, train


@pytest.fixture
def first(tiny_images: Callable, tmp_path: Path) -> Any:
    """(recipe, folder) of a finished run of one epoch."""
    recipe = small_recipe(tiny_images(classes=2, per_class=4), tmp_path / "runs", train={"epochs": 1})
    return recipe, train(recipe).folder


def environment(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "environment.json").read_text())


def changed(folder: Path, **values: Any) -> None:
    """Edit what a run says it was made with."""
    found = environment(folder)
    for key, value in values.items():
        found[key] = {**found[key], **value} if isinstance(value, dict) else value
    (folder / "environment.json").write_text(json.dumps(found))


def repeated(recipe: Any, folder: Path) -> Reporter:
    reporter = Reporter()
    train(recipe, reporter, repeat=folder)
    return reporter


# --- what a run holds ------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_was_made_with(tiny_images: Callable, tmp_path: Path, monkeypatch: Any) -> None:
    data = tiny_images(classes=2, per_class=4)
    here = tmp_path / "project"
    here.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(here)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run([*git, *words], check=True)
    (here / "changed.py").write_text("print()")
    monkeypatch.chdir(here)
    found = environment(train(small_recipe(data, tmp_path / "runs", train={"epochs": 1})).folder)
    assert found["versions"]["ecstfl"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == sys.version.split()[0]
    assert {"numpy", "pillow", "safetensors"} <= set(found["versions"])
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert found["git"] == {"commit": commit, "changed_files": ["?? changed.py"]}
    assert (found["precision"], found["processes"], found["device"]) == ("fp32", 1, "cpu")
    assert found["folder"] == str(here)
    assert found["command"] == sys.argv
    train_list = found["data"]["train"]
    assert train_list["samples"] == 8
    assert train_list["classes"]["happy"] == train_list["classes"]["sad"] == 4
    rows = [line.split(",") for line in data.train.read_text().splitlines()[1:]]
    assert train_list["fingerprint"] == fingerprint_of((path, int(label)) for path, label in rows)


def test_outside_of_a_repository_there_is_no_git_state(
    tiny_images: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    run = train(small_recipe(tiny_images(classes=2), tmp_path / "runs", train={"epochs": 1}))
    assert environment(run.folder)["git"] is None


# --- and what is made of it ------------------------------------------------------------------------------------------


def test_a_repeated_run_is_equal_to_the_bit_and_says_so(first: Any) -> None:
    recipe, folder = first
    reporter = repeated(recipe, folder)
    assert f"repeats {folder} to the bit: weights and metrics are equal" in reporter.notes
    assert not [warning for warning in reporter.warnings if "before" in warning]
    (again,) = set(folder.parent.iterdir()) - {folder}
    assert same_weights(folder, again)


def test_other_versions_data_precision_and_recipes_are_reported(first: Any) -> None:
    recipe, folder = first
    changed(folder, versions={"torch": "2.6.0"}, precision="bf16", data={"train": {"samples": 7, "fingerprint": "abc"}})
    other = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lr": 0.01})})
    warnings = "\n".join(repeated(other, folder).warnings)
    for part in (
        f"not as in {folder}: versions.torch: 2.6.0 before, {torch.__version__} now",
        f"not as in {folder}: precision: bf16 before, fp32 now",
        "data.train.samples: 7 before, 8 now",
        "data.train.fingerprint: abc before, ",
        f"not as in {folder}: recipe.optimizer.lr: 0.05 before, 0.01 now",
        "last.safetensors: weights differ by ",
    ):
        assert part in warnings, part
    assert "recipe.output" not in warnings


def test_where_a_run_goes_is_no_difference(first: Any, tmp_path: Path) -> None:
    recipe, folder = first
    reporter = repeated(recipe.model_copy(update={"output": str(tmp_path / "elsewhere")}), folder)
    assert any("to the bit" in note for note in reporter.notes)
    assert not any("recipe" in warning for warning in reporter.warnings)


def test_a_run_that_never_finished_can_be_repeated_but_not_compared(first: Any) -> None:
    recipe, folder = first
    (folder / "last.safetensors").unlink()
    reporter = repeated(recipe, folder)
    assert any("last.safetensors" in warning for warning in reporter.warnings)
    assert not any("to the bit" in note for note in reporter.notes)


@pytest.mark.parametrize("missing", ["recipe.yaml", "environment.json"])
def test_what_is_no_run_is_not_repeated_and_leaves_nothing(first: Any, missing: str) -> None:
    recipe, folder = first
    (folder / missing).unlink()
    with pytest.raises(EcstflError, match=f"it has no {missing}"):
        train(recipe, repeat=folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_of_another_network_is_told(first: Any) -> None:
    recipe, folder = first
    wider = recipe.model_copy(update={"model": recipe.model.model_copy(update={"args": {"width": 5}})})
    lines = result_differences(RunFolder(folder), RunFolder(train(wider).folder))
    assert "last.safetensors is of another network" in lines
    assert "best.safetensors is of another network" in lines


# --- on the command line ---------------------------------------------------------------------------------------------


def test_repeat_takes_the_runs_own_recipe(cli: Callable, first: Any, tmp_path: Path) -> None:
    _, folder = first
    result = cli("finetune", "--repeat", folder, "--json", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert f"recipe {folder}/recipe.yaml" in result.stderr
    assert f"repeats {folder} to the bit" in " ".join(result.stderr.split())
    again = Path(json.loads(result.stdout)["folder"])
    assert again.parent == folder.parent
    assert (again / "recipe.yaml").read_text() == (folder / "recipe.yaml").read_text()


def test_flags_beside_repeat_are_taken_and_reported(cli: Callable, first: Any) -> None:
    _, folder = first
    result = cli("finetune", "--repeat", folder, "--lr", "0.1")
    assert result.exit_code == 0, result.stderr
    assert "recipe.optimizer.lr: 0.05 before, 0.1 now" in " ".join(result.stderr.split())


def test_repeat_refuses_a_recipe_or_a_resumed_run_beside_it(cli: Callable, first: Any) -> None:
    _, folder = first
    for words in (["demo"], ["--resume", str(folder)]):
        result = cli("finetune", *words, "--repeat", folder)
        assert result.exit_code == 2
        assert "give neither RECIPE nor --resume" in " ".join(result.stderr.replace("│", "").split())


def test_repeat_of_a_folder_without_a_recipe_says_what_is_missing(cli: Callable, tmp_path: Path) -> None:
    result = cli("finetune", "--repeat", tmp_path, cwd=tmp_path)
    assert result.exit_code == 1
    assert "cannot be repeated: it has no recipe.yaml and no environment.json" in " ".join(result.stderr.split())
    assert "runs/<recipe>/<time>" in result.stderr
