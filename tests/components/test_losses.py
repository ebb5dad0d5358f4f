"""The losses against their formulas, written out as loops; their gradients; their edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli import registry
from ecstfl_cli.api import Batch, LossContext
from ecstfl_cli.components.losses import ec_stfl
from ecstfl_cli.errors import RecipeError

CONTEXT = LossContext(num_classes=4, num_features=6, class_counts=(8, 4, 2, 2))


def build(name: str, **args: Any) -> Any:
    return registry.load("losses", name)(CONTEXT, **args)


def value(name: str, features: Tensor, target: Tensor, **args: Any) -> Tensor:
    batch = Batch(torch.empty(0), target, [])
    return build(name, **args)(torch.zeros(len(target), 4, dtype=features.dtype), features, target, batch)


def ec_stfl_by_loops(x: Tensor, y: Tensor) -> float:
    n, total = len(y), 0.0
    for i in range(n):
        same = [j for j in range(n) if y[j] == y[i]]
        other = [j for j in range(n) if y[j] != y[i]]
        distance = {j: float((x[i] - x[j]).abs().sum()) for j in range(n)}
        attraction = sum(distance[j] for j in same) / (len(same) + 1e-6)
        repulsion = sum(1 / (distance[j] + 1e-6) for j in other) / (len(other) + 1 + 1e-6)
        total += attraction * repulsion / n
    return total / n


def paper_by_loops(x: Tensor, y: Tensor, p: float) -> float:
    n = len(y)
    count = [int((y == y[i]).sum()) for i in range(n)]
    pairs = [(i, j, float(torch.linalg.vector_norm(x[i] - x[j], p))) for i in range(n) for j in range(n)]
    within = sum(d / count[i] for i, j, d in pairs if y[i] == y[j])
    between = sum(d / count[j] for i, j, d in pairs if y[i] != y[j])
    return within / between


@pytest.mark.parametrize("target", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 0, 0], [0, 0, 0, 0, 0, 1]])
def test_ec_stfl_is_the_formula_of_the_release(target: list[int]) -> None:
    x, y = torch.randn(6, 6, dtype=torch.float64), torch.tensor(target)
    assert float(value("ec_stfl", x, y)) == pytest.approx(ec_stfl_by_loops(x, y), rel=1e-9)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_ec_stfl_paper_is_equation_nine(p: float) -> None:
    x, y = torch.randn(7, 6, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1, 2, 3])
    assert float(value("ec_stfl_paper", x, y, p=p)) == pytest.approx(paper_by_loops(x, y, p), rel=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_without_cdist_distances_and_gradients_are_the_same(p: float) -> None:
    """As on Apple's GPUs; two rows are equal, as the diagonal is."""
    found = []
    for distances in (ec_stfl._distances, ec_stfl._distances_by_differences):
        x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x[1] = x[0]
        x.requires_grad_()
        distance = distances(x, p)
        distance.square().sum().backward()
        found += [(distance.detach(), x.grad)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["ec_stfl", "ec_stfl_paper"])
def test_gradients_are_right_in_double_precision(name: str) -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda features: value(name, features, y), (x,))


@pytest.mark.parametrize("name", ["ec_stfl", "ec_stfl_paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("features", "target", "zero"),
    [
        pytest.param(torch.randn(1, 6), [1], True, id="batch of one"),
        pytest.param(torch.randn(4, 6), [2, 2, 2, 2], True, id="one class"),
        pytest.param(torch.ones(4, 6), [0, 1, 2, 3], True, id="identical features"),
        pytest.param(torch.ones(4, 6), [0, 0, 0, 0], True, id="identical features of one class"),
        pytest.param(1000 * torch.randn(4, 6), [0, 0, 1, 1], False, id="large features"),
        pytest.param(torch.tensor([[0.0] * 6, [0.01] * 6, [1.0] * 6]), [0, 1, 0], False, id="near neighbours"),
    ],
)
def test_value_and_gradient_stay_finite(
    name: str, dtype: torch.dtype, features: Tensor, target: list[int], zero: bool
) -> None:
    x = features.detach().to(dtype, copy=True).requires_grad_()
    loss = value(name, x, torch.tensor(target))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (loss.item() == 0) == zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ec_stfl_survives_other_classes_at_almost_the_same_place(dtype: torch.dtype) -> None:
    """In fp16 this gradient is beyond the type's range; there the loss scaler skips the step."""
    x = torch.tensor([[0.0] * 6, [1e-7] * 6, [1.0] * 6]).to(dtype).requires_grad_()
    value("ec_stfl", x, torch.tensor([0, 1, 0])).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ec_stfl", "ec_stfl_paper"])
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(name, x, y)
    assert inside.dtype == torch.float32
    assert float(inside) == pytest.approx(float(value(name, x, y)), rel=1e-6)


def test_ec_stfl_falls_as_classes_gather_and_part() -> None:
    y = torch.tensor([0, 0, 1, 1])
    mixed = torch.tensor([[0.0, 0], [4, 4], [0, 1], [4, 3]])
    clustered = torch.tensor([[0.0, 0], [0, 1], [4, 4], [4, 3]])
    for name in ("ec_stfl", "ec_stfl_paper"):
        assert value(name, clustered, y) < value(name, mixed, y)


def test_cross_entropy_weights_and_smoothing() -> None:
    logits, target = torch.randn(8, 4), torch.arange(8) % 4
    batch = Batch(torch.empty(0), target, [])
    plain = build("cross_entropy")(logits, logits, target, batch)
    torch.testing.assert_close(plain, F.cross_entropy(logits, target))
    balanced = build("cross_entropy", class_weights="balanced")(logits, logits, target, batch)
    torch.testing.assert_close(balanced, F.cross_entropy(logits, target, torch.tensor([0.5, 1.0, 2.0, 2.0])))
    smooth = build("cross_entropy", label_smoothing=0.2)(logits, logits, target, batch)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, target, label_smoothing=0.2))


def test_class_weights_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(RecipeError, match="class_weights") as caught:
        build("cross_entropy", class_weights=[1.0, 2.0])
    assert "4 numbers" in caught.value.hint
