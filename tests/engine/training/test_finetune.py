"""Training end to end on small data: what a run leaves behind, and that it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from ecstfl_cli.engine.preparation.prepare import prepare_dataset
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.training.finetune import RunResult, finetune
from ecstfl_cli.errors import CheckpointError, DataError, EcstflError, LabelMapError, RegistryError
from ecstfl_cli.recipe import Recipe
from tests.small_run import merged, same_weights, small_recipe, train, weights


def recipe_for(tiny: Any, output: Path, **changes: Any) -> Recipe:
    """A recipe of seconds: resnet10t with a validation split and a test list."""
    base: dict[str, Any] = {
        "name": "tiny",
        "data": {"test": [str(tiny.test)], "val_split": 0.25},
        "model": {
            "backbone": "timm/resnet10t",
            "args": {},
            "temporal_head": "mean" if tiny.train.suffix == ".txt" else None,
        },
        "optimizer": {"name": "adamw", "lr": 1e-3},
    }
    return small_recipe(tiny, output, **merged(base, changes))


def run(recipe: Recipe, resume: Path | None = None) -> RunResult:
    return train(recipe, resume=resume)


@pytest.mark.pictures
def test_a_run_leaves_everything_a_table_needs(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    result = run(recipe_for(data, tmp_path / "runs", losses={"cross_entropy": {}, "ec_stfl": {"weight": 10.0}}))
    assert result.folder.parent == tmp_path / "runs" / "tiny"
    names = {path.name for path in result.folder.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "metrics.csv",
        "metrics.json",
        "last.safetensors",
        "best.safetensors",
        "curves.png",
        "confusion.png",
        "samples.png",
        "predictions.csv",
        "log.txt",
        "state",
    }
    for name in ("curves", "confusion", "samples"):
        with Image.open(result.folder / f"{name}.png") as picture:
            assert picture.width > 500
    table = pd.read_csv(result.folder / "metrics.csv")
    assert table["epoch"].tolist() == [1, 2]
    assert {"lr", "train_loss", "train_war", "loss_cross_entropy", "loss_ec_stfl", "val_war", "val_uar"} <= set(table)
    weighted = table["loss_cross_entropy"] + 10 * table["loss_ec_stfl"]
    assert weighted.tolist() == pytest.approx(table["train_loss"].tolist(), rel=1e-5)
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    for which in ("last", "best"):
        assert metrics[which]["test"]["samples"] == 24
        assert 0 <= metrics[which]["val"]["uar"] <= 100
    assert metrics["best"]["val"]["war"] == pytest.approx(table["val_war"].max())
    assert len(pd.read_csv(result.folder / "predictions.csv")) == 24


def test_it_learns_what_can_be_learnt(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=12)
    result = run(recipe_for(data, tmp_path, train={"epochs": 8}))
    assert result.metrics["last"]["test"]["war"] > 90


@pytest.mark.parametrize("head", ["mean", "gru"])
def test_clips_train_through_a_temporal_head(tiny_clips: Callable, tmp_path: Path, head: str) -> None:
    data = tiny_clips(classes=3, per_class=6, frames=6)
    result = run(recipe_for(data, tmp_path, model={"temporal_head": head}, train={"epochs": 5}))
    assert result.metrics["last"]["test"]["war"] > 60


def test_gamma_zero_is_exactly_cross_entropy(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=6)
    alone = run(recipe_for(data, tmp_path / "a", losses={"cross_entropy": {}}))
    zero = run(recipe_for(data, tmp_path / "b", losses={"cross_entropy": {}, "ec_stfl": {"weight": 0.0}}))
    ten = run(recipe_for(data, tmp_path / "c", losses={"cross_entropy": {}, "ec_stfl": {"weight": 10.0}}))
    assert same_weights(alone.folder, zero.folder)
    assert not same_weights(alone.folder, ten.folder)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_clips: Callable, tmp_path: Path) -> None:
    data = tiny_clips(classes=3, per_class=4, frames=6)
    options: dict[str, Any] = {
        "model": {"temporal_head": "transformer", "temporal_args": {"width": 32, "heads": 2}},  # has dropout
        "optimizer": {"name": "sgd", "lr": 0.01},
    }
    whole = run(recipe_for(data, tmp_path / "whole", **options, train={"epochs": 4}))
    half = run(recipe_for(data, tmp_path / "half", **options, train={"epochs": 2}))
    rest = run(recipe_for(data, tmp_path / "half", **options, train={"epochs": 4}), resume=half.folder)
    assert rest.folder == half.folder
    assert same_weights(whole.folder, rest.folder)
    assert pd.read_csv(rest.folder / "metrics.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_the_number_of_workers_does_not_change_the_result(tiny_clips: Callable, tmp_path: Path) -> None:
    data = tiny_clips(classes=2, per_class=4, frames=6)
    alone = run(recipe_for(data, tmp_path / "a"))
    two = run(recipe_for(data, tmp_path / "b", train={"workers": 2}))
    assert same_weights(alone.folder, two.folder)


def test_another_seed_gives_another_result(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    first = run(recipe_for(data, tmp_path / "a"))
    second = run(recipe_for(data, tmp_path / "b", seed=1))
    assert not same_weights(first.folder, second.folder)


def test_resuming_on_other_data_is_refused(tiny_images: Callable, tmp_path: Path) -> None:
    done = run(recipe_for(tiny_images(classes=2, per_class=4), tmp_path / "runs"))
    other = tiny_images(classes=2, per_class=6, folder="other")
    with pytest.raises(CheckpointError, match="another training list"):
        run(recipe_for(other, tmp_path / "runs", train={"epochs": 3}), resume=done.folder)


def test_a_run_is_not_resumed_as_another_one(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    done = run(recipe_for(data, tmp_path / "runs"))
    recipe = (done.folder / "recipe.yaml").read_text(encoding="utf-8")

    def resumed(**changes: Any) -> None:
        train(recipe_for(data, tmp_path / "runs", **changes), resume=done.folder, reporter=reporter)

    reporter = Reporter()
    with pytest.raises(EcstflError, match=r"(?s)is finished.*optimizer\.lr: .* before, 5\.0 now"):
        resumed(optimizer={"lr": 5.0})
    with pytest.raises(EcstflError, match=r"model\.backbone: timm/resnet10t before, grid_cnn now"):
        resumed(model={"backbone": "grid_cnn"}, train={"epochs": 9})
    resumed(train={"epochs": 1})
    assert (done.folder / "recipe.yaml").read_text(encoding="utf-8") == recipe
    assert not any("not as before" in line for line in reporter.warnings)
    resumed(optimizer={"lr": 1e-4}, train={"epochs": 9})
    assert any("optimizer.lr: " in line for line in reporter.warnings)
    assert "lr: 0.0001" in (done.folder / "recipe.yaml").read_text(encoding="utf-8")


def test_indices_that_nobody_has_named_are_told_of(tiny_images: Callable, tmp_path: Path) -> None:
    named = tiny_images(classes=2, per_class=4)
    bare = Path(named.train).with_name("bare.csv")
    bare.write_bytes(Path(named.train).read_bytes())
    reporter = Reporter()
    train(recipe_for(named, tmp_path / "runs", data={"train": [str(bare)], "test": []}), reporter=reporter)
    assert [line for line in reporter.notes if "does not say whose its indices are" in line]


@pytest.mark.parametrize("make", ["file", "empty", "no_state"])
def test_resuming_what_is_no_run_says_so(tmp_path: Path, tiny_images: Callable, make: str) -> None:
    target = tmp_path / "target"
    if make == "file":
        target.write_bytes(b"weights")
    else:
        target.mkdir()
        if make == "no_state":
            (target / "recipe.yaml").write_text("name: x\n")
    message = {"file": "is a file", "empty": "not a run folder", "no_state": "no state"}[make]
    with pytest.raises(EcstflError, match=message):
        run(recipe_for(tiny_images(classes=2), tmp_path), resume=target)


def test_a_list_shorter_than_one_batch_is_refused_and_leaves_nothing(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=2)
    with pytest.raises(DataError, match="fewer than one batch of 32") as caught:
        run(recipe_for(data, tmp_path / "runs", train={"batch_size": 32}))
    assert "--batch-size" in caught.value.hint
    assert not list((tmp_path / "runs" / "tiny").iterdir())


def test_choosing_the_best_epoch_on_the_test_list_is_said(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    reporter = Reporter()
    result = finetune(recipe_for(data, tmp_path, data={"val_split": 0.0}), reporter=reporter)
    assert any("chosen on the test list" in warning for warning in reporter.warnings)
    assert "test" not in result.metrics["best"]
    assert result.metrics["selected_by"] == "war on the test list"
    assert result.metrics["best"]["val"]["samples"] == 8


def test_training_without_any_evaluation_list_keeps_the_last_epoch(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    reporter = Reporter()
    result = finetune(recipe_for(data, tmp_path, data={"val_split": 0.0, "test": []}), reporter=reporter)
    assert any("nothing is evaluated" in warning for warning in reporter.warnings)
    assert result.metrics["best"] == result.metrics["last"] == {"epoch": 2}
    last, best = weights(result.folder), weights(result.folder, "best")
    assert all(torch.equal(last[key], best[key]) for key in last)


def test_labels_are_joined_by_name(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)  # 0 happy, 1 sad, 2 neutral
    recipe = recipe_for(data, tmp_path, data={"label_map": "dfew"}, label_map="fer2013", train={"epochs": 1})
    result = run(recipe)
    per_class = result.metrics["last"]["test"]["per_class"]
    assert {name for name, values in per_class.items() if values["samples"]} == {"happy", "sad", "neutral"}
    assert next(iter(per_class)) == "angry"


def test_a_recipe_and_a_manifest_that_disagree_about_the_labels_stop_the_run(
    tiny_images: Callable, tmp_path: Path
) -> None:
    data = tiny_images(classes=2, per_class=4)
    prepared = prepare_dataset(data.root, label_map="dfew", name="tiny", out=tmp_path, reporter=Reporter())
    lists = {"train": [str(tmp_path / "tiny_train.csv")], "test": []}
    with pytest.raises(LabelMapError, match="told in two ways") as caught:
        run(recipe_for(data, tmp_path, data={**lists, "label_map": "fer2013"}))
    assert str(prepared.path) in str(caught.value)


def test_classes_without_training_samples_are_named(tiny_images: Callable, tmp_path: Path) -> None:
    reporter = Reporter()
    finetune(recipe_for(tiny_images(classes=3, per_class=4), tmp_path, train={"epochs": 1}), reporter=reporter)
    assert any("no sample of: angry, surprise, disgust, fear" in warning for warning in reporter.warnings)


LOSSES = {
    "a number": ("0.5", "returned a float"),
    "one a sample": ("logits.sum(1)", r"returned a tensor \(4,\)"),
    "without a gradient": ("logits.detach().exp().mean()", "without a gradient"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_mistakes_of_a_loss_plugin_are_named(
    case: str, tiny_images: Callable, tmp_path: Path, fake_distribution
) -> None:
    value, message = LOSSES[case]
    source = "from torch import nn\nclass Odd(nn.Module):\n    def __init__(self, context): super().__init__()\n"
    source += f"    def forward(self, logits, features, target, batch): return {value}\n"
    fake_distribution("odd", {"losses": {"odd": "odd_mod:Odd"}}, {"odd_mod.py": source})
    with pytest.raises(EcstflError, match=f"the loss odd returned a.*{message}|{message}"):
        run(recipe_for(tiny_images(), tmp_path, losses={"cross_entropy": {}, "odd": {}}))


def test_a_loss_may_say_nothing_of_a_batch(tiny_images: Callable, tmp_path: Path, fake_distribution) -> None:
    """As one of pairs may, where a batch has none: 0, without a gradient."""
    source = "from torch import nn\nclass Odd(nn.Module):\n    def __init__(self, context): super().__init__()\n"
    source += "    def forward(self, logits, features, target, batch): return logits.new_zeros(())\n"
    fake_distribution("odd", {"losses": {"odd": "odd_mod:Odd"}}, {"odd_mod.py": source})
    losses = {"cross_entropy": {}, "odd": {}}
    assert run(recipe_for(tiny_images(), tmp_path, losses=losses, train={"epochs": 1})).metrics["epochs"] == 1


def test_a_backbone_whose_features_are_maps_is_named(tiny_images: Callable, tmp_path: Path, fake_distribution) -> None:
    source = """
