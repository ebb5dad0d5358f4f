"""Recipes: found by name or path, every error at once with its line, overrides, and YAML without surprises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ecstfl_cli.errors import RecipeError
from ecstfl_cli.recipe_loading import (
    RecipeDraft,
    dump,
    find_recipe,
    load_recipe,
    recipe_from_mapping,
)
from ecstfl_cli.recipe_yaml import parse
from ecstfl_cli.resources import shipped


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write(text, name="x.yaml")` puts a recipe into ./recipes of an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def make(text: str, name: str = "x.yaml") -> Path:
        path = Path("recipes") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def problems_of(path: Path, *overrides: str, components: bool = False) -> list[str]:
    """The lines of the error that loading raises, without the headline of several."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides, components=components)
    lines = caught.value.message.splitlines()
    return [line.strip() for line in lines[1:]] if len(lines) > 1 else lines


# --- errors ----------------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_with_file_line_key_and_what_is_allowed(write: Callable[..., Path]) -> None:
    path = write(
        "name: x\n"
        "gamma: 10\n"
        "train:\n"
        "  epoch: 5\n"
        "  device: gpuu\n"
        "  batch_size: '8'\n"
        "  workers: -1\n"
        "optimizer:\n"
        "  lr: fast\n"
        "  momentum: 1\n"
        "input:\n"
        "  mean: [0, 0]\n"
        "  std: [1, 1, zero]\n"
        "augment:\n"
        "schedule: step\n"
        "data:\n"
        "  skip_bad: on\n"
        "  label_map: [1, 2]\n"
    )
    assert problems_of(path) == [
        "recipes/x.yaml:2: gamma: unknown key here. Did you mean 'losses.ec_stfl.weight'?",
        "recipes/x.yaml:4: train.epoch: unknown key. Did you mean 'epochs'?",
        "recipes/x.yaml:5: train.device: must be one of auto, cpu, gpu, cuda, mps, not the text 'gpuu'. "
        "Did you mean 'gpu' or 'cpu'?",
        "recipes/x.yaml:6: train.batch_size: must be a whole number, not the text '8'",
        "recipes/x.yaml:7: train.workers: must be a whole number from 0, or auto, not -1",
        "recipes/x.yaml:9: optimizer.lr: must be a number, not the text 'fast'",
        "recipes/x.yaml:10: optimizer.momentum: must be below 1, not 1",
        "recipes/x.yaml:12: input.mean: must have at least 3 values, not 2",
        "recipes/x.yaml:13: input.std.2: must be a number, not the text 'zero'",
        "recipes/x.yaml:14: augment: must be a section of keys, but nothing is given",
        "recipes/x.yaml:15: schedule: must be a section of keys, not the text 'step'",
        "recipes/x.yaml:17: data.skip_bad: must be true or false, not the text 'on'",
        "recipes/x.yaml:18: data.label_map: must be the name of a label map, or a list of class names in index order, "
        "not the list [1, 2]",
    ]


def test_an_unknown_key_without_a_near_match_lists_the_keys_of_its_section(write: Callable[..., Path]) -> None:
    (problem,) = problems_of(write("name: x\nschedule:\n  zzz: 1\n"))
    assert problem == (
        "recipes/x.yaml:3: schedule.zzz: unknown key. "
        "Keys in schedule: name, step_size, factor, warmup_epochs, min_lr, args"
    )


def test_a_key_that_belongs_elsewhere_is_sent_there(write: Callable[..., Path]) -> None:
    problems = problems_of(write("name: x\nbackbone: timm/resnet18\nlosses:\n  ec_stfl: {gamma: 10}\n"))
    assert problems == [
        "recipes/x.yaml:2: backbone: unknown key here. Did you mean 'model.backbone'?",
        "recipes/x.yaml:4: losses.ec_stfl.gamma: unknown key here. Did you mean 'losses.ec_stfl.weight'?",
    ]


