"""The plugin's own tests: its components keep the contracts of ecstfl_cli.api."""

from __future__ import annotations

import math

import pytest
import torch
from ecstfl_example import SlimC3D, SupCon, megc

from ecstfl_cli.api import Batch, EcstflError, LossContext


def supcon(features: torch.Tensor, target: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    loss = SupCon(LossContext(3, features.shape[1]), temperature=temperature)
    frames = torch.zeros(len(target), 1, 2, 2, 3, dtype=torch.uint8)
    return loss(torch.zeros(len(target), 3), features, target, Batch(frames, target, [""] * len(target)))


def test_backbone_goes_from_clips_to_features_to_logits() -> None:
    backbone = SlimC3D(7, width=4).eval()
    x = torch.rand(2, 3, 8, 32, 32)
    features = backbone.forward_features(x)
    assert features.shape == (2, backbone.num_features) == (2, 16)
    assert torch.equal(backbone(x), backbone.forward_head(features))
    backbone.reset_classifier(3)
    assert backbone(x).shape == (2, 3)


def test_a_senseless_width_is_refused() -> None:
    with pytest.raises(EcstflError, match="no width 0"):
        SlimC3D(7, width=0)


def test_supcon_is_equation_2() -> None:
    features, target, temperature = torch.randn(6, 5), torch.tensor([0, 0, 1, 1, 1, 2]), 0.5
    z = features / features.norm(dim=1, keepdim=True)
    terms = []
    for i in range(6):
        positives = [p for p in range(6) if p != i and target[p] == target[i]]
        denominator = sum(math.exp(z[i] @ z[a] / temperature) for a in range(6) if a != i)
        if positives:
            logs = [math.log(math.exp(z[i] @ z[p] / temperature) / denominator) for p in positives]
            terms.append(-sum(logs) / len(positives))
    assert supcon(features, target, temperature).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("target", [[0], [0, 1, 2], [1, 1, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_supcon_is_finite_for_any_batch(target: list[int], dtype: torch.dtype) -> None:
    features = torch.ones(len(target), 4, dtype=dtype, requires_grad=True)
    loss = supcon(features, torch.tensor(target))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_emotions_fall_into_three_classes() -> None:
    assert [megc.parse(name) for name in ("Anger", "sadness", "joy", "surprised", "negative")] == [0, 0, 1, 2, 0]
    with pytest.raises(EcstflError):
        megc.parse("neutral")
