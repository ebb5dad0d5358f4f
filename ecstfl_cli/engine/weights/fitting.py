"""Weights into networks: all of a checkpoint's, or those that a network to be trained has a place for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.weights.checkpoint import Checkpoint
from ecstfl_cli.errors import CheckpointError, listing
from ecstfl_cli.labels import LabelMap, side_by_side

# Where components.backbones.temporal.TemporalModel keeps the image network that sees its frames.
_FRAME_BACKBONE = "backbone.net."


def build_network(checkpoint: Checkpoint) -> Any:
    """The checkpoint's network with its weights, in evaluation mode.

    Raises CheckpointError that lists the keys which are missing, unexpected or of another shape.
    """
    network = build_model(checkpoint.model, checkpoint.input.modality)
    problems = differences(network.state_dict(), checkpoint.state)
    if problems:
        raise _unfit(checkpoint, f"a new {checkpoint.model.backbone}", problems)
    _load(network, checkpoint.state)
    return network.eval()


def initialise(network: nn.Module, checkpoint: Checkpoint, *, labels: LabelMap, replace_head: bool) -> list[str]:
    """Put a checkpoint's weights into a network that is to be trained, and say in words what was done.

    The classifier is taken over where its classes are those of `labels`, its outputs reordered by name. One with other
    classes is left out, and the network keeps its fresh one, only if `replace_head` says so. An image checkpoint may
    start the frame backbone of a network with a temporal head. Raises CheckpointError where the weights do not fit.
    """
    same = bare(lambda: build_model(checkpoint.model, checkpoint.input.modality))
    head = head_dimensions(same, checkpoint.model.num_classes)
    trunk = {key: tensor for key, tensor in checkpoint.state.items() if key not in head}
    own = network.state_dict()
    frame_trunk = {_FRAME_BACKBONE + key: tensor for key, tensor in trunk.items()}
    if frame_trunk.keys() <= own.keys():
        problems = differences({key: own[key] for key in frame_trunk}, frame_trunk)
        if problems:
            raise _unfit(checkpoint, "the network's frame backbone", problems)
        _load(network, frame_trunk)
        return [f"frame backbone from {checkpoint.source}; temporal head and classifier start fresh"]
    problems = differences({key: tensor for key, tensor in own.items() if key not in head}, trunk)
    if problems:
        raise _unfit(checkpoint, "the network", problems)
    weights, note = _head_weights(checkpoint, head, labels, replace_head)
    _load(network, {**trunk, **weights})
    return [f"weights from {checkpoint.source}", *note]


def _head_weights(
    checkpoint: Checkpoint, head: Mapping[str, int], labels: LabelMap, replace_head: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The checkpoint's classifier in the order of `labels`, or nothing where it is to be replaced; and notes."""
    theirs = checkpoint.labels
    if set(theirs.names) == set(labels.names):
        order = torch.tensor([theirs.names.index(name) for name in labels.names])
        weights = {key: checkpoint.state[key].index_select(dim, order) for key, dim in head.items()}
        if theirs.names == labels.names:
            return weights, []
        return weights, [f"classifier reordered by class name, from {theirs.describe()} to {labels.describe()}"]
    if replace_head:
        return {}, [f"classifier of {len(theirs)} classes replaced by a fresh one of {len(labels)}"]
    raise CheckpointError(
        f"the classifier of {checkpoint.source} has other classes than the recipe:\n{side_by_side(theirs, labels)}",
        "To train a fresh classifier on these weights set `model.replace_head: true`.",
    )


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a network that has all their keys; its other weights stay."""
    # Starting from its own state dict keeps the layers' version numbers, without which some refuse to load.
    state = network.state_dict()
    state.update(weights)
    network.load_state_dict(state)


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being loaded as `expected`: a line for each missing, unexpected or misshapen tensor."""
    # Files from before PyTorch 0.4.1 lack the batch counters, which may as well start at 0.
    missing = [k for k in expected if k not in given and not k.endswith(".num_batches_tracked")]
    return [
        *(f"missing: {key} {tuple(expected[key].shape)}" for key in missing),
        *(f"unexpected: {key} {tuple(given[key].shape)}" for key in given if key not in expected),
        *(
            f"another shape: {key} is {tuple(given[key].shape)}, the network's is {tuple(expected[key].shape)}"
            for key in given
            if key in expected and given[key].shape != expected[key].shape
        ),
    ]


def _unfit(checkpoint: Checkpoint, network: str, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"the weights of {checkpoint.source} ({checkpoint.model.backbone}) do not fit {network}:\n{listing(problems)}",
        "Backbone, its arguments and the temporal head must be those that the weights were trained with.",
    )


class without_weights(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Inside, layers are made without memory for their weights: building any network takes milliseconds.

    Unlike `torch.device("meta")` it leaves all other tensors alone, from which some networks compute their widths.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({**kwargs, "device": "meta"} if func is torch.empty else kwargs))


def bare(build: Callable[[], Any]) -> Any:
    """What `build` returns, a network for its names and shapes only."""
    try:
        with without_weights():
            return build()
    except RuntimeError:
        # A network that computes with its fresh weights needs them.
        return build()


def head_dimensions(network: Any, num_classes: int) -> dict[str, int]:
    """The parameters that depend on K = `num_classes`, each with the dimension that counts them.

    The network, a bare one, is left with another classifier.
    """
    before = {key: tensor.shape for key, tensor in network.state_dict().items()}
    network.reset_classifier(num_classes + 1)
    after = network.state_dict()
    return {
        key: next(dim for dim, (a, b) in enumerate(zip(shape, after[key].shape, strict=True)) if a != b)
        for key, shape in before.items()
        if after[key].shape != shape
    }
