"""One contract for every registered backbone: shapes, classifier reset, features that explain the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ecstfl_cli import registry
from ecstfl_cli.api import Modality, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.components.backbones.torchvision_family import build as torchvision_backbone
from ecstfl_cli.errors import RegistryError

# One member of each architecture of the open-ended families, at the smallest input it takes.
FAMILY_MEMBERS: dict[str, list[tuple[str, int, dict[str, Any]]]] = {
    "torchvision/": [
        ("resnet18", 32, {}),
        ("mobilenet_v3_small", 32, {}),
        ("efficientnet_b0", 32, {}),
        ("densenet121", 32, {}),
        ("convnext_tiny", 32, {}),
        ("shufflenet_v2_x0_5", 32, {}),
        ("mnasnet0_5", 32, {}),
        ("regnet_y_400mf", 32, {}),
        ("googlenet", 64, {}),
        ("inception_v3", 96, {}),
        ("alexnet", 64, {}),
        ("vgg11", 32, {}),
        ("vit_b_32", 64, {"image_size": 64}),
        ("swin_t", 32, {}),
        ("r3d_18", 32, {}),
        ("mc3_18", 32, {}),
        ("r2plus1d_18", 32, {}),
        ("s3d", 224, {}),
        ("swin3d_t", 32, {}),
    ],
    "timm/": [
        ("resnet10t", 32, {}),
        ("convnext_atto", 32, {}),
        ("mobilenetv4_conv_small", 64, {}),
        ("vit_tiny_patch16_224", 64, {"img_size": 64}),
        ("efficientnet_lite0", 32, {}),
        ("mobilenetv3_small_050", 32, {}),
    ],
}

MEMBER = {"model": {"backbone": "grid_cnn", "num_classes": 7}, "mean": [0.5] * 3, "std": [0.2] * 3}
ARGUMENTS = {"ensemble": {"members": [{**MEMBER, "size": 24}, {**MEMBER, "size": 32}]}}


def cases() -> list[Any]:
    found = []
    for name in registry.index("backbones"):
        if name.endswith("/"):
            found += [pytest.param(f"{name}{m}", size, args, id=f"{name}{m}") for m, size, args in FAMILY_MEMBERS[name]]
        else:
            found.append(pytest.param(name, 32, ARGUMENTS.get(name, {}), id=name))
    return found


@pytest.mark.parametrize(("name", "size", "args"), cases())
def test_every_backbone_keeps_the_contract(name: str, size: int, args: dict[str, Any]) -> None:
    modality: Modality = registry.load("backbones", name)(7, **args).modality
    network = build_model(ModelSpec(name, 7, args), modality).eval()
    shape = (2, 3, size, size) if modality == "img" else (2, 3, 16, size, size)
    x = torch.rand(shape)
    with torch.inference_mode():
        features = network.forward_features(x)
        assert features.shape == (2, network.num_features)
        logits = network.forward_head(features)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(network(x), logits)
        network.reset_classifier(4)
        assert network.forward_head(features).shape == (2, 4)
        assert network(x[:1]).shape == (1, 4)


@pytest.mark.parametrize(
    "name", ["resnet18", "r3d_18", "s3d", "densenet121", "efficientnet_b0", "vit_b_32", "swin3d_t"]
)
def test_torchvisions_own_weights_give_torchvisions_own_logits(name: str) -> None:
    import torchvision

    args = {"image_size": 32} if name == "vit_b_32" else {}
    original = torchvision.models.get_model(name, num_classes=5, **args).eval()
    ours = torchvision_backbone(name, 5, **args).eval()
    ours.load_state_dict(ours.adapt_state_dict(original.state_dict()))
    size = 224 if name == "s3d" else 32
    x = torch.rand((2, 3, size, size) if ours.modality == "img" else (2, 3, 16, size, size))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), original(x), atol=1e-5, rtol=1e-4)


def test_timms_own_weights_give_timms_own_logits() -> None:
    import timm

    original = timm.create_model("resnet10t", num_classes=5).eval()
    ours = build_model(ModelSpec("timm/resnet10t", 5), "img").eval()
    ours.load_state_dict(ours.adapt_state_dict(original.state_dict()))
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), original(x))


@pytest.mark.parametrize(
    ("head", "args"),
    [
        ("mean", {}),
        ("lstm", {"hidden": 16}),
        ("gru", {"hidden": 16, "bidirectional": False}),
        ("transformer", {"width": 32}),
    ],
)
@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "timm/resnet10t"])
def test_an_image_backbone_serves_clips_through_a_temporal_head(backbone: str, head: str, args: dict[str, Any]) -> None:
    spec = ModelSpec(backbone, 7, temporal_head=head, temporal_args=args)
    network = build_model(spec, "video").eval()
    for frames in (1, 5):
        x = torch.rand(2, 3, frames, 32, 32)
        with torch.inference_mode():
            features = network.forward_features(x)
            assert features.shape == (2, network.num_features)
            torch.testing.assert_close(network(x), network.forward_head(features))
    network.reset_classifier(3)
    assert network(x).shape == (2, 3)


def test_the_order_of_frames_matters_to_every_head_but_the_mean() -> None:
    x = torch.rand(1, 3, 6, 32, 32)
    for head in ("mean", "lstm", "gru", "transformer"):
        network = build_model(ModelSpec("timm/resnet10t", 7, temporal_head=head), "video").eval()
        with torch.inference_mode():
            same = torch.allclose(network(x), network(x.flip(2)), atol=1e-5)
        assert same == (head == "mean")


def test_what_does_not_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(RegistryError, match="takes stills, the input is clips") as caught:
        build_model(ModelSpec("torchvision/resnet18", 7), "video")
    assert "temporal_head" in caught.value.hint
    with pytest.raises(RegistryError, match="takes clips, the input is stills"):
        build_model(ModelSpec("torchvision/r3d_18", 7), "img")
    with pytest.raises(RegistryError, match="sees whole clips"):
        build_model(ModelSpec("torchvision/r3d_18", 7, temporal_head="gru"), "video")
    with pytest.raises(RegistryError, match="does not take its arguments"):
        build_model(ModelSpec("torchvision/resnet18", 7, {"colour": 3}), "img")
    with pytest.raises(RegistryError, match="does not take its arguments"):
        build_model(ModelSpec("timm/resnet10t", 7, temporal_head="gru", temporal_args={"depth": 3}), "video")


def test_a_backbone_of_another_modality_is_refused(fake_distribution) -> None:
    source = "class Odd:\n    modality = 'image'\n    num_features = 1\n    forward_features = forward_head = None\n"
    source += "    reset_classifier = None\n    def __init__(self, k): pass\n"
    fake_distribution("odd", {"backbones": {"odd": "odd_mod:Odd"}}, {"odd_mod.py": source})
    with pytest.raises(RegistryError, match="has the modality 'image'") as caught:
        build_model(ModelSpec("odd", 7), "img")
    assert "img, video" in caught.value.hint


def test_an_unknown_member_suggests_near_ones() -> None:
    with pytest.raises(RegistryError, match="not a torchvision classifier") as caught:
        build_model(ModelSpec("torchvision/r3d18", 7), "video")
    assert "r3d_18" in caught.value.hint
    with pytest.raises(RegistryError, match="no linear classifier"):
        build_model(ModelSpec("torchvision/squeezenet1_0", 7), "img")
    with pytest.raises(RegistryError, match="not a timm model") as caught:
        build_model(ModelSpec("timm/convnext_tinny", 7), "img")
    assert "convnext_tiny" in caught.value.hint
