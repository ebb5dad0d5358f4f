"""An exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ecstfl_cli.engine.training.parallel import full, like, local


class MovingAverage:
    """Weights and buffers averaged with `decay`, which starts low: min(decay, (1 + n) / (10 + n)) at update n.

    Counters such as a batch norm's are copied. Sharded weights are averaged shard by shard.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._values = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = [(local(self._values[name]), local(tensor)) for name, tensor in network.state_dict().items()]
        averaged = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in averaged], [value for _, value in averaged], 1 - decay)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def buffers(self, network: nn.Module) -> list[Tensor]:
        """Those of the averaged tensors that are the network's buffers."""
        return [self._values[name] for name, _ in network.named_buffers() if name in self._values]

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside the block, and its own again after it."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        _copy(self._values, network)
        try:
            yield
        finally:
            _copy(own, network)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors; where weights are sharded, every process must call it."""
        return {"updates": self.updates, "values": full(self._values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises KeyError or RuntimeError where the weights are another network's."""
        self.updates = state["updates"]
        for name, value in self._values.items():
            local(value).copy_(local(like(state["values"][name], value)))


@torch.no_grad()
def _copy(values: dict[str, Tensor], network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        local(tensor).copy_(local(values[name]))
