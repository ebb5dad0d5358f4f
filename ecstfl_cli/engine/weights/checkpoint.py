"""Checkpoints: one `.safetensors` file with everything needed to use the weights, read and written.

Foreign files are read in `foreign_checkpoint`; `opening` tells them apart; `fitting` puts weights into networks.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ecstfl_cli.api import InputSpec, ModelSpec
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap

FORMAT_VERSION = 1
_KEY = "ecstfl"
_LIBRARIES = ("ecstfl", "torch", "torchvision", "timm", "safetensors")


@dataclass
class Checkpoint:
    """Weights and what they need: the network, its input, its class names, and where they come from.

    `state` is on the CPU, keyed like the network's own state dict. `notes` says what was left out of a foreign file,
    `card` what a published model says of itself (see model_card.Card).
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
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial, {"format": "pt", _KEY: json.dumps(metadata, ensure_ascii=False)})
        partial.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read.
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):
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
