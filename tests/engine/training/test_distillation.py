"""Online distillation: what the teacher sees and says, how it counts, and what a run tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.distillation import distilled, open_teacher
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.engine.weights.model_source import open_model
from ecstfl_cli.errors import CheckpointError, RecipeError
from ecstfl_cli.labels import LabelMap, label_map_from
from ecstfl_cli.recipe_loading import recipe_from_mapping
from tests.small_model import save_small_model
from tests.small_run import same_weights, small_recipe, train

DFEW = label_map_from("dfew")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_small_model(tmp_path / "teacher.safetensors", "img", temporal_head=None, size=48)


def taught(data: Any, output: Path, teacher: Path, **section: Any) -> Any:
    return small_recipe(data, output, distillation={"teacher": str(teacher), **section})


def test_the_teacher_says_of_frames_of_its_size_what_infer_says(
    tiny_images: Callable, tmp_path: Path, teacher: Path
) -> None:
    recipe = taught(tiny_images(), tmp_path, teacher)
    opened = open_teacher(recipe, DFEW, Reporter())
    assert opened is not None
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8))
    expected = open_model(teacher, device="cpu", reporter=Reporter()).logits(frames).softmax(dim=1)
    torch.testing.assert_close(opened(frames), expected)
    # Mixed frames are float, and not rounded.
    torch.testing.assert_close(opened(frames.float()), expected)


def test_in_half_precision_what_it_says_is_not_rounded(tiny_images: Callable, tmp_path: Path, teacher: Path) -> None:
    opened = open_teacher(taught(tiny_images(), tmp_path, teacher), DFEW, Reporter())
    assert opened is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert opened(torch.zeros(2, 48, 48, 3, dtype=torch.uint8)).dtype == torch.float32


def test_batches_are_resized_to_the_teachers_size_or_the_one_given(
    tiny_images: Callable, tmp_path: Path, teacher: Path
) -> None:
    frames = torch.full((2, 32, 32, 3), 77, dtype=torch.uint8)
    data = tiny_images()
    own = open_teacher(taught(data, tmp_path, teacher), DFEW, Reporter())
    given = open_teacher(taught(data, tmp_path, teacher, size=64), DFEW, Reporter())
    assert own is not None
    assert given is not None
    torch.testing.assert_close(own(frames), own(torch.full((2, 48, 48, 3), 77, dtype=torch.uint8)))
    torch.testing.assert_close(given(frames), given(torch.full((2, 64, 64, 3), 77, dtype=torch.uint8)))
    assert own.fingerprint != given.fingerprint


def test_a_teacher_may_see_the_mirror_image_too(tiny_images: Callable, tmp_path: Path, teacher: Path) -> None:
    data = tiny_images()
    plain = open_teacher(taught(data, tmp_path, teacher), DFEW, Reporter())
    both = open_teacher(taught(data, tmp_path, teacher, flip=True), DFEW, Reporter())
    assert plain is not None
    assert both is not None
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8))
    torch.testing.assert_close(both(frames), (plain(frames) + plain(frames.flip(2))) / 2)
    assert not torch.allclose(both(frames), plain(frames))
    assert both.fingerprint != plain.fingerprint


def test_of_several_teachers_the_mean_counts_each_at_its_size(
    tiny_images: Callable, tmp_path: Path, teacher: Path
) -> None:
    data = tiny_images()
    other = save_small_model(tmp_path / "other.safetensors", "img", temporal_head=None, size=32, seed=1)
    names = [str(teacher), str(other)]

    def opened(**section: Any) -> Any:
        recipe = small_recipe(data, tmp_path, distillation=section)
        return open_teacher(recipe, DFEW, Reporter())

    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8))
    both = opened(teacher=names)
    torch.testing.assert_close(both(frames), (opened(teacher=names[0])(frames) + opened(teacher=names[1])(frames)) / 2)
    sized = opened(teacher=names, size=[64, 40])
    expected = (opened(teacher=names[0], size=64)(frames) + opened(teacher=names[1], size=40)(frames)) / 2
    torch.testing.assert_close(sized(frames), expected)
    torch.testing.assert_close(opened(teacher=names, size=56)(frames), opened(teacher=names, size=[56, 56])(frames))
    assert len({one.fingerprint for one in (both, sized, opened(teacher=names[::-1]))}) == 3


def test_several_teachers_teach_a_run(tiny_images: Callable, tmp_path: Path, teacher: Path) -> None:
    data = tiny_images()
    other = save_small_model(tmp_path / "other.safetensors", "img", temporal_head=None, seed=1)
    section = {"teacher": [str(teacher), str(other)], "size": [48, 32], "flip": True}
    recipe = small_recipe(data, tmp_path / "runs", distillation=section)
    terms = pd.read_csv(train(recipe).folder / "metrics.csv")["loss_distillation"]
    assert (np.isfinite(terms) & (terms > 0)).all()


def test_classes_are_joined_by_name_and_others_left_out(tiny_images: Callable, tmp_path: Path) -> None:
    eight = LabelMap("eight", ("contempt", *reversed(DFEW.names)))
    other = save_small_model(tmp_path / "eight.safetensors", "img", temporal_head=None, labels=eight)
    recipe = taught(tiny_images(), tmp_path, other)
    opened = open_teacher(recipe, DFEW, Reporter())
    assert opened is not None
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    all_eight = open_model(other, device="cpu", reporter=Reporter()).logits(frames).softmax(dim=1)
    seven = all_eight[:, 1:].flip(1)
    torch.testing.assert_close(opened(frames), seven / seven.sum(dim=1, keepdim=True))


def test_the_loss_is_shared_by_the_weight() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    said = torch.tensor([[0.2, 0.5, 0.3]])
    term = -(said * logits.log_softmax(dim=1)).sum()
    loss, shown = distilled(torch.tensor(4.0), logits, said, 0.75)
    torch.testing.assert_close(loss, 1.0 + 0.75 * term)
    torch.testing.assert_close(shown, term)


def test_a_pupil_comes_to_say_what_the_teacher_says_and_not_the_labels(
    tiny_images: Callable, tmp_path: Path, teacher: Path
) -> None:
    # No picture is labelled surprise, and the teacher is sure that each is.
    checkpoint = load_native(teacher)
    checkpoint.state["head.bias"][4] += 1000
    save_checkpoint(teacher, checkpoint.state, model=checkpoint.model, input=checkpoint.input, labels=checkpoint.labels)
    data = tiny_images()
    recipe = taught(data, tmp_path / "runs", teacher, weight=1.0)
    recipe.train.epochs, recipe.optimizer.lr = 8, 0.2
    result = train(recipe)
    model = open_model(result.folder / "last.safetensors", device="cpu", reporter=Reporter())
    frames = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    assert model.labels.names[int(model.logits(frames).argmax())] == "surprise"
    terms = pd.read_csv(result.folder / "metrics.csv")["loss_distillation"]
    assert terms.iloc[-1] < terms.iloc[0] / 2


def test_mixed_batches_and_clips_are_taught_too(
    tiny_images: Callable, tiny_clips: Callable, tmp_path: Path, teacher: Path
) -> None:
    data = tiny_images()
    mixed = small_recipe(
        data, tmp_path / "runs", distillation={"teacher": str(teacher)}, augment={"mixup": 0.5, "cutmix": 1.0}
    )
    seer = save_small_model(tmp_path / "clips.safetensors", "video")
    for recipe in (mixed, taught(tiny_clips(), tmp_path / "runs", seer)):
        terms = pd.read_csv(train(recipe).folder / "metrics.csv")["loss_distillation"]
        assert (np.isfinite(terms) & (terms > 0)).all()


def test_another_teacher_is_told_where_a_run_is_repeated_and_not_resumed(
    tiny_images: Callable, tmp_path: Path, teacher: Path
) -> None:
    data = tiny_images()
    done = train(taught(data, tmp_path / "runs", teacher))
    assert not same_weights(done.folder, train(small_recipe(data, tmp_path / "alone")).folder)
    same = Reporter()
    repeated = train(taught(data, tmp_path / "runs", teacher), same, repeat=done.folder)
    assert same_weights(done.folder, repeated.folder)
    assert not [warning for warning in same.warnings if "teacher" in warning]
    save_small_model(teacher, "img", temporal_head=None, size=48, seed=1)
    other = Reporter()
    train(taught(data, tmp_path / "runs", teacher), other, repeat=done.folder)
    assert any("teacher: " in warning for warning in other.warnings), other.warnings
    longer = taught(data, tmp_path / "runs", teacher)
    longer.train.epochs = 3
    with pytest.raises(CheckpointError, match="other votes or teachers"):
        train(longer, resume=done.folder)


def test_a_teacher_that_cannot_teach_is_told(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images()
    clips = save_small_model(tmp_path / "clips.safetensors", "video")
    with pytest.raises(CheckpointError, match="its modality is video, the recipe's img"):
        train(taught(data, tmp_path, clips))
    six = save_small_model(
        tmp_path / "six.safetensors", "img", temporal_head=None, labels=LabelMap("six", DFEW.names[:6])
    )
    with pytest.raises(CheckpointError, match="has no class fear"):
        train(taught(data, tmp_path, six))
    with pytest.raises(CheckpointError, match="missing"):
        train(taught(data, tmp_path, tmp_path / "missing.safetensors"))


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ({}, "distillation.teacher", "is missing"),
        ({"teacher": []}, "distillation.teacher", "the name of a model, or a list of several"),
        ({"teacher": ["a", "b"], "size": [112]}, "distillation.size", "names 1 sizes, and there are 2 teachers"),
        ({"teacher": "a", "size": 4}, "distillation.size", "a side of 8 to 4096 pixels"),
        ({"teacher": "a", "weight": 0.0}, "distillation.weight", "must be above 0"),
        ({"teacher": "a", "temperature": 2}, "distillation.temperature", "unknown"),
    ],
)
def test_wrong_settings_are_told_with_their_key(section: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_mapping({"name": "x", "label_map": "dfew", "distillation": section}, components=True)
    assert key in str(caught.value)
    assert message in str(caught.value)
