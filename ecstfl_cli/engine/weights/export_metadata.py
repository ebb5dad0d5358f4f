"""What an exported model says of itself: strings in its metadata, written by `export` and read by `infer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ecstfl_cli import __version__
from ecstfl_cli.api import InputSpec
from ecstfl_cli.engine.weights.checkpoint import Checkpoint
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap

FORMAT_VERSION = 1
_PREFIX = "ecstfl."
_NEEDED = ("format_version", "label_map", "class_names", "synonyms", "input", "model")


@dataclass(frozen=True)
class ExportedModel:
    """The parts of an exported model's metadata that inference needs."""

    input: InputSpec
    labels: LabelMap
    backbone: str


def export_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Class names, input spec, label map, model and version as strings; structured values are JSON."""
    values = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "label_map": checkpoint.labels.name,
        "class_names": list(checkpoint.labels.names),
        "synonyms": dict(checkpoint.labels.synonyms),
        "input": checkpoint.input.to_dict(),
        "model": checkpoint.model.to_dict(),
    }
    return {
        _PREFIX + key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }


def read_export_metadata(metadata: Mapping[str, str], source: str) -> ExportedModel:
    """The inverse of `export_metadata`.

    Raises CheckpointError where the file was not exported by ecstfl, or by a version with a newer format.
    """
    if f"{_PREFIX}format_version" not in metadata:
        raise CheckpointError(
            f"{source} was not exported by ecstfl: it does not say what its input and its classes are",
            "Export a checkpoint: ecstfl export CHECKPOINT --format onnx",
        )
    try:
        values = {key: metadata[_PREFIX + key] for key in _NEEDED}
        version = int(values["format_version"])
        if version <= FORMAT_VERSION:
            return ExportedModel(
                InputSpec.from_dict(json.loads(values["input"])),
                LabelMap(values["label_map"], tuple(json.loads(values["class_names"])), json.loads(values["synonyms"])),
                json.loads(values["model"])["backbone"],
            )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"the metadata of {source} is damaged: {error}", "Export it again.") from error
    raise CheckpointError(
        f"{source} has export format {version}; this ecstfl reads up to {FORMAT_VERSION}", "Update ecstfl."
    )
