"""Opening the checkpoint that a user names, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.catalogue import FOLDER, locate
from ecstfl_cli.engine.weights.checkpoint import Checkpoint, has_metadata, is_safetensors, load_native
from ecstfl_cli.errors import CheckpointError
from ecstfl_cli.labels import LabelMap, side_by_side


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
    Raises CheckpointError where it cannot be found or read, or holds what is not a number.
    """
    path = locate(name, folder)
    if not is_safetensors(path) or not has_metadata(path):
        from ecstfl_cli.engine.weights.foreign_checkpoint import foreign_to_checkpoint  # imports torchvision

        return _without_nan(
            foreign_to_checkpoint(
                path, backbone=backbone, label_map=label_map, need_labels=need_labels, reporter=reporter
            )
        )
    checkpoint = _without_nan(load_native(path))
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


def _without_nan(checkpoint: Checkpoint) -> Checkpoint:
    spoilt = [name for name, tensor in checkpoint.state.items() if tensor.isnan().any()]
    if spoilt:
        raise CheckpointError(
            f"{checkpoint.source} holds values that are not numbers, in {', '.join(spoilt[:5])}"
            + (f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""),
            "Its training has gone wrong, or the file is damaged. Use another epoch's checkpoint, or train anew.",
        )
    return checkpoint
