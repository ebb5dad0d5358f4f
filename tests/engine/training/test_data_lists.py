"""Path files of a recipe: joined by name, dropped only when told to, of several data sets, with subjects and votes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.training_data import TrainingData, load_training_data, soft_targets
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError, LabelMapError
from ecstfl_cli.labels import LabelMap, label_map_from
from ecstfl_cli.recipe import Recipe
from tests.small_model import quick_infer, save_small_model
from tests.small_run import StopAfter, merged, same_weights, small_recipe, train

DFEW = label_map_from("dfew")


@dataclass(frozen=True)
class Listed:
    """A training list of stills, as small_recipe takes it."""

    train: Path


@pytest.fixture
def stills(tmp_path: Path) -> Callable[..., Listed]:
    """`stills("a", {"happy": 4}, subjects=2, votes=dfew)`: images of named classes, with further columns."""
    from PIL import Image

    def make(
        name: str, classes: Mapping[str, int], subjects: int = 0, votes: LabelMap | None = None, blank: int = 0
    ) -> Listed:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        lines = [",".join(["filePath,expression", *(["subject"] if subjects else []), *(votes.names if votes else [])])]
        generator = np.random.default_rng(sum(map(ord, name)))
        for label, count in classes.items():
            for i in range(count):
                path = f"images/{label}_{i}.jpg"
                Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / path)
                row = [path, label, *([f"S{i % subjects}"] if subjects else [])]
                if votes:
                    own = votes.index(label)
                    shares = [6 * (k == own) + 2 * (k == (own + 1) % len(votes)) for k in range(len(votes))]
                    row += [""] * len(votes) if i < blank else map(str, shares)
                lines.append(",".join(row))
        (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Listed(folder / "train.csv")

    return make


def load(recipe: Recipe, tmp_path: Path, reporter: Reporter | None = None) -> TrainingData:
    return load_training_data(recipe, label_map_from(recipe.label_map), tmp_path, reporter or Reporter())


def labels_of(data: TrainingData) -> list[str]:
    return [DFEW.names[sample.label] for sample in data.train]


# --- other label maps ------------------------------------------------------------------------------------------------


def test_classes_without_a_counterpart_stop_with_both_lists_and_the_way_out(stills: Callable, tmp_path: Path) -> None:
    data = stills("a", {"happy": 4, "contempt": 3})
    with pytest.raises(LabelMapError, match="'muxspace' has classes that 'dfew' lacks: contempt") as caught:
        load(small_recipe(data, tmp_path, data={"label_map": "muxspace"}), tmp_path)
    assert "1 contempt   1 sad" in caught.value.message
    assert "data.drop_classes: true" in caught.value.hint


def test_dropped_classes_are_counted_by_list_and_class_and_kept_with_the_run(stills: Callable, tmp_path: Path) -> None:
    data, other = stills("a", {"happy": 5, "contempt": 3}), stills("b", {"sad": 4, "contempt": 2})
    reporter = Reporter()
    lists = {"label_map": "muxspace", "drop_classes": True, "test": str(other.train)}
    result = train(small_recipe(data, tmp_path, data=lists), reporter)
    (told,) = [line for line in reporter.warnings if line.startswith(str(data.train))]
    assert told.endswith("3 of 8 samples are left out, because the label map 'dfew' lacks their classes: contempt 3")
    kept = json.loads((result.folder / "environment.json").read_text())["data"]
    assert (kept["train"]["samples"], kept["train"]["dropped"]) == (5, {"contempt": 3})
    # Without a validation list the test list chooses, under its own name.
    assert (kept["val"]["samples"], kept["val"]["dropped"]) == (4, {"contempt": 2})


def test_a_list_of_which_nothing_is_left_is_refused(stills: Callable, tmp_path: Path) -> None:
    data = stills("a", {"contempt": 4})
    with pytest.raises(DataError, match=r"no sample of .* is left") as caught:
        load(small_recipe(data, tmp_path, data={"label_map": "muxspace", "drop_classes": True}), tmp_path)
    assert "ecstfl labels compare muxspace dfew" in caught.value.hint


def test_infer_leaves_classes_out_only_when_told_to(stills: Callable, tmp_path: Path) -> None:
    listed = stills("a", {"happy": 2, "contempt": 3}).train
    model = save_small_model(tmp_path / "m.safetensors", "img")
    options: dict[str, Any] = {"model": model, "label_map": label_map_from("muxspace")}
    with pytest.raises(LabelMapError, match="contempt") as caught:
        quick_infer(listed, **options, out=tmp_path / "stopped")
    assert "--drop-classes" in caught.value.hint
    result = quick_infer(listed, **options, drop_classes=True, out=tmp_path / "out")
    assert result.predictions.target.tolist() == [DFEW.index("happy")] * 2
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dropped"] == {str(listed): {"contempt": 3}}


# --- several data sets -----------------------------------------------------------------------------------------------


def test_each_path_file_has_its_own_label_map(stills: Callable, tmp_path: Path) -> None:
    first = stills("a", {"happy": 3})
    second = stills("b", {"sad": 2})
    second.train.write_text(second.train.read_text().replace(",sad", ",4"))  # as FER2013 numbers it
    entries = [str(first.train), {"file": str(second.train), "label_map": "fer2013"}]
    found = load(small_recipe(first, tmp_path, data={"train": entries}), tmp_path)
    assert labels_of(found) == ["happy"] * 3 + ["sad"] * 2
    assert found.summary(DFEW)["train"]["data_sets"] == {"a": 3, "b": 2}


def test_the_map_that_prepare_noted_is_found_for_each_file_and_must_agree(
    tiny_images: Callable, stills: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=2, per_class=4)
    prepare_dataset(data.root, label_map="rafdb", name="raf", out=tmp_path / "lists", reporter=Reporter())
    prepared = str(tmp_path / "lists" / "raf_train.csv")
    other = stills("b", {"sad": 4})
    found = load(small_recipe(other, tmp_path, data={"train": [str(other.train), prepared]}), tmp_path)
    assert labels_of(found) == ["sad"] * 4 + ["surprise"] * 4 + ["fear"] * 4
    assert {sample.data_set for sample in found.train} == {"b", "raf"}
    with pytest.raises(LabelMapError, match="told in two ways"):
        load(small_recipe(other, tmp_path, data={"train": {"file": prepared, "label_map": "dfew"}}), tmp_path)


def test_a_run_keeps_what_prepare_noted_of_its_lists(stills: Callable, tmp_path: Path) -> None:
    listed = stills("a", {"happy": 6, "sad": 6})
    done = prepare_dataset(listed.train.parent, name="mine", out=tmp_path / "annotation", reporter=Reporter())
    prepared = Listed(tmp_path / "annotation" / done.manifest["files"]["train"])
    found = load(small_recipe(prepared, tmp_path, data={"val_split": 0.3}), tmp_path).summary(DFEW)
    for name in ("train", "val"):
        (origin,) = found[name]["origin"]
        assert (origin["name"], origin["dataset"]) == ("mine", "path_files")
        assert not any(str(tmp_path) in value for value in origin.values()), "no folder of this machine"


def test_weights_say_how_often_an_epoch_sees_a_data_set(stills: Callable, tmp_path: Path) -> None:
    first, second, third = stills("a", {"happy": 8}), stills("b", {"sad": 8}), stills("c", {"fear": 6})
    entries = [
        str(first.train),
        {"file": str(second.train), "weight": 0.25},
        {"file": str(third.train), "weight": 1.5, "name": "rare"},
    ]
    found = load(small_recipe(first, tmp_path, data={"train": entries}), tmp_path)
    assert {name: part.draws for name, part in found.parts.items()} == {"a": 8, "b": 2, "rare": 9}
    counts = dict(zip(DFEW.names, found.class_counts, strict=True))
    assert (counts["happy"], counts["sad"], counts["fear"]) == (8, 2, 9)
    assert [sample.data_set for sample in found.drawn()] == ["a"] * 8 + ["b"] * 8 + ["rare"] * 12
    assert found.summary(DFEW)["train"]["weights"] == {"a": 1.0, "b": 0.25, "rare": 1.5}


def test_one_data_set_has_one_weight(stills: Callable, tmp_path: Path) -> None:
    first, second = stills("a", {"happy": 4}), stills("b", {"sad": 4})
    entries = [
        {"file": str(first.train), "name": "both"},
        {"file": str(second.train), "name": "both", "weight": 2},
    ]
    with pytest.raises(DataError, match="'both' have the weights 1 and 2"):
        load(small_recipe(first, tmp_path, data={"train": entries}), tmp_path)


def test_a_weighted_run_resumes_in_mid_epoch_to_the_bit(stills: Callable, tmp_path: Path) -> None:
    first, second = stills("a", {"happy": 6, "sad": 4}), stills("b", {"sad": 7, "fear": 3})
    entries = [str(first.train), {"file": str(second.train), "weight": 1.3}]

    def recipe(output: str) -> Recipe:
        options = {"data": {"train": entries}, "train": {"epochs": 3}}
        return small_recipe(first, tmp_path / output, **options)

    whole = train(recipe("whole"))
    # An epoch has 10 + 13 samples, five batches of 4: the seventh is in the middle of the second.
    half = train(recipe("half"), StopAfter(7, signal.SIGINT))
    assert half.stopped
    rest = train(recipe("half"), resume=half.folder)
    assert same_weights(whole.folder, rest.folder)
    changed = [entries[0], {**entries[1], "weight": 0.5}]  # type: ignore[dict-item]
    other = train(recipe("other"), StopAfter(7, signal.SIGINT))
    with pytest.raises(EcstflError, match="another weights"):
        train(merge_data(recipe("half"), train=changed), resume=other.folder)


def merge_data(recipe: Recipe, **changes: Any) -> Recipe:
    return Recipe.model_validate(merged(recipe.model_dump(), {"data": changes}))


def test_metrics_are_told_for_each_data_set_of_a_list(stills: Callable, tmp_path: Path) -> None:
    first, second = stills("a", {"happy": 8, "sad": 8}), stills("b", {"sad": 8})
    lists = {"train": [str(first.train), str(second.train)], "val_split": 0.25}
    result = train(small_recipe(first, tmp_path, data=lists))
    scores = result.metrics["last"]["val"]
    parts = scores["data_sets"]
    assert set(parts) == {"a", "b"}
    assert np.array_equal(np.sum([part["confusion"] for part in parts.values()], axis=0), scores["confusion"])


def test_stills_and_clips_train_together_only_when_told_to(
    stills: Callable, tiny_clips: Callable, tmp_path: Path
) -> None:
    images, clips = stills("a", {"happy": 4, "sad": 4}), tiny_clips(classes=2, per_class=4, frames=5)
    both = {"train": [str(images.train), str(clips.train)], "test": str(clips.test)}
    with pytest.raises(DataError, match=r"lists images, but the model takes clips") as caught:
        load(small_recipe(clips, tmp_path, data=both), tmp_path)
    assert "data.any_modality: true" in caught.value.hint
    for listed in (images, clips):  # The network is for what the first one lists.
        result = train(small_recipe(listed, tmp_path / listed.train.suffix[1:], data={**both, "any_modality": True}))
        data = json.loads((result.folder / "environment.json").read_text())["data"]
        assert data["train"]["data_sets"] == {"a": 8, "tiny_clips": 8}
        assert result.metrics["last"]["val"]["samples"] == 8


# --- subjects and votes ----------------------------------------------------------------------------------------------


def test_a_split_by_subject_needs_subjects(stills: Callable, tmp_path: Path) -> None:
    split = {"val_split": 0.25, "val_split_by": "subject"}
    reporter = Reporter()
    found = load(small_recipe(stills("a", {"happy": 8, "sad": 8}, 4), tmp_path, data=split), tmp_path, reporter)
    apart = [{sample.subject for sample in part} for part in (found.train, found.val["val"])]
    assert (len(apart[0]), len(apart[1])) == (3, 1)
    assert not apart[0] & apart[1]
    assert "validation on 1 of 4 subjects, 25.0 % of the training list" in reporter.notes
    with pytest.raises(DataError, match="names no subjects") as caught:
        load(small_recipe(stills("b", {"happy": 8}), tmp_path, data=split), tmp_path)
    assert "data.val_split_by: sample" in caught.value.hint


def test_votes_become_soft_targets_of_the_models_map(stills: Callable, tmp_path: Path) -> None:
    ferplus = label_map_from("ferplus")
    data = stills("a", {"fear": 2, "happy": 2}, votes=ferplus, blank=1)
    recipe = small_recipe(
        data, tmp_path, data={"label_map": "ferplus", "soft_labels": True, "drop_classes": True}, label_map="dfew"
    )
    reporter = Reporter()
    found = load(recipe, tmp_path, reporter)
    targets = soft_targets(found.train, len(DFEW))
    assert targets is not None
    # The first of each class has no votes; fear shares its with contempt, which DFEW lacks, happy with surprise.
    expected = torch.zeros(4, 7)
    expected[:2, DFEW.index("fear")] = 1
    expected[2, DFEW.index("happy")] = 1
    expected[3, DFEW.index("happy")], expected[3, DFEW.index("surprise")] = 0.75, 0.25
    assert torch.equal(targets, expected)
    assert any(note.startswith("2 of 4 training samples have soft labels") for note in reporter.notes)


def test_soft_labels_change_training_and_need_votes_and_a_loss(stills: Callable, tmp_path: Path) -> None:
    data = stills("a", {"happy": 6, "sad": 6}, votes=DFEW)
    mixed = {"augment": {"mixup": 0.4, "mix_prob": 0.5}, "losses": {"cross_entropy": {}, "ec_stfl": {}}}
    hard = train(small_recipe(data, tmp_path / "hard", **mixed))
    soft = train(small_recipe(data, tmp_path / "soft", **mixed, data={"soft_labels": True}))
    assert not same_weights(hard.folder, soft.folder)
    assert json.loads((soft.folder / "environment.json").read_text())["data"]["train"]["soft_labels"] == 12
    with pytest.raises(DataError, match="no training list holds votes"):
        train(small_recipe(stills("b", {"happy": 8}), tmp_path, data={"soft_labels": True}))
    with pytest.raises(EcstflError, match="no loss takes soft labels"):
        train(small_recipe(data, tmp_path, data={"soft_labels": True}, losses={"ec_stfl": {}}))


# --- teachers --------------------------------------------------------------------------------------------------------


def predictions(file: Path, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A table as `infer` writes it, of probabilities by class and path; what is not given is 0."""
    names = list(dict.fromkeys(name for row in rows.values() for name in (*DFEW.names, *row)))
    lines = [",".join([path, *(str(row.get(name, 0)) for name in names)]) for path, row in rows.items()]
    file.write_text("\n".join([f"path,{','.join(f'prob_{name}' for name in names)}", *lines]), encoding="utf-8")
    return str(file)


