"""Checkpoints of other programs: the state dict taken out of its wrappings, its network recognised by its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ecstfl_cli import registry
from ecstfl_cli.api import InputSpec, Modality, ModelSpec
from ecstfl_cli.engine.catalogue import entry_of_file
from ecstfl_cli.engine.checkpoint import Checkpoint, differences, head_dimensions, is_safetensors, without_weights
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.restricted_pickle import TensorRef
from ecstfl_cli.engine.torch_file import open_torch_file
from ecstfl_cli.errors import CheckpointError, listing
from ecstfl_cli.labels import LabelMap, label_map_from

_ENTRIES = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_DEFAULT_LABEL_MAP = "dfew"
# What the reference release trains, and so the likeliest; the rest of the family follows.
_TRIED_FIRST = ("torchvision/r3d_18", "torchvision/resnet18")
_REFERENCE_INPUT: dict[Modality, InputSpec] = {
    "video": InputSpec("video", 112),
    "img": InputSpec("img", 224),
}


@dataclass
class ForeignWeights:
    """A plain state dict with upstream's key names. `dropped` names what the file held besides, `prefix` what was cut
    from every key."""

    state: dict[str, Tensor]
    dropped: list[str]
    prefix: str = ""


def read_foreign(path: Path) -> ForeignWeights:
    """The state dict of a file of `torch.save` or a bare safetensors file, on the CPU, without running code.

    It may be the whole file or its entry `state_dict`, `model_state_dict`, `model` or `net`; `module.` and similar
    prefixes are cut. Raises CheckpointError where the file is damaged, asks for code, or holds no state dict.
    """
    if is_safetensors(path):
        try:
            state, dropped = load_file(path), []
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or cut short: {error}", "Fetch it again.") from error
    else:
        with open_torch_file(path) as file:
            found, dropped = _unwrapped(file.content)
            refs = {key: value for key, value in found.items() if isinstance(value, TensorRef)}
            dropped += [str(key) for key in found if key not in refs]
            state = {str(key): file.tensor(ref) for key, ref in refs.items()}
    if not state:
        raise CheckpointError(
            f"{path} holds no state dict" + (f", only {', '.join(dropped[:20])}" if dropped else ""),
            "A whole pickled model needs its code to be read. Save its weights alone where it was made: "
            "`torch.save(model.state_dict(), FILE)`.",
        )
    state, prefix = _without_prefixes(state)
    return ForeignWeights(state, dropped, prefix)


def _unwrapped(content: Any) -> tuple[Mapping[Any, Any], list[str]]:
    """The innermost dict that is or wraps the state dict, and the names of the entries beside it."""
    dropped: list[str] = []
    while isinstance(content, Mapping):
        entry = next((name for name in _ENTRIES if isinstance(content.get(name), Mapping)), None)
        if entry is None:
            return content, dropped
        dropped += [str(key) for key in content if key != entry]
        content = content[entry]
    return {}, dropped


def _without_prefixes(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    cut = ""
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        cut += prefix
    return state, cut


# --- recognising the network -----------------------------------------------------------------------------------------


def recognise_backbone(state: Mapping[str, Tensor]) -> str:
    """The registry name of the torchvision network whose tensors these are, whatever its number of classes.

    Key names and shapes must all agree, the classifier apart. Raises CheckpointError, with some of the keys, where
    none does.
    """
    for name in _candidates():
        network = _bare(name)
        if not _differences_of_trunk(network, _adapted(network, state)):
            return name
    sample = [f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()]
    raise CheckpointError(
        f"the network of these weights is not recognised; their keys are:\n{listing(sample, limit=8)}",
        "Name it: --backbone timm/NAME, or another that `ecstfl plugins` lists.",
    )


def _candidates() -> Iterator[str]:
    from ecstfl_cli.components.backbones import torchvision_family

    yield from _TRIED_FIRST
    for member in torchvision_family.names():
        if f"torchvision/{member}" not in _TRIED_FIRST:
            yield f"torchvision/{member}"


def _bare(backbone: str, num_classes: int = 2) -> Any:
    """A network for its names and shapes only."""
    with without_weights():
        return registry.load("backbones", backbone)(num_classes)


def _adapted(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the network's own key names; a network that does not translate is taken to use the same."""
    adapt = getattr(network, "adapt_state_dict", dict)
    return adapt(dict(state))


