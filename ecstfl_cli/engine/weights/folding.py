"""Batch norm folded into the convolutions before it: the same network with fewer passes over its feature maps."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Logits may differ by so much of the largest of them, and of 1.
_TOLERANCE = 1e-4
Network = TypeVar("Network", bound=nn.Module)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def folded(model: Network, frames: Tensor) -> Network:
    """A copy of `model` in which each batch norm that follows a convolution is part of it (Jacob et al. 2018, 3.2).

    `model` is in evaluation mode and returns logits (B, K) first; which norm follows which convolution is seen when it
    looks at `frames`. It is returned itself where there is nothing to fold, or the copy says something else of them.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return model
    with torch.no_grad():
        pairs, logits = _pairs(model, frames)
        if not pairs:
            return model
        copied = copy.deepcopy(model)
        for convolution, norm in pairs:
            modules: Any = copied.get_submodule(convolution), copied.get_submodule(norm)
            _replace(copied, convolution, fuse_conv_bn_eval(*modules))
            _replace(copied, norm, _what_is_left(modules[1]))
        difference = (copied(frames)[0] - logits).abs().max()
        close = difference <= _TOLERANCE * max(1.0, logits.abs().max().item())  # False where either is no number.
    return copied if close else model


def _pairs(model: nn.Module, frames: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of the convolutions whose output goes to one batch norm, and of that; and the logits of the frames.

    Only modules are seen. What a function does with the output of a convolution shows in the logits of the copy.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    users: dict[str, list[str]] = {}
    calls: Counter[str] = Counter()
    norms: set[str] = set()
    hooks = []

    def seen(name: str, module: nn.Module) -> None:
        def ran(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            for value in inputs:
                if id(value) in made:
                    users.setdefault(made[id(value)][0], []).append(name)
            if isinstance(module, _CONVOLUTIONS):
                made[id(output)] = name, output  # Kept, so that no other tensor gets its id.

        hooks.append(module.register_forward_hook(ran))

    for name, module in model.named_modules():
        if not list(module.children()) or isinstance(module, _BatchNorm):
            seen(name, module)
        if isinstance(module, _BatchNorm) and module.running_mean is not None and _what_is_left(module) is not None:
            norms.add(name)
    try:
        logits = model(frames)[0]
    finally:
        for hook in hooks:
            hook.remove()
    found = [
        (convolution, after[0])
        for convolution, after in users.items()
        if len(after) == 1 and after[0] in norms and calls[convolution] == calls[after[0]] == 1
    ]
    return found, logits


def _what_is_left(norm: Any) -> nn.Module | None:
    """What a batch norm does beside normalising; None where that is not known."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.Identity()
    if type(norm).__name__ == "BatchNormAct2d":  # timm's, with the activation after it
        return nn.Sequential(norm.drop, norm.act)
    return None


def _replace(model: nn.Module, name: str, module: nn.Module | None) -> None:
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, module)
