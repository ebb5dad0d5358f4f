"""`ecstfl recipes`: list, show, copy, validate, schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.recipe_loading import json_schema, load_recipe
from ecstfl_cli.resources import shipped

Cli = Callable[..., Any]


def test_the_list_names_what_each_recipe_trains_and_where_it_is(cli: Cli, tmp_path: Path) -> None:
    result = cli("recipes", cwd=tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["name", "modality", "backbone", "losses", "description", "file"]
    (dfew,) = [line for line in lines if line.startswith("dfew ")]
    for part in ("video", "torchvision/r3d_18", "cross_entropy, 10 ec_stfl", str(shipped("recipes") / "dfew.yaml")):
        assert part in dfew


def test_the_list_is_machine_readable_and_own_recipes_hide_shipped_ones(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/dfew.yaml").write_text("name: dfew\ndescription: mine\n", encoding="utf-8")
    (tmp_path / "recipes/wrong.yaml").write_text("name: wrong\nepochs: 3\n", encoding="utf-8")
    rows = {row["name"]: row for row in json.loads(cli("recipes", "--json", cwd=tmp_path).stdout)}
    assert rows["dfew"] == {
        "name": "dfew",
        "modality": "video",
        "backbone": "torchvision/r3d_18",
        "losses": {"cross_entropy": 1.0},
        "description": "mine",
        "file": "recipes/dfew.yaml",
    }
    assert "ecstfl recipes validate recipes/wrong.yaml" in rows["wrong"]["description"]
    assert rows["demo"]["file"] == str(shipped("recipes") / "demo.yaml")


def test_show_prints_the_file_as_it_is(cli: Cli, tmp_path: Path) -> None:
    result = cli("recipes", "show", "fer2013", cwd=tmp_path)
    assert result.stdout == (shipped("recipes") / "fer2013.yaml").read_text(encoding="utf-8")
    assert str(shipped("recipes") / "fer2013.yaml") in result.stderr


def test_copy_makes_a_recipe_of_its_own_name_with_its_schema(cli: Cli, tmp_path: Path) -> None:
    result = cli("recipes", "copy", "dfew", "recipes/my_dfew.yaml", cwd=tmp_path)
    assert result.exit_code == 0
    assert "ecstfl finetune recipes/my_dfew.yaml" in result.stdout
    copied = tmp_path / "recipes/my_dfew.yaml"
    original = load_recipe(shipped("recipes") / "dfew.yaml")
    assert load_recipe(copied) == original.model_copy(update={"name": "my_dfew"})
    assert "# The release picks its best epoch" in copied.read_text(encoding="utf-8"), "comments stay"
    assert json.loads((tmp_path / "recipes/recipe.schema.json").read_text(encoding="utf-8")) == json_schema()


def test_copy_goes_to_the_recipes_folder_or_the_folder_given(cli: Cli, tmp_path: Path) -> None:
    cli("recipes", "copy", "demo", cwd=tmp_path)
    assert (tmp_path / "recipes/demo.yaml").is_file()
    cli("recipes", "copy", "demo", "elsewhere", cwd=tmp_path)
    assert (tmp_path / "elsewhere/demo.yaml").is_file()


def test_copy_replaces_a_file_only_when_forced(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("name: precious\n", encoding="utf-8")
    refused = cli("recipes", "copy", "demo", "mine.yaml", cwd=tmp_path)
    assert refused.exit_code == 1
    assert "exists already" in refused.stderr
    assert target.read_text(encoding="utf-8") == "name: precious\n"
    assert cli("recipes", "copy", "demo", "mine.yaml", "--force", cwd=tmp_path).exit_code == 0
    assert load_recipe(target).name == "mine"


def test_copy_never_writes_over_the_recipe_itself(cli: Cli, tmp_path: Path) -> None:
    cli("recipes", "copy", "demo", cwd=tmp_path)
    before = (tmp_path / "recipes/demo.yaml").read_bytes()
    refused = cli("recipes", "copy", "demo", "--force", cwd=tmp_path)
    assert refused.exit_code == 1
    assert "is the recipe itself" in refused.stderr
    assert (tmp_path / "recipes/demo.yaml").read_bytes() == before


def test_copy_refuses_a_name_that_would_not_be_found_as_a_recipe(cli: Cli, tmp_path: Path) -> None:
    refused = cli("recipes", "copy", "demo", "demo.txt", cwd=tmp_path)
    assert refused.exit_code == 1
    assert ".yaml" in refused.stderr
    assert not (tmp_path / "demo.txt").exists()


def test_validate_reports_every_file_and_exits_with_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\ntrain: {epoch: 3}\nmodel: {backbone: tim/resnet18}\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("name: b\nseed: one\n", encoding="utf-8")
    result = cli("recipes", "validate", "demo", "a.yaml", "b.yaml", "c.yaml", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stdout == f"{shipped('recipes') / 'demo.yaml'}: valid\n"
    for part in (
        "a.yaml has 2 problems:",
        "a.yaml:2: train.epoch: unknown key. Did you mean 'epochs'?",
        "a.yaml:3: model.backbone: unknown backbone 'tim/resnet18'",
        "b.yaml:2: seed: must be a whole number, not the text 'one'",
        "there is no recipe 'c.yaml'",
    ):
        assert part in result.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("model: {backbone: timm/resnet10tt}", "timm/resnet10tt is not a timm model"),
        ("model: {backbone: motion_grid_cnn}", "takes clips, the input is stills"),
        ("model: {backbone: compact_resnet, args: {width: -1}}", "does not take its arguments {'width': -1}"),
        ("losses: {ec_stfl: {args: {foo: 2}}}", "losses.ec_stfl.args: got an unexpected keyword argument 'foo'"),
    ],
)
def test_validate_builds_network_and_losses(cli: Cli, tmp_path: Path, wrong: str, said: str) -> None:
    backbone = "" if wrong.startswith("model") else "model: {backbone: compact_resnet}\n"
    text = f"name: a\ninput: {{modality: img, size: 32}}\n{backbone}{wrong}\n"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    result = cli("recipes", "validate", "a.yaml", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr


def test_validate_without_problems_exits_with_0(cli: Cli, tmp_path: Path) -> None:
    assert cli("recipes", "validate", "demo", "rafdb", cwd=tmp_path).exit_code == 0


def test_the_schema_is_printed_for_editors(cli: Cli) -> None:
    result = cli("recipes", "schema")
    assert json.loads(result.stdout) == json_schema()


@pytest.mark.parametrize("command", ["show", "copy", "validate"])
def test_an_unknown_name_is_suggested(cli: Cli, tmp_path: Path, command: str) -> None:
    result = cli("recipes", command, "fer2103", cwd=tmp_path)
    assert result.exit_code == 1
    assert "Did you mean 'fer2013'?" in result.stderr