def test_contradictions_are_found_together_with_wrong_values(write: Callable[..., Path]) -> None:
    path = write(
        "name: x\n"
        "train: {epochs: many}\n"
        "data:\n"
        "  val: a.txt\n"
        "  val_split: 0.1\n"
        "input: {modality: img}\n"
        "model:\n"
        "  temporal_head: gru\n"
        "losses:\n"
        "  cross_entropy: {weight: 0}\n"
        "augment: {scale: [1, 0.5]}\n"
        "schedule: {name: cosine, min_lr: 1}\n"
    )
    assert problems_of(path) == [
        "recipes/x.yaml:2: train.epochs: must be a whole number, not the text 'many'",
        "recipes/x.yaml:5: data.val_split: give either data.val or data.val_split, not both",
        "recipes/x.yaml:8: model.temporal_head: is for clips, and input.modality is img",
        "recipes/x.yaml:9: losses: at least one term needs a weight above 0",
        "recipes/x.yaml:11: augment.scale: is [lowest, highest], and 1 is above 0.5",
        "recipes/x.yaml:12: schedule.min_lr: is above optimizer.lr, 0.01",
    ]


def test_a_contradiction_is_not_guessed_from_a_value_that_is_wrong_itself(write: Callable[..., Path]) -> None:
    (problem,) = problems_of(write("name: x\nlosses: {cross_entropy: {weight: none}}\n"))
    assert problem.endswith("losses.cross_entropy.weight: must be a number, not the text 'none'")


def test_a_missing_name_and_an_empty_file_are_said(write: Callable[..., Path]) -> None:
    assert problems_of(write("seed: 1\n")) == ["recipes/x.yaml: name: is missing"]
    assert problems_of(write("# nothing\n")) == ["recipes/x.yaml: is empty"]
    assert "is not a recipe" in problems_of(write("- a\n"))[0]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("name: x\ntrain: {epochs: 3\n", "recipes/x.yaml:3:1", "',' or '}'"),
        ("name: a: b\n", "recipes/x.yaml:1:8", "mapping values are not allowed here"),
        ("name: x\ntrain:\n\tepochs: 3\n", "recipes/x.yaml:3:1", r"'\t'"),
        ("name: &n x\ndescription: *n\n", "recipes/x.yaml:2:14", "references"),
        ("name: x\n---\nname: y\n", "recipes/x.yaml:2:1", "another document"),
    ],
)
def test_broken_yaml_is_located(write: Callable[..., Path], text: str, place: str, reason: str) -> None:
    (problem,) = problems_of(write(text))
    assert problem.startswith(f"{place}: not valid YAML: ")
    assert reason in problem


def test_a_key_given_twice_is_an_error_with_both_lines(write: Callable[..., Path]) -> None:
    path = write("name: x\ntrain:\n  epochs: 5\n  epochs: 50\n1: a\noutput: !!binary aGk=\n")
    assert problems_of(path) == [
        "recipes/x.yaml:3: train.epochs: given twice, on lines 3 and 4",
        "recipes/x.yaml:5: 1: a key must be a word; put other values in quotes",
        "recipes/x.yaml:6: output: the tag tag:yaml.org,2002:binary is not used in recipes: write plain values",
    ]


def test_a_file_that_is_not_text_is_refused(write: Callable[..., Path]) -> None:
    path = write("")
    path.write_bytes(b"name: \xff\xfe\n")
    assert "cannot be read" in problems_of(path)[0]


# --- values ----------------------------------------------------------------------------------------------------------


def test_numbers_and_words_are_read_by_yaml_1_2(write: Callable[..., Path]) -> None:
    path = write(
        "name: on\noptimizer: {lr: 1e-4, momentum: 0}\nschedule: {factor: 1E-1, warmup_epochs: 2}\n"
        "model: {args: {a: 1:30, b: no, c: 010, d: .5, e: null, f: TRUE}}\n"
    )
    recipe = load_recipe(path)
    assert recipe.name == "on"
    assert (recipe.optimizer.lr, recipe.schedule.factor) == (1e-4, 0.1)
    assert isinstance(recipe.schedule.warmup_epochs, float)
    assert recipe.model.args == {"a": "1:30", "b": "no", "c": "010", "d": 0.5, "e": None, "f": True}


def test_infinite_values_are_refused(write: Callable[..., Path]) -> None:
    (problem,) = problems_of(write("name: x\noptimizer: {lr: .inf}\n"))
    assert "optimizer.lr: must be a finite number" in problem


