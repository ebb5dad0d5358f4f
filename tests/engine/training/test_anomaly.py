"""A loss, a gradient or a layer that is not finite: what is said, and what is left to continue from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from ecstfl_cli.engine.training.anomaly import LayerWatch
from ecstfl_cli.engine.training.training_state import states
from ecstfl_cli.errors import EcstflError
from tests.small_run import same_weights, small_recipe, train

# A network that goes wrong, in a layer of its choice, when it sees its `at`-th batch for training.
FRAGILE = """
import torch
from torch import nn

class Root(nn.Module):
    # The square root has an infinite slope at 0, though its value is fine.
    def forward(self, x):
        return x + torch.sqrt(torch.zeros_like(x) * x)

class Log(nn.Module):
    def forward(self, x):
        return torch.log(-x.abs() - 1)

class Breaks(nn.Module):
    def __init__(self, inner, at):
        super().__init__()
        self.inner, self.left = inner, at
    def forward(self, x):
        self.left -= self.training
        return self.inner(x) if self.left < 0 else x

class BreaksInEvaluation(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return x if self.training else self.inner(x)

class Fragile(nn.Module):
    modality = "img"
    def __init__(self, num_classes, where="none", at=0):
        super().__init__()
        self.num_features = 4
        self.first = nn.Conv2d(3, 4, 3, 4)
        self.middle = {
            "none": nn.Identity(),
            "forward": Breaks(Log(), at),
            "backward": Breaks(Root(), at),
            "validation": BreaksInEvaluation(Log()),
        }[where]
        self.last = nn.Conv2d(4, 4, 3, 2)
        self.reset_classifier(num_classes)
    def forward_features(self, x):
        return self.last(self.middle(self.first(x))).mean(dim=(2, 3))
    def forward_head(self, features):
        return self.head(features)
    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)
