"""Batch norm folded into convolutions: the same logits, and the network as it is where that cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecstfl_cli.api import InputSpec, Modality, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.engine.weights.folding import folded
from ecstfl_cli.engine.weights.model_source import open_model
from tests.small_model import save_small_model


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def uneven(model: nn.Module) -> nn.Module:
    """In evaluation mode, its norms with statistics and weights that are not those they start with."""
    torch.manual_seed(0)
    for norm in norms(model):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model.eval()


class Small(nn.Module):
    """Convolution, norm and classifier; a subclass says how they hang together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 4)
        uneven(self)

    def maps(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.head(self.maps(x).relu().mean(dim=(2, 3))), None


class ConvolutionUsedTwice(Small):
    def maps(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class NormCalledTwice(Small):
    def maps(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)))


class Standardised(nn.Conv2d):
    """Its weights are standardised before they are used, so that a scale in them is lost."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        weight = (weight - weight.mean((1, 2, 3), True)) / weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


@pytest.mark.parametrize(
    ("backbone", "modality", "head"),
    [
        ("timm/mobilenetv1_100", "img", None),  # with timm's norms, which hold the activation
        ("compact_resnet", "img", None),
        ("motion_grid_cnn", "video", None),
        ("timm/test_resnet", "video", "mean"),
    ],
)
def test_every_norm_is_folded_and_the_logits_stay(backbone: str, modality: Modality, head: str | None) -> None:
    spec = InputSpec(modality, 32)
    network = build_model(ModelSpec(backbone, 7, temporal_head=head), modality)
    model = uneven(FrameModel(network, spec))
    frames = torch.randint(256, (2, *spec.shape), dtype=torch.uint8)
    found = folded(model, frames[:1])
    assert norms(model)
    assert not norms(found)
    with torch.inference_mode():
        torch.testing.assert_close(found(frames)[0], model(frames)[0], rtol=1e-4, atol=1e-5)


def test_a_plain_pair_is_folded() -> None:
    assert not norms(folded(Small(), torch.rand(1, 3, 8, 8)))


@pytest.mark.parametrize("made", [ConvolutionUsedTwice, NormCalledTwice])
def test_a_norm_that_is_not_all_that_follows_its_convolution_stays(made: type[Small]) -> None:
    model = made()
    assert folded(model, torch.rand(1, 3, 8, 8)) is model


def test_a_network_that_would_say_something_else_stays() -> None:
    model = Small()
    model.conv = Standardised(3, 6, 3, padding=1).eval()
    assert folded(model, torch.rand(1, 3, 8, 8)) is model


def test_norms_by_the_batch_or_without_a_convolution_stay_beside_folded_ones() -> None:
    model = Small()
    model.head = nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.BatchNorm1d(6), nn.Linear(6, 4))
    uneven(model.head[1])
    model.eval()
    found = folded(model, torch.rand(2, 3, 8, 8))
    assert [type(norm) for norm in norms(found)] == [nn.BatchNorm1d] * 2


def test_a_network_without_norms_is_not_even_run() -> None:
    class Never(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise AssertionError

    model = Never()
    assert folded(model, torch.rand(1)) is model


def test_opened_models_say_what_their_networks_say(tmp_path: Path) -> None:
    path = save_small_model(tmp_path / "m.safetensors", "img")
    checkpoint = load_native(path)
    frames = torch.randint(256, (3, *checkpoint.input.shape), dtype=torch.uint8)
    with torch.inference_mode():
        expected = FrameModel(build_network(checkpoint), checkpoint.input).eval()(frames)[0]
        found = open_model(path, device="cpu", reporter=Reporter()).logits(frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
