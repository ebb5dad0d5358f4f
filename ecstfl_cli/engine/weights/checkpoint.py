"""Checkpoints: one `.safetensors` file with everything needed to use the weights, and fitting them to networks.

Foreign files are read in `foreign_checkpoint`, names are looked up in `catalogue`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecstfl_cli.api import InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.catalogue import FOLDER, locate
from ecstfl_cli.errors import CheckpointError, listing
from ecstfl_cli.labels import LabelMap, side_by_side

FORMAT_VERSION = 1
_KEY = "ecstfl"
_LIBRARIES = ("ecstfl", "torch", "torchvision", "timm", "safetensors")
# Where components.backbones.temporal.TemporalModel keeps the image network that sees its frames.
_FRAME_BACKBONE = "backbone.net."


@dataclass
class Checkpoint:
    """Weights and what they need: the network, its input, its class names, and where they come from.

    `state` is on the CPU, keyed like the network's own state dict. `notes` says what was left out of a foreign file,
    `card` what a published model says of itself (see publish.Card).
    """

    model: ModelSpec
    input: InputSpec
    labels: LabelMap
    state: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    notes: list[str] = field(default_factory=list)


# --- native files ----------------------------------------------------------------------------------------------------


def save_checkpoint(
    path: Path,
    network: nn.Module | Mapping[str, Tensor],
    *,
    model: ModelSpec,
    input: InputSpec,
    labels: LabelMap,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights of `network`, unwrapped, and what they need to `path`, replacing it only when complete.

    `network` may be its state dict. `data` is a fingerprint of what it was trained on. Raises CheckpointError where
    `labels` does not fit.
    """
    if len(labels) != model.num_classes:
        raise CheckpointError(f"{len(labels)} class names for a network of {model.num_classes} classes")
    # The weights to come from elsewhere are in this file by now.
    arguments = {key: value for key, value in model.args.items() if key != "pretrained"}
    metadata = {
        "format_version": FORMAT_VERSION,
        "model": replace(model, args=arguments).to_dict(),
        "input": input.to_dict(),
        "labels": {"name": labels.name, "names": labels.names, "synonyms": dict(labels.synonyms)},
        "recipe": dict(recipe or {}),
        "metrics": dict(metrics or {}),
        "data": dict(data or {}),
        "versions": _versions(),
        "card": dict(card or {}),
    }
    weights = network.state_dict() if isinstance(network, nn.Module) else network
    # A clone of each: the format takes neither shared memory nor other memory layouts.
    state = {
        key: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, tensor in weights.items()
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(state, partial, {"format": "pt", _KEY: json.dumps(metadata, ensure_ascii=False)})
        partial.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read.
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def load_native(path: Path) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Raises CheckpointError where it is another kind of file, is cut short, has no metadata of ours, or a newer format.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise CheckpointError(
                f"{path} is a safetensors file, but not a checkpoint of ecstfl: it does not say what its weights are",
                "Where its backbone is known here it can be given as a model all the same.",
            )
        checkpoint = _described(path, metadata[_KEY])
        checkpoint.state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    return checkpoint


def _described(path: Path, text: str) -> Checkpoint:
    """What the metadata of a file says, still without its weights."""
    try:
        written = json.loads(text)
        if written["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has checkpoint format {written['format_version']}; this ecstfl reads up to {FORMAT_VERSION}",
                f"It was written by ecstfl {written['versions']['ecstfl']}: update ecstfl.",
            )
        labels = written["labels"]
        return Checkpoint(
            model=ModelSpec(**written["model"]),
            input=InputSpec.from_dict(written["input"]),
            labels=LabelMap(labels["name"], tuple(labels["names"]), labels["synonyms"]),
            state={},
            recipe=written["recipe"],
            metrics=written["metrics"],
            data=written["data"],
            versions=written["versions"],
            card=written.get("card", {}),
            source=str(path),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"the metadata of {path} is damaged: {type(error).__name__} {error}",
            "Copy it again from where it was made.",
        ) from error


def is_safetensors(path: Path) -> bool:
    """Whether the content, not the name, is that of a safetensors file. Raises CheckpointError if it is unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    # Eight bytes of length, then a JSON object; the length of a real header stays below 100 MB.
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def has_metadata(path: Path) -> bool:
    """Whether a safetensors file says what its weights are, as a checkpoint of ours does."""
    with _opened(path) as file:
        return _KEY in (file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not is_safetensors(path):
        raise CheckpointError(f"{path} is not a safetensors file", "Give a checkpoint that ecstfl wrote.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: {error}", "Copy it again from where it was made."
        ) from error


# --- any checkpoint --------------------------------------------------------------------------------------------------


def open_checkpoint(
    name: str | Path,
    *,
    backbone: str | None = None,
    label_map: LabelMap | None = None,
    need_labels: bool = True,
    folder: Path = FOLDER,
    reporter: Reporter,
) -> Checkpoint:
    """The checkpoint that a user names: a file, native or foreign by its content, a run folder, or a known name.

    `backbone` and `label_map` say what a foreign file does not; a native one knows, and must agree. A caller that
    replaces the head has `need_labels` off: classes without a name are then called `class 0` and so on.
    Raises CheckpointError where it cannot be found or read.
    """
    path = locate(name, folder)
    if not is_safetensors(path) or not has_metadata(path):
        from ecstfl_cli.engine.weights.foreign_checkpoint import foreign_to_checkpoint  # imports this module

        return foreign_to_checkpoint(
            path, backbone=backbone, label_map=label_map, need_labels=need_labels, reporter=reporter
        )
    checkpoint = load_native(path)
    if backbone and backbone != checkpoint.model.backbone:
        raise CheckpointError(
            f"{path} holds {checkpoint.model.backbone}, not {backbone}",
            f"Use backbone {checkpoint.model.backbone}, or another checkpoint.",
        )
    if label_map and label_map.names != checkpoint.labels.names:
        raise CheckpointError(
            f"{path} stores its own class names, and they are not those of {label_map.name!r}:\n"
            + side_by_side(checkpoint.labels, label_map),
            "Leave the label map out.",
        )
    return checkpoint


# --- weights into networks -------------------------------------------------------------------------------------------


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
