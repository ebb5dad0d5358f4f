"""Checkpoints of other programs: the state dict taken out of its wrappings, its network recognised by its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ecstfl_cli import registry
from ecstfl_cli.api import InputSpec, Modality, ModelSpec
from ecstfl_cli.components.backbones import torchvision_family
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.catalogue import entry_of_file
from ecstfl_cli.engine.weights.checkpoint import Checkpoint, is_safetensors
from ecstfl_cli.engine.weights.fitting import bare, differences, head_dimensions
from ecstfl_cli.engine.weights.restricted_pickle import TensorRef
from ecstfl_cli.engine.weights.torch_file import open_torch_file
from ecstfl_cli.errors import CheckpointError, listing
from ecstfl_cli.labels import LabelMap, label_map_from

_ENTRIES = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# A hostile file may wrap a dict in itself.
_DEEPEST_WRAPPING = 4
_DEFAULT_LABEL_MAP = "dfew"
# What the reference release trains, and so the likeliest; the rest of the family follows.
_TRIED_FIRST = ("r3d_18", "resnet18", "resnet")
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
    dropped: list[str] = []
    if is_safetensors(path):
        try:
            state = load_file(path)
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
    for _ in range(_DEEPEST_WRAPPING):
        if not isinstance(content, Mapping):
            return {}, dropped
        entry = next((name for name in _ENTRIES if isinstance(content.get(name), Mapping)), None)
        if entry is None:
            return content, dropped
        dropped += [str(key) for key in content if key != entry]
        content = content[entry]
    return content, dropped


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
    for name in _candidates(state):
        network = _bare(name)
        if not _trunk_differences(network, _adapted(network, state), ("head.weight", "head.bias")):
            return name
    sample = [f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()]
    raise CheckpointError(
        f"the network of these weights is not recognised; their keys are:\n{listing(sample, limit=8)}",
        "Name it: --backbone timm/NAME, or another that `ecstfl plugins` lists.",
    )


def _candidates(state: Mapping[str, Tensor]) -> Iterator[str]:
    """torchvision's networks for clips if there is a three-dimensional convolution, else those for stills."""
    clips = set(torchvision.models.list_models(module=torchvision.models.video))
    wants_clips = any(tensor.ndim == 5 for tensor in state.values())
    members = [name for name in torchvision_family.names() if (name in clips) == wants_clips]
    for member in sorted(members, key=_rank):
        yield f"torchvision/{member}"


def _rank(member: str) -> int:
    return next((i for i, start in enumerate(_TRIED_FIRST) if member.startswith(start)), len(_TRIED_FIRST))


def _bare(backbone: str, num_classes: int = 2) -> Any:
    return bare(lambda: registry.load("backbones", backbone)(num_classes))


def _adapted(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the network's own key names; a network that does not translate is taken to use the same."""
    adapt = getattr(network, "adapt_state_dict", dict)
    return adapt(dict(state))


def _trunk_differences(network: Any, state: Mapping[str, Tensor], head: Iterable[str]) -> list[str]:
    own = {key: tensor for key, tensor in network.state_dict().items() if key not in head}
    return differences(own, {key: tensor for key, tensor in state.items() if key not in head})


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
    classes = _number_of_classes(path, name, network, state)
    labels = _labels(path, classes, label_map, need_labels, reporter)
    entry = entry_of_file(path)
    spec = entry.input_spec if entry and entry.backbone == name else _REFERENCE_INPUT[network.modality]
    checkpoint = Checkpoint(ModelSpec(name, classes), spec, labels, state, source=str(path))
    checkpoint.notes = _notes(weights, checkpoint)
    if entry and entry.label_map_note and label_map is None:
        checkpoint.notes.append(f"classes {labels.describe()}: {entry.label_map_note}")
    for note in checkpoint.notes:
        reporter.note(f"{path}: {note}")
    return checkpoint


def _recognised(path: Path, weights: ForeignWeights) -> str:
    try:
        return recognise_backbone(weights.state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error


def _number_of_classes(path: Path, backbone: str, network: Any, state: Mapping[str, Tensor]) -> int:
    """K, from the classifier in `state`. Raises CheckpointError where the tensors are not those of the network."""
    head = head_dimensions(network, 2)
    problems = _trunk_differences(network, state, head)
    sizes = {state[key].shape[dim] for key, dim in head.items() if key in state and state[key].ndim > dim}
    if not problems and not sizes:
        raise CheckpointError(
            f"{path} holds {backbone} without a classifier", "Give a file with the weights of its last layer."
        )
    if not problems:
        problems = differences(_bare(backbone, max(sizes)).state_dict(), state)
    if problems:
        raise CheckpointError(
            f"the weights in {path} are not those of {backbone}:\n{listing(problems)}",
            "Give the backbone they were trained with; `ecstfl checkpoints show FILE` recognises torchvision's.",
        )
    return max(sizes)


def _labels(path: Path, classes: int, label_map: LabelMap | None, need_labels: bool, reporter: Reporter) -> LabelMap:
    entry = entry_of_file(path)
    labels = label_map or (label_map_from(entry.label_map) if entry else None)
    if labels is None and not need_labels:
        return LabelMap("unknown", tuple(f"class {k}" for k in range(classes)))
    if labels is None and classes == len(default := label_map_from(_DEFAULT_LABEL_MAP)):
        reporter.warn(
            f"{path} does not name its classes; they are taken to be in the order {default.describe()}. "
            "Another order is set with --model-label-map."
        )
        labels = default
    if labels is None:
        raise CheckpointError(
            f"{path} has {classes} classes and does not name them",
            "Give their order with --model-label-map NAME; `ecstfl plugins` lists the label maps. "
            "To finetune with a fresh classifier set `model.replace_head: true`.",
        )
    if len(labels) != classes:
        raise CheckpointError(
            f"{path} has {classes} classes, label map {labels.name!r} has {len(labels)}: {labels.describe()}",
            "Give the right order with --model-label-map NAME; `ecstfl plugins` lists the label maps.",
        )
    return labels


def _notes(weights: ForeignWeights, checkpoint: Checkpoint) -> list[str]:
    """What was assumed and what was left out, for the user to see."""
    model, spec = checkpoint.model, checkpoint.input
    notes = [
        f"read as {model.backbone} with {model.num_classes} classes, "
        f"fed {spec.size}x{spec.size} with values in [0, 1] as the reference release feeds its networks"
    ]
    if weights.prefix:
        notes.append(f"prefix {weights.prefix!r} cut from every key")
    if weights.dropped:
        shown = ", ".join(weights.dropped[:20])
        more = len(weights.dropped) - 20
        notes.append(f"not used: {shown}" + (f" and {more} more" if more > 0 else ""))
    return notes
