"""The moving average of the weights against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecstfl_cli.engine.training.averaging import MovingAverage


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def train(net: nn.Module, steps: int, average: MovingAverage | None = None, first: int = 0) -> list[dict]:
    """Steps of SGD on noise; returns the weights after each."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = []
    for step in range(first, first + steps):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if average is not None:
            average.update(net)
        seen.append({name: tensor.detach().clone() for name, tensor in net.state_dict().items()})
    return seen


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_it_is_the_plain_recursion_with_a_decay_that_starts_low(decay: float) -> None:
    net = network()
    expected = {name: tensor.detach().clone().double() for name, tensor in net.state_dict().items()}
    average = MovingAverage(net, decay)
    for n, weights in enumerate(train(net, 12, average), start=1):
        d = min(decay, (1 + n) / (10 + n))
        expected = {name: d * mean + (1 - d) * weights[name] for name, mean in expected.items()}
    found = average.state_dict()["values"]
    assert found["1.running_mean"].abs().sum() > 0
    for name, tensor in found.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert int(found["1.num_batches_tracked"]) == 12, "counters are copied, not averaged"


def test_inside_the_block_the_network_has_the_average_and_after_it_its_own_weights() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    (*_, own) = train(net, 5, average)
    mean = average.state_dict()["values"]
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    with average.applied(net):
        assert all(torch.equal(tensor, mean[name]) for name, tensor in net.state_dict().items())
        assert not torch.equal(net[0].weight, own["0.weight"])
    assert all(torch.equal(tensor, own[name]) for name, tensor in net.state_dict().items())
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers, "the optimiser's tensors stay in place"


def test_an_error_inside_the_block_restores_the_weights_too() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    (*_, own) = train(net, 3, average)
    with pytest.raises(RuntimeError), average.applied(net):
        raise RuntimeError
    assert torch.equal(net[0].weight, own["0.weight"])


def test_a_continued_average_is_that_of_an_uninterrupted_run() -> None:
    whole, halves = network(), network()
    uninterrupted = MovingAverage(whole, 0.9)
    train(whole, 8, uninterrupted)
    first = MovingAverage(halves, 0.9)
    train(halves, 3, first)
    # What is saved must not go on changing.
    state = {"updates": first.state_dict()["updates"], "values": {k: v.clone() for k, v in first._values.items()}}
    second = MovingAverage(network(), 0.9)
    second.load_state_dict(state)
    train(halves, 5, second, first=3)
    assert uninterrupted.updates == second.updates == 8
    for name, tensor in uninterrupted.state_dict()["values"].items():
        assert torch.equal(tensor, second.state_dict()["values"][name]), name


def test_an_average_of_another_network_is_refused() -> None:
    average = MovingAverage(network(), 0.9)
    with pytest.raises(RuntimeError):
        MovingAverage(nn.Sequential(nn.Conv2d(3, 5, 3)), 0.9).load_state_dict(average.state_dict())