def test_teachers_are_averaged_by_class_name_and_mixed_with_the_label(stills: Callable, tmp_path: Path) -> None:
    data = stills("a", {"happy": 2, "sad": 2})
    paths = [sample.clip_id for sample in load(small_recipe(data, tmp_path), tmp_path).train]
    one = predictions(tmp_path / "one.csv", {path: {"happy": 1.0} for path in paths})
    # Contempt is left out, and the rest sums to 1.
    two = predictions(
        tmp_path / "two.csv", {path: {"sad": 0.2, "fear": 0.2, "contempt": 0.6} for path in reversed(paths)}
    )
    recipe = small_recipe(data, tmp_path, data={"teachers": [one, two], "teacher_weight": 0.8})
    reporter = Reporter()
    found = soft_targets(load(recipe, tmp_path, reporter).train, len(DFEW))
    taught = 0.8 * torch.tensor([0.5, 0.25, 0, 0, 0, 0, 0.25])
    label = 0.2 * torch.eye(7)
    torch.testing.assert_close(found, torch.stack([taught + label[0]] * 2 + [taught + label[1]] * 2))
    assert "the teachers' first choice is the label of 50.0 % of the training samples" in reporter.notes


def test_a_model_learns_from_the_predictions_that_infer_writes(stills: Callable, tmp_path: Path) -> None:
    data = stills("a", {"happy": 6, "sad": 6})
    teacher = save_small_model(tmp_path / "teacher.safetensors", "img", temporal_head=None)
    quick_infer(data.train, model=str(teacher), out=tmp_path / "taught", label_map=DFEW)
    teachers = {"teachers": [str(tmp_path / "taught" / "predictions.csv")]}
    pupil = train(small_recipe(data, tmp_path / "pupil", data=teachers))
    assert not same_weights(pupil.folder, train(small_recipe(data, tmp_path / "alone")).folder)
    with pytest.raises(EcstflError, match="no loss takes soft labels"):
        train(small_recipe(data, tmp_path, data=teachers, losses={"ec_stfl": {}}))


