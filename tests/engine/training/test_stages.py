"""Stages from input to head: their order, what freezing leaves alone, and how fast each learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ecstfl_cli.api import Modality, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.training.stages import freeze, hold_frozen_norms, learning_rate_scales, stages
from ecstfl_cli.errors import RecipeError

RESNET = ["layer1", "layer2", "layer3", "layer4"]


def network(backbone: str, modality: Modality = "img", head: str | None = None, **args: Any) -> nn.Module:
    return build_model(ModelSpec(backbone, 3, args, head), modality)


def starts(groups: list[list[str]]) -> list[str]:
    return [group[0] for group in groups]


@pytest.mark.parametrize(
    ("backbone", "modality", "head", "trunk"),
    [
        ("torchvision/r3d_18", "video", None, ["net.stem", *(f"net.{name}" for name in RESNET)]),
        ("torchvision/mc3_18", "video", None, ["net.stem", *(f"net.{name}" for name in RESNET)]),
        ("torchvision/resnet18", "img", None, ["net.conv1", *(f"net.{name}" for name in RESNET)]),
        (
            "torchvision/regnet_x_400mf",
            "img",
            None,
            ["net.stem", *(f"net.trunk_output.block{i}" for i in (1, 2, 3, 4))],
        ),
        ("torchvision/convnext_tiny", "img", None, [f"net.features.{i}" for i in range(8)]),
        ("torchvision/alexnet", "img", None, [*(f"net.features.{i}" for i in (0, 3, 6, 8, 10)), "net.classifier"]),
        ("timm/resnet10t", "img", None, ["net.conv1", *(f"net.{name}" for name in RESNET)]),
        ("timm/vit_tiny_patch16_224", "img", None, ["net.cls_token", *(f"net.blocks.{i}" for i in range(12))]),
        ("timm/convnext_atto", "img", None, ["net.stem", *(f"net.stages.{i}" for i in range(4))]),
        ("grid_cnn", "img", None, [f"net.{i}" for i in range(4)]),
        ("motion_grid_cnn", "video", None, [f"net.{i}" for i in range(4)]),
        ("timm/resnet10t", "video", "gru", [*(f"backbone.net.net.{n}" for n in ("conv1", *RESNET)), "temporal"]),
        ("grid_cnn", "video", "mean", [f"backbone.net.net.{i}" for i in range(4)]),
        ("torchvision/resnet18", "video", "gru", [*(f"backbone.net.net.{n}" for n in ("conv1", *RESNET)), "temporal"]),
    ],
)
def test_stages_go_from_the_input_to_the_head_and_have_every_parameter_once(
    backbone: str, modality: Modality, head: str | None, trunk: list[str]
) -> None:
    net = network(backbone, modality, head)
    groups = stages(net)
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in net.named_parameters())
    assert groups[-1] == ["head.weight", "head.bias"]
    assert len(groups) == len(trunk) + 1
    for group, prefix in zip(groups, trunk, strict=False):
        assert f"{group[0]}.".startswith(f"{prefix}.")


def test_norms_and_tokens_lie_with_the_layers_beside_them() -> None:
    resnet = stages(network("torchvision/resnet18"))
    assert resnet[0] == ["net.conv1.weight", "net.bn1.weight", "net.bn1.bias"]
    vit = stages(network("torchvision/vit_b_32", image_size=32))
    assert {"net.class_token", "net.conv_proj.weight", "net.encoder.pos_embedding"} <= set(vit[0])
    assert "net.encoder.ln.weight" in vit[-2]
    assert "net.head.norm.weight" in stages(network("timm/convnext_atto"))[-2]


def test_a_plugin_without_the_common_names_has_stages_too() -> None:
    groups = stages(nn.ModuleDict({"first": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "last": nn.Linear(4, 2)}))
    assert starts(groups) == ["first.weight", "last.weight"]


def train(net: nn.Module, *size: int, steps: int = 3) -> None:
    """As the engine does: training mode, frozen norms held, updates of what is trainable."""
    net.train()
    hold_frozen_norms(net)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(torch.rand(4, *size)), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("backbone", "head", "size", "frozen", "stay"),
    [
        ("grid_cnn", None, (3, 32, 32), 2, ("net.0.", "net.1.")),
        (
            "timm/resnet10t",
            None,
            (3, 32, 32),
            ["net.conv1", "net.bn1", "net.layer3"],
            ("net.conv1", "net.bn1", "net.layer3"),
        ),
        ("grid_cnn", "gru", (3, 4, 32, 32), ["backbone"], ("backbone.",)),
    ],
)
def test_what_is_frozen_keeps_its_weights_and_running_statistics(
    backbone: str, head: str | None, size: tuple[int, ...], frozen: Any, stay: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    net = network(backbone, "video" if head else "img", head)
    names = freeze(net, frozen)
    assert names == [name for name, _ in net.named_parameters() if name.startswith(stay)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(net, *size)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(stay)}


def test_norms_of_trained_stages_and_the_network_itself_are_in_training_mode() -> None:
    net = network("grid_cnn")
    freeze(net, ["net.0.0"])  # The convolution, not its norm.
    net.train()
    hold_frozen_norms(net)
    assert net.training
    assert all(module.training for module in net.modules())


def test_freezing_nothing_freezes_nothing() -> None:
    net = network("grid_cnn")
    assert freeze(net, 0) == freeze(net, []) == []
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("frozen", [5, 99, ["net", "head"]])
def test_freezing_everything_is_refused_and_changes_nothing(frozen: Any) -> None:
    net = network("grid_cnn")
    with pytest.raises(RecipeError, match=r"model.freeze: with .* frozen, nothing is left to train") as caught:
        freeze(net, frozen)
    assert "5 stages: net.0, net.1, net.2, net.3, head" in caught.value.hint
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_an_unknown_prefix_is_refused_with_near_matches_and_the_stages() -> None:
    net = network("timm/resnet10t")
    with pytest.raises(
        RecipeError, match=r"model.freeze: no parameter's name starts with 'net.layr1' or 'net.lay'"
    ) as e:
        freeze(net, ["net.layr1", "net.layer2", "net.lay"])
    assert "Did you mean 'net.layer1'" in e.value.hint
    assert "net.conv1, net.layer1, net.layer2, net.layer3, net.layer4, head" in e.value.hint
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_prefix_ends_at_a_dot() -> None:
    net = network("timm/vit_tiny_patch16_224")  # Has blocks 10 and 11, too.
    chosen = freeze(net, ["net.blocks.1"])
    assert chosen
    assert all(name.startswith("net.blocks.1.") for name in chosen)


def test_layer_decay_halves_the_rate_with_each_stage_from_the_head() -> None:
    scales = learning_rate_scales(network("grid_cnn"), 0.5, {})
    rates = [scales[f"net.{i}.0.weight"] for i in range(4)]
    assert [*rates, scales["head.weight"], scales["head.bias"]] == [0.0625, 0.125, 0.25, 0.5, 1, 1]
    assert scales["net.3.1.bias"] == 0.5


def test_the_longest_prefix_decides_and_multiplies_the_decay() -> None:
    scales = learning_rate_scales(network("grid_cnn"), 0.5, {"net.1": 3.0, "net": 0.1, "head.bias": 2.0})
    assert scales["net.0.0.weight"] == pytest.approx(0.1 * 0.0625)
    assert scales["net.1.0.weight"] == pytest.approx(3.0 * 0.125)
    assert (scales["head.weight"], scales["head.bias"]) == (1.0, 2.0)


def test_a_factor_for_no_parameter_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"optimizer.lr_factors: no parameter's name starts with 'hed'") as caught:
        learning_rate_scales(network("grid_cnn"), 1.0, {"hed": 10.0})
    assert "Did you mean 'head'" in caught.value.hint
