"""What the training features of a recipe do to the weights, each against the arithmetic it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.components.sample_dataset import SampleDataset, collate
from ecstfl_cli.engine.data.loader import TrainingOrder
from ecstfl_cli.engine.data.samples import load_samples
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import seed_everything
from ecstfl_cli.engine.training.training_state import load_state, states
from ecstfl_cli.errors import CheckpointError, EcstflError, RecipeError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.recipe import Recipe
from tests.small_model import quick_infer
from tests.small_run import same_weights, small_recipe, train, weights

# Without batch norm and dropout, two batches of 4 are one of 8.
PLAIN = """
import torch
from torch import nn

class Plain(nn.Module):
    modality = "img"
    def __init__(self, num_classes):
        super().__init__()
        self.num_features = 8
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.body = nn.Conv2d(8, 8, 3)
        self.reset_classifier(num_classes)
    def forward_features(self, x):
        return self.body(torch.tanh(self.stem(x))).mean(dim=(2, 3))
    def forward_head(self, features):
        return self.head(features)
    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)
"""
# Each update is the gradient times the rate, and nothing else.
BARE = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
UNCHANGED = {"random_resized_crop": False, "hflip": 0.0}


@pytest.fixture
def plain(fake_distribution: Callable, tiny_images: Callable, tmp_path: Path) -> Callable[..., Recipe]:
    """`plain(output, per_class=4, …)`: a recipe of three classes with the network above and plain gradient descent."""
    fake_distribution("plain", {"backbones": {"plain": "plain_net:Plain"}}, {"plain_net.py": PLAIN})

    def make(output: str = "runs", per_class: int = 4, **changes: Any) -> Recipe:
        data = tiny_images(classes=3, per_class=per_class)
        model = {"backbone": "plain", "args": {}} | changes.pop("model", {})
        optimizer = BARE | changes.pop("optimizer", {})
        return small_recipe(data, tmp_path / output, model=model, optimizer=optimizer, **changes)

    return make


def state_of(folder: Path) -> dict[str, Any]:
    """The parts of a run's newest state."""
    return dict(load_state(folder / "state", Reporter()).parts)


def first_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    """What a run of the recipe starts from."""
    seed_everything(recipe.seed)
    network = build_model(recipe.model.to_spec(7), recipe.input.modality)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def updates(recipe: Recipe) -> dict[str, torch.Tensor]:
    """By how much a run of the recipe changes each weight."""
    before, after = first_weights(recipe), weights(train(recipe).folder)
    return {name: after[name] - before[name] for name in before}


def assert_close(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6, msg=name)


# --- moving average --------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_evaluated_and_kept_and_training_goes_on_from_the_weights(
    tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=3, per_class=4)
    evaluated = {"data": {"train": [str(data.train)], "test": [str(data.test)]}}
    plain = train(small_recipe(data, tmp_path / "plain", **evaluated))
    averaged = train(small_recipe(data, tmp_path / "ema", **evaluated, train={"ema": 0.9}))
    raw, state = state_of(plain.folder), state_of(averaged.folder)
    for name, tensor in weights(plain.folder).items():
        assert torch.equal(state["network"][name], raw["network"][name]), "an average that is not asked for training"
        assert torch.equal(raw["network"][name], tensor)
    mean = state["average"]["values"]
    assert state["average"]["updates"] == 6
    assert all(torch.equal(mean[name], tensor) for name, tensor in weights(averaged.folder).items())
    assert not torch.equal(mean["head.weight"], raw["network"]["head.weight"])
    table = pd.read_csv(averaged.folder / "predictions.csv")
    again = quick_infer(data.test, model=str(averaged.folder / "best.safetensors")).predictions
    assert table.filter(like="prob_").to_numpy() == pytest.approx(again.probs, abs=2e-6)