from torch import nn
class Maps(nn.Module):
    modality, num_features = "img", 4
    def __init__(self, k):
        super().__init__()
        self.net, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, k)
    def forward_features(self, x): return self.net(x)
    def forward_head(self, features): return self.head(features.mean((2, 3)))
    def reset_classifier(self, k): pass
"""
    fake_distribution("maps", {"backbones": {"maps": "maps_mod:Maps"}}, {"maps_mod.py": source})
    with pytest.raises(EcstflError, match=r"backbone 'maps' gives features \(\d+, 4, \d+, \d+\), not \(\d+, 4\)"):
        run(recipe_for(tiny_images(), tmp_path, model={"backbone": "maps", "temporal_head": None}))


def test_training_stops_after_max_steps(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=8)
    result = run(recipe_for(data, tmp_path, train={"epochs": 50, "max_steps": 6}))
    assert result.metrics["epochs"] == 2  # 18 samples, 4 steps an epoch: 4 + 2


def test_a_loss_that_explodes_stops_the_run(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=8)
    recipe = recipe_for(data, tmp_path, optimizer={"name": "sgd", "lr": 1e12}, train={"epochs": 20})
    with pytest.raises(EcstflError, match="the loss is") as caught:
        run(recipe)
    assert "--lr" in caught.value.hint


def test_what_the_recipe_names_must_exist(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=4)
    with pytest.raises(DataError, match="path files not found"):
        run(recipe_for(data, tmp_path, data={"train": ["nowhere.csv"]}))
    with pytest.raises(RegistryError, match="unknown loss"):
        run(recipe_for(data, tmp_path, losses={"ecstfl": {}}))
    with pytest.raises(EcstflError, match=r"losses\.ec_stfl\.args"):
        run(recipe_for(data, tmp_path, losses={"cross_entropy": {}, "ec_stfl": {"args": {"margin": 1}}}))


def test_a_loss_with_parameters_of_its_own_is_trained_and_resumed(
    tiny_images: Callable, tmp_path: Path, fake_distribution: Callable
) -> None:
    fake_distribution("centre_plugin", {"losses": {"centre": "centre_plugin:Centre"}}, {"centre_plugin.py": CENTRE})
    data = tiny_images(classes=2, per_class=6)
    losses = {"cross_entropy": {}, "centre": {"weight": 0.1}}
    whole = run(recipe_for(data, tmp_path / "whole", losses=losses, train={"epochs": 2}))
    half = run(recipe_for(data, tmp_path / "half", losses=losses, train={"epochs": 1}))
    rest = run(recipe_for(data, tmp_path / "half", losses=losses, train={"epochs": 2}), resume=half.folder)

    def centres(folder: Path) -> torch.Tensor:
        state = torch.load(max((folder / "state").glob("*.pt")), weights_only=True)
        return state["parts"]["objective"]["terms.centre.c"]

    assert centres(whole.folder).abs().sum() > 0
    assert torch.equal(centres(whole.folder), centres(rest.folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"backbone": "bare"}}, "backbone 'bare' has no num_features and no reset_classifier"),
        ({"losses": {"many": {}}}, r"the loss many returned a tensor \(4,\)"),
    ],
)
def test_a_plugin_that_breaks_its_contract_is_named(
    tiny_images: Callable, tmp_path: Path, fake_distribution: Callable, changes: dict[str, Any], said: str
) -> None:
    groups = {"backbones": {"bare": "half_done:Bare"}, "losses": {"many": "half_done:Many"}}
    fake_distribution("half_done", groups, {"half_done.py": HALF_DONE})
    with pytest.raises(EcstflError, match=said):
        run(recipe_for(tiny_images(classes=2, per_class=4), tmp_path, **changes))


HALF_DONE = """
from torch import nn