def test_one_path_file_needs_no_list(write: Callable[..., Path]) -> None:
    recipe = load_recipe(write("name: x\ndata: {train: a b.txt, test: [c.txt, d.txt]}\n"))
    assert (recipe.data.train, recipe.data.test) == (["a b.txt"], ["c.txt", "d.txt"])


def test_bom_and_crlf_are_read(write: Callable[..., Path]) -> None:
    path = write("")
    path.write_bytes(b"\xef\xbb\xbfname: x\r\ntrain:\r\n  epochs: 3\r\n")
    assert load_recipe(path).train.epochs == 3


def test_dump_keeps_text_that_looks_like_something_else() -> None:
    args = {"a": "1e-4", "b": "on", "c": "null", "d": "010", "e": "1_000", "f": "x: y # z", "g": 1e-5, "h": ["~", ""]}
    recipe = recipe_from_mapping({"name": "x", "description": "Ä\ntwo lines", "model": {"args": args}})
    again = recipe_from_mapping(parse(dump(recipe), "dump").values)
    assert again == recipe
    assert yaml.safe_load(dump(recipe))["model"]["args"]["a"] == "1e-4", "other YAML readers agree"


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_name_means_the_recipe_here_before_the_shipped_one(write: Callable[..., Path]) -> None:
    write("name: mine\n", "mine.yaml")
    own = write("name: dfew\n", "dfew.yaml")
    assert (
        find_recipe("mine") == find_recipe("mine.yaml") == find_recipe("recipes/mine.yaml") == Path("recipes/mine.yaml")
    )
    assert find_recipe("dfew") == own
    assert find_recipe("rafdb") == shipped("recipes") / "rafdb.yaml"


def test_a_shipped_recipe_is_found_where_there_is_no_recipes_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()  # e.g. the demo data: a folder of that name is not the recipe
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "recipes/demo.yaml", "./recipes/demo.yaml"):
        assert find_recipe(name) == shipped("recipes") / "demo.yaml"


def test_an_unknown_recipe_gives_suggestion_and_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        find_recipe("recipes/dfw.yaml")
    assert caught.value.message == "there is no recipe 'recipes/dfw.yaml'"
    assert "Did you mean 'dfew'?" in caught.value.hint
    assert "demo, dfew, fer2013" in caught.value.hint
    with pytest.raises(RecipeError, match="no recipe"):
        find_recipe("elsewhere/demo.yaml")


def test_a_run_folder_is_no_recipe_but_its_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        find_recipe(tmp_path)
    assert str(tmp_path / "recipe.yaml") in caught.value.hint


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_are_parsed_as_yaml_and_reach_every_key(write: Callable[..., Path]) -> None:
    recipe = load_recipe(
        write("name: x\ndata:\ntrain: {epochs: 3}\n"),
        [
            "train.epochs=7",
            "optimizer.lr=1e-3",
            "data.skip_bad=true",
            "data.train=[a.txt, b.txt]",
            "data.root=null",
            "model.args.drop_rate=0.1",
            "losses.ec_stfl.weight=5",
            "schedule={name: cosine, warmup_epochs: 2}",
            "description=a = b",
        ],
    )
    assert recipe.train.epochs == 7
    assert recipe.optimizer.lr == 1e-3
    assert recipe.data.skip_bad is True
    assert recipe.data.train == ["a.txt", "b.txt"]
    assert recipe.model.args == {"drop_rate": 0.1}
    assert (recipe.schedule.name, recipe.schedule.warmup_epochs) == ("cosine", 2.0)
    assert recipe.description == "a = b"


def test_a_loss_that_is_added_does_not_replace_the_default_objective() -> None:
    recipe = recipe_from_mapping({"name": "x"}, ["losses.ec_stfl.weight=5"])
    assert {name: term.weight for name, term in recipe.losses.items()} == {"cross_entropy": 1.0, "ec_stfl": 5.0}