"""


@pytest.fixture
def fragile(fake_distribution: Callable, tiny_images: Callable, tmp_path: Path) -> Callable:
    """`fragile(where, at, **train)`: a recipe of 8 samples in batches of 4, with the network above."""
    fake_distribution("fragile", {"backbones": {"fragile": "fragile_net:Fragile"}}, {"fragile_net.py": FRAGILE})
    data = tiny_images(classes=2, per_class=4)

    def make(where: str = "none", at: int = 0, **train: Any) -> Any:
        model = {"backbone": "fragile", "args": {"where": where, "at": at}}
        return small_recipe(data, tmp_path / "runs", model=model, train=train)

    return make


def clips(recipe: Any) -> set[str]:
    return set(pd.read_csv(recipe.data.train[0])["filePath"])


def named(text: str, recipe: Any) -> set[str]:
    return {clip for clip in clips(recipe) if clip in text}


# --- without --detect-anomaly ----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_clips_values_and_what_to_try(fragile: Callable) -> None:
    recipe = fragile("forward", at=3)
    with pytest.raises(EcstflError, match=r"the loss is nan \(cross_entropy nan\) at step 2 of epoch 2") as caught:
        train(recipe)
    assert len(named(caught.value.message, recipe)) == 4, "the clips of this batch, and no others"
    for part in ("--lr", "--precision fp32", "gamma", "warmup", "clip_norm", "--detect-anomaly", "--resume"):
        assert part in caught.value.hint


def test_every_clip_of_a_large_batch_is_named(tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=3, per_class=12)
    # Weights that overflow in the first update: the second batch has no finite loss.
    recipe = small_recipe(data, tmp_path, optimizer={"name": "sgd", "lr": 1e30}, train={"batch_size": 30, "epochs": 4})
    with pytest.raises(EcstflError, match=r"(the loss is|infinite or not a number)") as caught:
        train(recipe)
    assert len(named(caught.value.message, recipe)) == 30


def test_the_run_folder_keeps_the_last_state_that_was_good(fragile: Callable) -> None:
    recipe = fragile("forward", at=3)
    with pytest.raises(EcstflError):
        train(recipe)
    (folder,) = Path(recipe.output, "small").iterdir()
    assert [path.name for path in states(folder / "state")] == ["epoch_00001_step_0000000.pt"]
    resumed = train(fragile(), resume=folder)
    assert resumed.metrics["epochs"] == 2


@pytest.mark.parametrize(("at", "kept"), [(0, []), (1, ["epoch_00000_step_0000001.pt"])])
def test_no_state_is_saved_after_an_update_that_spoils_the_weights(fragile: Callable, at: int, kept: list[str]) -> None:
    recipe = fragile("backward", at=at, save_every=1)
    with pytest.raises(EcstflError, match=f"weights infinite or not a number at step {at + 1} of epoch 1") as caught:
        train(recipe)
    assert len(named(caught.value.message, recipe)) == 4
    (folder,) = Path(recipe.output, "small").iterdir()
    assert [path.name for path in states(folder / "state")] == kept
    assert not (folder / "last.safetensors").exists()


def test_with_clipping_a_gradient_that_is_not_finite_is_named_at_its_step(fragile: Callable) -> None:
    recipe = fragile("backward", at=2)
    clipped = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"clip_norm": 1.0})})
    with pytest.raises(EcstflError, match="the norm of the gradient is nan at step 1 of epoch 2"):
        train(clipped)


# --- with it ---------------------------------------------------------------------------------------------------------


def test_the_layer_whose_output_is_not_finite_is_named(fragile: Callable) -> None:
    recipe = fragile("forward", at=1, detect_anomaly=True)
    with pytest.raises(
        EcstflError, match=r"the output of layer network\.middle\.inner \(Log\) is not finite"
    ) as caught:
        train(recipe)
    message = caught.value.message
    assert "its input and its parameters are finite" in message
    assert "values, the first nan" in message
    assert "at step 2 of epoch 1" in message
    assert len(named(message, recipe)) == 4


def test_the_layer_whose_gradient_is_not_finite_is_named(fragile: Callable) -> None:
    with pytest.raises(EcstflError, match=r"the gradient .* is not finite") as caught:
        train(fragile("backward", at=2, detect_anomaly=True))
    # The gradient comes out of `middle.inner` broken, and the layer before it is the first that it arrives at.
    assert "that arrives at the output of layer network.first (Conv2d)" in caught.value.message
    assert "at step 1 of epoch 2" in caught.value.message


def test_a_weight_that_is_infinite_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    watch = LayerWatch(model)
    watch.place = "step 7 of epoch 3"
    model(torch.zeros(2, 4))
    with torch.no_grad():
        model[2].weight[1, 1] = torch.inf
    with pytest.raises(EcstflError, match=r"layer 2 \(Linear\)") as caught:
        model(torch.ones(2, 4))
    assert "not finite are weight" in caught.value.message
    assert "step 7 of epoch 3" in caught.value.message


def test_a_broken_input_is_told_from_a_broken_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    LayerWatch(model)
    with pytest.raises(EcstflError, match="not finite are its input"):
        model(torch.full((1, 4), torch.nan))


def test_the_gradient_of_a_parameter_counts_too() -> None:
    model = nn.Linear(2, 1, bias=False)
    LayerWatch(model)
    with pytest.raises(EcstflError, match=r"of parameter weight|arrives at the output"):
        (model(torch.ones(1, 2)) * torch.inf).sum().backward()


def test_validation_is_watched_and_named_as_such(fragile: Callable) -> None:
    recipe = fragile("validation", detect_anomaly=True)
    data = recipe.data.model_copy(update={"test": recipe.data.train})
    with pytest.raises(EcstflError, match=r"layer network\.middle\.inner \(Log\) .*, at validation \(val\)"):
        train(recipe.model_copy(update={"data": data}))


def test_a_sound_run_is_the_same_with_it(fragile: Callable) -> None:
    plain, watched = train(fragile()), train(fragile(detect_anomaly=True))
    assert same_weights(plain.folder, watched.folder)