class Bare(nn.Module):
    modality = "img"
    def __init__(self, num_classes):
        super().__init__()
    def forward_features(self, x): return x
    def forward_head(self, x): return x

class Many(nn.Module):
    def __init__(self, context):
        super().__init__()
    def forward(self, logits, features, target, batch):
        return logits.square().mean(dim=1)
"""

CENTRE = """
import torch
from torch import nn

class Centre(nn.Module):
    pairwise = False
    def __init__(self, context):
        super().__init__()
        self.c = nn.Parameter(torch.zeros(context.num_classes, context.num_features))
    def forward(self, logits, features, target, batch):
        return (features - self.c[target]).square().mean()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_during_training_is_named_without_a_traceback(
    tiny_images: Callable, tmp_path: Path, workers: int
) -> None:
    data = tiny_images(classes=2, per_class=4)
    victim = data.root / "images" / "train_happy_0.jpg"
    content = bytearray(victim.read_bytes())
    content[2:-2] = b"\x00" * (len(content) - 4)  # a JPEG's first and last bytes, nothing between
    victim.write_bytes(content)
    with pytest.raises(DataError, match=r"train_happy_0\.jpg") as caught:
        run(recipe_for(data, tmp_path, data={"val_split": 0.0}, train={"workers": workers, "batch_size": 8}))
    assert "Traceback" not in str(caught.value)