def test_wrong_overrides_are_collected_and_name_their_source(write: Callable[..., Path]) -> None:
    problems = problems_of(
        write("name: x\ntrain:\n  workers: many\ndata: {train: [a.txt]}\nlosses: {cross_entropy: {weight: 1}}\n"),
        "train.epoch=3",
        "trian.epochs=3",
        "train.epochs",
        "train.batch_size=[1",
        "data.train.0=b.txt",
        "losses={cross_entropy: {weight: -1}}",
        "seed=five",
    )
    assert problems[0] == "recipes/x.yaml:3: train.workers: must be a whole number from 0, or auto, not the text 'many'"
    assert sorted(problems[1:]) == sorted(
        [
            "--set: train.epoch: unknown key. Did you mean 'epochs'?",
            "--set: trian: unknown key. Did you mean 'train'?",
            "--set: train.epochs: 'train.epochs' is not of the form key.path=value",
            "--set: train.batch_size: the value '[1' is not valid YAML: expected ',' or ']', but got '<stream end>', "
            "while parsing a flow sequence",
            "--set: data.train.0: data.train is a list: give all of it, as in [a, b]",
            "--set: losses.cross_entropy.weight: must be at least 0, not -1",
            "--set: seed: must be a whole number, not the text 'five'",
        ]
    )


def test_an_override_mends_what_the_file_has_wrong(write: Callable[..., Path]) -> None:
    assert load_recipe(write("name: x\ntrain: {epochs: many}\n"), ["train.epochs=3"]).train.epochs == 3


def test_a_mapping_is_not_changed_by_overrides() -> None:
    values = {"name": "x", "train": {"epochs": 3}}
    assert recipe_from_mapping(values, ["train.epochs=4"]).train.epochs == 4
    assert values == {"name": "x", "train": {"epochs": 3}}


# --- components ------------------------------------------------------------------------------------------------------


def test_unknown_components_are_reported_with_lines_beside_other_errors(write: Callable[..., Path]) -> None:
    path = write(
        "name: x\n"
        "label_map: dfwe\n"
        "model:\n"
        "  backbone: timmm/resnet18\n"
        "losses:\n"
        "  cross_entropy: {}\n"
        "  ec_stlf: {weight: 10}\n"
        "train: {epochs: 0}\n"
    )
    assert problems_of(path) == ["recipes/x.yaml:8: train.epochs: must be at least 1, not 0"]
    label_map, backbone, loss, epochs = problems_of(path, components=True)
    assert label_map.startswith("recipes/x.yaml:2: label_map: unknown label map 'dfwe'. Did you mean 'dfew'")
    assert backbone.startswith(
        "recipes/x.yaml:4: model.backbone: unknown backbone 'timmm/resnet18'. Did you mean 'timm"
    )
    assert loss.startswith("recipes/x.yaml:7: losses.ec_stlf: unknown loss 'ec_stlf'. Did you mean 'ec_stfl'")
    assert epochs.startswith("recipes/x.yaml:8: train.epochs")


@pytest.mark.parametrize("written", [{"label_map": "dfew"}, {}], ids=["written", "default"])
def test_label_maps_that_cannot_be_joined_are_shown_side_by_side(written: dict[str, str]) -> None:
    (problem,) = RecipeDraft({"name": "x", **written, "data": {"label_map": "affectnet8"}}, "x").problems(
        components=True
    )
    assert problem.startswith("x: data.label_map: label map 'affectnet8' has classes that 'dfew' lacks: contempt")
    assert "0 neutral" in problem


def test_names_are_looked_up_without_importing_what_they_name(
    write: Callable[..., Path], fake_distribution: Callable[..., Path]
) -> None:
    fake_distribution("broken", {"losses": {"broken_loss": "broken_module:Loss"}}, {"broken_module.py": "1 / 0\n"})
    recipe = load_recipe(write("name: x\nlosses: {broken_loss: {weight: 1}}\n"), components=True)
    assert "broken_loss" in recipe.losses


def test_a_component_named_by_an_override_is_blamed_on_it(write: Callable[..., Path]) -> None:
    draft = RecipeDraft.read(write("name: x\nmodel: {backbone: timm/resnet18}\n"))
    draft.override(["model.backbone=tim/resnet18"])
    assert draft.problems() == []
    assert draft.problems(components=True)[0].startswith("--set: model.backbone: unknown backbone 'tim/resnet18'")