def test_other_predictions_of_a_teacher_are_told_where_a_run_is_repeated_and_not_resumed(
    stills: Callable, tmp_path: Path
) -> None:
    data = stills("a", {"happy": 6, "sad": 6})
    paths = [sample.clip_id for sample in load(small_recipe(data, tmp_path), tmp_path).train]
    file = tmp_path / "taught.csv"
    predictions(file, {path: {"happy": 1.0} for path in paths})
    options: dict[str, Any] = {"data": {"teachers": [str(file)]}}
    one, two = (small_recipe(data, tmp_path / "runs", **options, train={"epochs": n}) for n in (1, 2))
    done = train(one)
    same = Reporter()
    train(one, same, repeat=done.folder)
    assert not [warning for warning in same.warnings if "fingerprint" in warning]
    predictions(file, {path: {"happy": 0.9, "fear": 0.1} for path in paths})
    other = Reporter()
    train(one, other, repeat=done.folder)
    assert any("data.train.soft_labels_fingerprint: " in warning for warning in other.warnings)
    with pytest.raises(CheckpointError, match="other votes or teachers"):
        train(two, resume=done.folder)
    predictions(file, {path: {"happy": 1.0} for path in paths})
    train(two, resume=done.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not found"),
        ("path,label\na,1\n", r"needs the columns path and prob_<class>"),
        ("path,prob_happy\na,1\n", "the teacher has no class sad, neutral"),
        (f"path,{','.join(f'prob_{n}' for n in DFEW.names)}\na,1,0,0,0,0,0,0\n", "no prediction for 8 of the samples"),
    ],
)
def test_a_wrong_teacher_is_told(stills: Callable, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "predictions.csv"
    if text:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        load(small_recipe(stills("a", {"happy": 8}), tmp_path, data={"teachers": [str(file)]}), tmp_path)


@pytest.mark.parametrize("value", ["nan", "-1", "0", "much"])
def test_probabilities_are_numbers(stills: Callable, tmp_path: Path, value: str) -> None:
    data = stills("a", {"happy": 4})
    paths = [sample.clip_id for sample in load(small_recipe(data, tmp_path), tmp_path).train]
    file = Path(predictions(tmp_path / "p.csv", {path: {} for path in paths}))
    file.write_text(file.read_text().replace(",0,", f",{value},", 1))
    with pytest.raises(DataError, match="probabilit"):
        load(small_recipe(data, tmp_path, data={"teachers": [str(file)]}), tmp_path)


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        ({"train": [{"file": "a.csv", "lable_map": "dfew"}]}, "data.train.0.lable_map", "Did you mean 'label_map'"),
        ({"train": [{"weight": 2}]}, "data.train.0.file", "is missing"),
        ({"train": {"file": "a.csv", "weight": 0}}, "data.train.0.weight", "must be above 0"),
        ({"val": {"one": {"file": "a.csv", "weight": 2}}}, "data.val", "weight is for data.train only"),
        ({"teacher_weight": 0.0}, "data.teacher_weight", "must be above 0"),
        ({"val_split_by": "subject"}, "data.val_split_by", "has no effect without data.val_split"),
        ({"train": {"file": "a.csv", "label_map": "mafw"}}, "data.train.label_map", "contempt, anxiety"),
    ],
)
def test_wrong_entries_are_told_with_their_key(data: dict[str, Any], key: str, message: str) -> None:
    from ecstfl_cli.errors import RecipeError
    from ecstfl_cli.recipe_loading import recipe_from_mapping

    with pytest.raises(RecipeError) as caught:
        recipe_from_mapping({"name": "x", "label_map": "dfew", "data": data}, components=True)
    assert f" {key}: " in caught.value.message
    assert message in caught.value.message


def test_entries_are_found_in_every_form_that_lists_may_have() -> None:
    from ecstfl_cli.recipe_loading import dump, recipe_from_mapping
    from ecstfl_cli.recipe_yaml import parse

    recipe = recipe_from_mapping(
        {"name": "x", "data": {"train": {"file": "a", "weight": 2}, "val": {"one": "b", "two": ["c", {"file": "d"}]}}}
    )
    assert [(e.file, e.weight) for e in recipe.data.entries("train")["train"]] == [("a", 2)]
    assert recipe.data.lists("val") == {"val_one": ["b"], "val_two": ["c", "d"]}
    assert Recipe.model_validate(parse(dump(recipe), "dump").values) == recipe