def test_an_average_must_be_there_from_the_start(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    run = train(small_recipe(data, tmp_path, train={"epochs": 1}))
    with pytest.raises(CheckpointError, match=r"no average of the weights, which train\.ema needs"):
        train(small_recipe(data, tmp_path, train={"epochs": 2, "ema": 0.9}), resume=run.folder)


# --- mixup and CutMix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_same_seed_mixes_the_same(tiny_clips: Callable, tmp_path: Path, kind: str) -> None:
    data = tiny_clips(classes=2, per_class=4, frames=4)

    def trained(output: str, **changes: Any) -> Path:
        changes = {"augment": {kind: 1.0}, "train": {"epochs": 1}} | changes
        return train(small_recipe(data, tmp_path / output, **changes)).folder

    first = trained("a")
    assert same_weights(first, trained("b"))
    assert not same_weights(first, trained("c", augment={}))


def test_pairwise_losses_take_part_in_the_batches_that_are_not_mixed(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    losses = {"cross_entropy": {}, "ec_stfl": {"weight": 1.0}}

    def table(**augment: float) -> pd.DataFrame:
        reporter = Reporter()
        recipe = small_recipe(data, tmp_path, losses=losses, augment=augment, train={"epochs": 1})
        found = pd.read_csv(train(recipe, reporter).folder / "metrics.csv")
        found["never"] = any("ec_stfl never takes part" in warning for warning in reporter.warnings)
        return found

    every = table(mixup=1.0)
    assert every["never"].all(), "it is said where a loss has no effect"
    assert "loss_ec_stfl" not in every
    assert every["train_loss"].tolist() == pytest.approx(every["loss_cross_entropy"].tolist())
    some = table(mixup=1.0, mix_prob=0.5)
    assert not some["never"].any()
    assert (some["loss_ec_stfl"] > 0).all()


def test_mixing_with_pairwise_losses_alone_is_refused(tiny_images: Callable, tmp_path: Path) -> None:
    recipe = small_recipe(tiny_images(classes=2), tmp_path, losses={"ec_stfl": {}}, augment={"cutmix": 1.0})
    with pytest.raises(EcstflError, match=r"nothing to train on: every loss is pairwise \(ec_stfl\)") as caught:
        train(recipe)
    assert "augment.cutmix" in caught.value.hint
    assert not list((tmp_path / "small").iterdir())


# --- accumulation and clipping ---------------------------------------------------------------------------------------


def test_two_batches_of_four_are_one_of_eight(plain: Callable) -> None:
    for optimizer in ({}, {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.2}):
        options = {"per_class": 8, "optimizer": optimizer}
        whole = train(plain("whole", **options, train={"batch_size": 8}))
        halves = train(plain("halves", **options, train={"batch_size": 4, "accumulate": 2}))
        assert_close(whole.folder, halves.folder)


def test_an_incomplete_last_group_is_averaged_over_its_own_batches(plain: Callable) -> None:
    whole = train(plain("whole", train={"batch_size": 8, "drop_last": False}))  # 8 and 4 samples
    groups = train(plain("groups", train={"batch_size": 4, "accumulate": 2}))  # 4 and 4, and 4
    assert_close(whole.folder, groups.folder)


def test_the_rate_goes_by_batches_whatever_is_accumulated(plain: Callable) -> None:
    schedule = {"name": "cosine", "min_lr": 0.0}
    tables = [
        pd.read_csv(train(plain(f"a{every}", schedule=schedule, train={"accumulate": every})).folder / "metrics.csv")
        for every in (1, 2)
    ]
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in (2, 5)]
    for table in tables:
        assert table["lr"].tolist() == pytest.approx(expected)


def test_a_broken_file_within_an_update_does_not_spoil_the_state(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    options = {"epochs": 1, "accumulate": 2, "save_every": 2}
    whole = train(small_recipe(data, tmp_path / "whole", train=options))
    recipe = small_recipe(data, tmp_path / "runs", train=options)
    rows = data.train.read_text().splitlines()[1:]
    second = TrainingOrder(len(rows), 4, recipe.seed).batch(3)  # The second batch of the second update.
    image = data.root / rows[second[0]].partition(",")[0]
    sound = image.read_bytes()
    image.write_bytes(sound[:200] + b"\xff\xd9" * ((len(sound) - 200) // 2))
    with pytest.raises(EcstflError, match=image.name):
        train(recipe)
    image.write_bytes(sound)
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert same_weights(whole.folder, train(recipe, resume=folder).folder)


def test_clipping_limits_the_step_to_the_rate_times_the_norm(plain: Callable) -> None:
    def step(**optimizer: float) -> float:
        changes = updates(plain(optimizer=optimizer, train={"max_steps": 1}))
        return float(torch.cat([change.flatten() for change in changes.values()]).norm())

    free = step()
    assert step(clip_norm=0.01) == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert step(clip_norm=1e6) == pytest.approx(free, rel=1e-6)
    assert free > 0.002


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
        ({"class_weights": [1, 2, 3, 0, 0, 0, 0]}, {"weight": torch.tensor([1.0, 2, 3, 0, 0, 0, 0])}),
        ({"class_weights": "balanced"}, {"weight": torch.tensor([6 / 4, 6 / 8, 6 / 6, 0, 0, 0, 0])}),
    ],
    ids=["smoothed", "weighted", "balanced"],
)
def test_label_smoothing_and_class_weights_are_those_of_the_recipe(
    plain: Callable, args: dict[str, Any], expected: dict[str, Any]
) -> None:
    losses = {"cross_entropy": {"args": args}}
    everything = {"epochs": 1, "batch_size": 18, "drop_last": False}
    recipe = plain(per_class=8, losses=losses, augment=UNCHANGED, train=everything)
    path = Path(recipe.data.train[0])
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[:4], *lines[8:16], *lines[16:22]]) + "\n")  # 4 happy, 8 sad, 6 neutral
    table = pd.read_csv(train(recipe).folder / "metrics.csv")
    samples = load_samples(
        [str(path)], modality="img", root=None, label_map=label_map_from("dfew"), reporter=Reporter()
    )
    dataset = SampleDataset(samples, recipe.input.to_spec())
    batch = collate([dataset[(0, i)] for i in range(len(samples))])
    assert batch.target.bincount().tolist() == [4, 8, 6]
    network = build_model(recipe.model.to_spec(7), "img")
    network.load_state_dict(first_weights(recipe))
    logits, _ = FrameModel(network, recipe.input.to_spec())(batch.frames)
    loss = F.cross_entropy(logits.detach(), batch.target, **expected)
    assert table["train_loss"][0] == pytest.approx(float(loss), rel=1e-5)