def _differences_of_trunk(network: Any, state: Mapping[str, Tensor]) -> list[str]:
    own = network.state_dict()
    head = [key for key in own if key.startswith("head.")]
    trunk = {key: tensor for key, tensor in own.items() if key not in head}
    return differences(trunk, {key: tensor for key, tensor in state.items() if key not in head})


# --- into a checkpoint -----------------------------------------------------------------------------------------------


def foreign_to_checkpoint(
    path: Path,
    *,
    backbone: str | None = None,
    label_map: LabelMap | None = None,
    need_labels: bool = True,
    reporter: Reporter,
) -> Checkpoint:
    """A checkpoint from a foreign file, fed as the reference release feeds its own where nothing else is known.

    `backbone` and `label_map` come from the caller, else from the catalogue by file name, else the tensors tell the
    backbone, and seven classes are taken to be in DFEW's order, with a warning. Other classes need a label map, or
    `need_labels` off, which calls them `class 0` and so on. Raises CheckpointError where the weights fit no network.
    """
    weights = read_foreign(path)
    name = backbone or _recognised(path, weights)
    network = _bare(name)
    state = _adapted(network, weights.state)
    classes = _number_of_classes(path, name, network.modality, state)
    problems = differences(_bare(name, classes).state_dict(), state)
    if problems:
        raise CheckpointError(
            f"the weights in {path} are not those of {name}:\n{listing(problems)}",
            "Without --backbone the torchvision networks are recognised by themselves.",
        )
    entry = entry_of_file(path)
    labels = _labels(path, classes, label_map, need_labels, reporter)
    spec = entry.input_spec if entry and entry.backbone == name else _REFERENCE_INPUT[network.modality]
    notes = _notes(weights, name, classes)
    for note in notes:
        reporter.note(f"{path}: {note}")
    return Checkpoint(ModelSpec(name, classes), spec, labels, state, source=str(path), notes=notes)


def _recognised(path: Path, weights: ForeignWeights) -> str:
    try:
        return recognise_backbone(weights.state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error


def _number_of_classes(path: Path, backbone: str, modality: Modality, state: Mapping[str, Tensor]) -> int:
    """K, from the tensor of the classifier."""
    for key, dim in head_dimensions(ModelSpec(backbone, 2), modality).items():
        if key in state and state[key].ndim > dim:
            return state[key].shape[dim]
    raise CheckpointError(
        f"{path} holds no classifier of {backbone}; its keys are:\n{listing(list(state), limit=8)}",
        "Weights without a classifier cannot be used as a model, nor is it known whether they belong to this network.",
    )


def _labels(path: Path, classes: int, label_map: LabelMap | None, need_labels: bool, reporter: Reporter) -> LabelMap:
    entry = entry_of_file(path)
    if not need_labels and label_map is None:
        return LabelMap("unknown", tuple(f"class {k}" for k in range(classes)))
    labels = label_map or (label_map_from(entry.label_map) if entry else None)
    if labels is None and classes == len(default := label_map_from(_DEFAULT_LABEL_MAP)):
        reporter.warn(
            f"{path} does not name its classes; they are taken to be in the order {default.describe()}. "
            "Another order is set with --label-map."
        )
        labels = default
    if labels is None:
        raise CheckpointError(
            f"{path} has {classes} classes and does not name them",
            "Give their order with --label-map NAME; `ecstfl plugins` lists the label maps.",
        )
    if len(labels) != classes:
        raise CheckpointError(
            f"{path} has {classes} classes, label map {labels.name!r} has {len(labels)}: {labels.describe()}",
            "Give the right order with --label-map NAME; `ecstfl plugins` lists the label maps.",
        )
    if entry and label_map is None:
        reporter.note(f"{path}: classes {labels.describe()} ({entry.label_map_note})")
    return labels


def _notes(weights: ForeignWeights, backbone: str, classes: int) -> list[str]:
    notes = [f"read as {backbone} with {classes} classes"]
    if weights.prefix:
        notes.append(f"prefix {weights.prefix!r} cut from every key")
    if weights.dropped:
        shown = ", ".join(weights.dropped[:20])
        more = len(weights.dropped) - 20
        notes.append(f"not used: {shown}" + (f" and {more} more" if more > 0 else ""))
    return notes
