"""`ecstfl export`: a checkpoint as a file for another runtime, compared with PyTorch before it gets its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecstfl_cli import registry
from ecstfl_cli.api import Exporter, InputSpec
from ecstfl_cli.components.frame_model import FrameModel, InferenceGraph
from ecstfl_cli.engine.checkpoint import build_network, open_checkpoint
from ecstfl_cli.engine.export_metadata import export_metadata
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import resolve_device
from ecstfl_cli.errors import ExportError
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.media.atomic import complete_file

# One sample takes other paths through some graphs than several do.
BATCH_SIZES = (1, 3)


@dataclass(frozen=True)
class Comparison:
    """Exported against original: the largest difference of logits, and where the most probable class is the same.

    `difference` is absolute; where logits exceed 1 it is relative to the largest of them.
    """

    difference: float
    same_class: int
    samples: int


@dataclass(frozen=True)
class ExportResult:
    """One export: the file, its size in bytes, its input and outputs, and the comparison it passed."""

    path: Path
    format: str
    size: int
    input: str
    outputs: str
    classes: list[str]
    tolerance: float
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    out: Path | None = None,
    tolerance: float = 1e-4,
    device: str = "cpu",
    backbone: str | None = None,
    label_map: LabelMap | None = None,
    reporter: Reporter,
) -> ExportResult:
    """Write a checkpoint in another format, by default beside it; preprocessing is inside, the batch size is free.

    PyTorch, on `device`, and the other runtime see the same frames; see Comparison for what `tolerance` bounds.
    Raises ExportError, leaving no file, where they differ by more, and EcstflError for what cannot be opened.
    """
    exporter = _exporter(format)
    torch_device = resolve_device(device)
    if Path(model).suffix.lower() == exporter.suffix:
        raise ExportError(f"{model} is exported already", "Give the checkpoint that it was made from.")
    checkpoint = open_checkpoint(model, backbone=backbone, label_map=label_map, reporter=reporter)
    path = _target(Path(checkpoint.source), out, exporter.suffix)
    graph = InferenceGraph(FrameModel(build_network(checkpoint), checkpoint.input)).eval()
    spec = checkpoint.input
    reporter.note(f"exporting {checkpoint.source} ({checkpoint.model.backbone})")
    example = torch.from_numpy(_noise(spec, 2, np.random.default_rng(0)))
    try:
        with complete_file(path) as partial:
            exporter.export(graph, example, partial, export_metadata(checkpoint))
            comparison = compare(graph.to(torch_device), exporter, partial, spec)
            _require(comparison, tolerance)
            size = partial.stat().st_size
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}", "Choose another file with --out.") from error
    return ExportResult(
        path=path,
        format=format,
        size=size,
        input=f"frames uint8 (B, {', '.join(map(str, _shape(spec)))}), RGB",
        outputs=f"logits, probs float32 (B, {len(checkpoint.labels)})",
        classes=list(checkpoint.labels.names),
        tolerance=tolerance,
        comparison=comparison,
    )


def compare(graph: InferenceGraph, exporter: Exporter, path: Path, spec: InputSpec) -> Comparison:
    """Logits of an exported file against those of `graph`, on noise and on structured frames, alone and in batches."""
    device = next(graph.parameters()).device
    difference, same, samples = 0.0, 0, 0
    for frames in _trials(spec):
        theirs = torch.from_numpy(np.asarray(exporter.run(path, frames)))
        ours = _logits(graph, torch.from_numpy(frames).to(device))
        scale = max(1.0, ours.abs().max().item())
        # A not-a-number anywhere must not pass for a small difference.
        largest = torch.nan_to_num((theirs - ours).abs(), nan=float("inf")).max().item()
        difference = max(difference, largest / scale)
        same += int((theirs.argmax(dim=1) == ours.argmax(dim=1)).sum())
        samples += len(frames)
    return Comparison(difference, same, samples)


def _logits(graph: InferenceGraph, frames: Tensor) -> Tensor:
    # TF32 would round the reference itself to three digits.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return graph(frames)[0].float().cpu()


def _trials(spec: InputSpec) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(1)
    for batch_size in BATCH_SIZES:
        yield _noise(spec, batch_size, generator)
        yield _structured(spec, batch_size)


def _shape(spec: InputSpec) -> tuple[int, ...]:
    frames = (spec.sampling.num_frames,) if spec.modality == "video" else ()
    return (*frames, spec.size, spec.size, 3)


def _noise(spec: InputSpec, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, (batch_size, *_shape(spec)), dtype=np.uint8)


def _structured(spec: InputSpec, batch_size: int) -> np.ndarray:
    """Ramps across the frame that move with time and differ by channel; then black; then white."""
    positions = np.indices(_shape(spec))[:-1].sum(axis=0)
    ramp = (positions * 255 // positions.max() + 85 * np.arange(3)).astype(np.uint8)
    return np.stack([ramp, np.zeros_like(ramp), np.full_like(ramp, 255)][:batch_size])


def _require(comparison: Comparison, tolerance: float) -> None:
    if not comparison.difference <= tolerance:
        raise ExportError(
            f"the exported model differs from PyTorch by {comparison.difference:.2g}, more than the tolerance "
            f"{tolerance:g}; the most probable class is the same for {comparison.same_class} of "
            f"{comparison.samples} samples",
            "Nothing was written. If that difference is acceptable, raise --tolerance.",
        )


def _exporter(format: str) -> Exporter:
    found = registry.load("exporters", format)
    return found() if isinstance(found, type) else found


def _target(source: Path, out: Path | None, suffix: str) -> Path:
    if out is None:
        return source.with_suffix(suffix)
    if out.is_dir():
        return out / f"{source.stem}{suffix}"
    if out.suffix.lower() != suffix:
        raise ExportError(f"--out {out} does not end in {suffix}", f"Write --out {out.with_suffix(suffix)}")
    return out