def test_wrong_arguments_of_a_loss_are_refused_before_the_first_step(plain: Callable, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="class_weights") as caught:
        train(plain(losses={"cross_entropy": {"args": {"class_weights": [1, 2]}}}))
    assert "7 numbers" in caught.value.hint
    assert not list((tmp_path / "runs" / "small").iterdir())


# --- rates of the layers, frozen stages ------------------------------------------------------------------------------


def test_frozen_stages_are_in_the_checkpoint_as_they_were(tiny_images: Callable, tmp_path: Path) -> None:
    reporter = Reporter()
    recipe = small_recipe(tiny_images(classes=2, per_class=4), tmp_path, model={"freeze": 2}, train={"ema": 0.9})
    before, after = first_weights(recipe), weights(train(recipe, reporter).folder)
    assert "6 of 14 parameters are frozen" in reporter.notes
    for name, tensor in before.items():
        is_frozen = name.startswith(("net.0.", "net.1."))
        assert torch.equal(after[name], tensor) == is_frozen, name


def test_each_stage_learns_at_a_fraction_of_the_next_and_prefixes_at_a_multiple(plain: Callable) -> None:
    once = {"max_steps": 1}
    even = updates(plain("even", train=once))
    decayed = updates(plain("decayed", train=once, optimizer={"layer_decay": 0.5}))
    factors = updates(plain("factors", train=once, optimizer={"lr_factors": {"stem": 3.0, "head.bias": 0.1}}))
    for name, change in even.items():
        scale = {"stem": 0.25, "body": 0.5, "head": 1.0}[name.partition(".")[0]]
        factor = {"stem.weight": 3.0, "stem.bias": 3.0, "head.bias": 0.1}.get(name, 1.0)
        torch.testing.assert_close(decayed[name], scale * change, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(factors[name], factor * change, rtol=1e-3, atol=1e-6)


# --- optimisers and schedules, resumed -------------------------------------------------------------------------------


def test_timms_optimiser_and_schedule_continue_bit_for_bit(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=4)
    options = {
        "optimizer": {"name": "timm/lamb", "lr": 0.01, "layer_decay": 0.7, "args": {"betas": [0.9, 0.99]}},
        "schedule": {"name": "timm/poly", "warmup_epochs": 0.5, "args": {"warmup_lr": 0.001}},
        "augment": {"mixup": 0.3},
    }
    whole = train(small_recipe(data, tmp_path / "whole", **options, train={"ema": 0.9}))
    half = train(small_recipe(data, tmp_path / "half", **options, train={"ema": 0.9, "max_steps": 3}))
    rest = train(small_recipe(data, tmp_path / "half", **options, train={"ema": 0.9}), resume=half.folder)
    assert rest.folder == half.folder
    assert same_weights(whole.folder, rest.folder)
    assert same_weights(whole.folder, rest.folder, "best")
    rates = pd.read_csv(rest.folder / "metrics.csv")["lr"].tolist()
    assert rates == pd.read_csv(whole.folder / "metrics.csv")["lr"].tolist()
    assert rates[0] > rates[1] > 0


def test_a_resumed_run_goes_by_the_values_that_its_recipe_has_now(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    run = train(small_recipe(data, tmp_path, train={"epochs": 1}))
    now = {"lr": 0.001, "weight_decay": 0.5, "momentum": 0.3, "args": {"nesterov": True}}
    train(small_recipe(data, tmp_path, optimizer=now), resume=run.folder)
    (group,) = state_of(run.folder)["optimizer"]["param_groups"]
    assert {key: group[key] for key in ("lr", "weight_decay", "momentum", "nesterov")} == {
        "lr": 0.001,
        "weight_decay": 0.5,
        "momentum": 0.3,
        "nesterov": True,
    }


def test_a_run_is_not_continued_with_another_optimiser(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    run = train(small_recipe(data, tmp_path, train={"epochs": 1}, optimizer={"name": "adamw", "lr": 0.001}))
    before = states(run.folder / "state")
    with pytest.raises(CheckpointError, match="it is of adamw, not of timm/lamb") as caught:
        train(small_recipe(data, tmp_path, optimizer={"name": "timm/lamb", "lr": 0.001}), resume=run.folder)
    assert "--resume" in caught.value.hint
    assert states(run.folder / "state") == before
