"""`--detect-anomaly`: which layer's output or gradient is the first that is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecstfl_cli.errors import EcstflError


class LayerWatch:
    """Looks at the output of every layer of a model, and at the `gradients` there. Slow: each look waits.

    `place` is what errors say of where the run is. Raises EcstflError in the forward or backward pass.
    """

    def __init__(self, model: nn.Module, gradients: bool = True) -> None:
        self.place, self.gradients = "", gradients
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                module.register_forward_hook(lambda m, inputs, output, name=name: self._look(name, m, inputs, output))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and gradients:
                parameter.register_hook(lambda gradient, name=name: self._gradient(gradient, f"of parameter {name}"))

    def _look(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        layer = f"layer {name} ({type(module).__name__})"
        for tensor in _tensors(output):
            if not _finite(tensor):
                wrong = [key for key, weight in module.named_parameters() if not _finite(weight)]
                wrong += ["its input"] if any(not _finite(t) for t in _tensors(inputs)) else []
                cause = f"; not finite are {', '.join(wrong)}" if wrong else "; its input and its parameters are finite"
                self._fail(f"the output of {layer} is not finite: {_example(tensor)}{cause}")
            if tensor.requires_grad and self.gradients:
                tensor.register_hook(
                    lambda gradient: self._gradient(gradient, f"that arrives at the output of {layer}")
                )

    def _gradient(self, gradient: Tensor, where: str) -> None:
        if not _finite(gradient):
            self._fail(f"the gradient {where} is not finite: {_example(gradient)}")

    def _fail(self, what: str) -> None:
        raise EcstflError(f"{what}, at {self.place}", "Try a lower --lr, --precision fp32 or optimizer.clip_norm.")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _example(tensor: Tensor) -> str:
    bad = tensor.detach()[~torch.isfinite(tensor)]
    return f"{bad.numel()} of {tensor.numel()} values, the first {float(bad.flatten()[0])}"
