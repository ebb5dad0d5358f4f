"""Every recipe that ships: valid, complete, buildable, and known to editors."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from ecstfl_cli.recipe import Recipe
from ecstfl_cli.recipe_loading import (
    SCHEMA_FILE,
    dump,
    json_schema,
    load_recipe,
    recipe_from_mapping,
)
from ecstfl_cli.recipe_yaml import parse
from ecstfl_cli.resources import shipped

SHIPPED = sorted(shipped("recipes").glob("*.yaml"))


def test_the_promised_recipes_ship() -> None:
    assert {path.stem for path in SHIPPED} >= {"demo", "dfew", "rafdb", "fer2013", "ictfaces"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_complete(path: Path) -> None:
    recipe = load_recipe(path, components=True)
    assert recipe.name == path.stem
    assert recipe.description
    assert recipe.data.train
    assert recipe.data.test or recipe.data.val
    assert recipe.data.val or recipe.data.val_split, "the best epoch must not be chosen on the test list"
    assert any(name.startswith("ec_stfl") for name in recipe.losses)
    assert len(recipe.description) <= 100


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_network_and_objective_of_a_shipped_recipe_can_be_built(path: Path) -> None:
    from ecstfl_cli.api import LossContext
    from ecstfl_cli.components.backbones import build_model
    from ecstfl_cli.engine.training.objective import Objective
    from ecstfl_cli.engine.weights.fitting import bare
    from ecstfl_cli.labels import label_map_from

    recipe = load_recipe(path)
    classes = len(label_map_from(recipe.label_map))
    network = bare(lambda: build_model(recipe.model.to_spec(classes), recipe.input.modality))
    Objective(recipe.losses, LossContext(classes, network.num_features, [1] * classes))
    assert network.modality == recipe.input.modality


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_dumps_to_an_equal_one(path: Path) -> None:
    recipe = load_recipe(path)
    text = dump(recipe)
    again = recipe_from_mapping(parse(text, "dump").values)
    assert again == recipe
    assert dump(again) == text
    assert list(yaml.safe_load(text)) == list(Recipe.model_fields), "in the order of the schema"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_editor_finds_the_schema_of_a_shipped_recipe_and_accepts_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    jsonschema.validate(parse(text, str(path)).values, json_schema())


def test_the_shipped_json_schema_is_current() -> None:
    stored = json.loads((shipped("recipes") / SCHEMA_FILE).read_text(encoding="utf-8"))
    assert stored == json_schema(), f"run: ecstfl recipes schema > recipes/{SCHEMA_FILE}"


def test_the_json_schema_refuses_what_the_loader_refuses() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for wrong in ({"name": "a", "epochs": 3}, {"name": "a", "train": {"epochs": "3"}}, {"train": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json_schema())
