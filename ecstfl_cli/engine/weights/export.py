"""`ecstfl export`: a checkpoint as a file for another runtime, compared with PyTorch before it gets its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecstfl_cli import registry
from ecstfl_cli.api import Exporter, InputSpec
from ecstfl_cli.components.frame_model import FrameModel, InferenceGraph
from ecstfl_cli.engine.component_state import contract_problem
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import resolve_device
from ecstfl_cli.engine.weights.export_metadata import export_metadata
from ecstfl_cli.engine.weights.export_samples import read_samples
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import ExportError
from ecstfl_cli.files import complete_file
from ecstfl_cli.labels import LabelMap

# One sample takes other paths through some graphs than several do.
BATCH_SIZES = (1, 3)
# Of real samples at a time.
_BATCH = 32
# What may differ where --tolerance is not given: logits, or the most probable class in such a share of real samples.
TOLERANCE, CLASS_TOLERANCE = 1e-4, 0.06

_CONTRACT = "api.Exporter says what an exporter has and returns; see docs/plugins.md."


@dataclass(frozen=True)
class Comparison:
    """Exported against original: how far logits and probabilities differ, and how often the most probable class is one.

    `difference` is the largest one of logits, absolute; where logits exceed 1 it is relative to the largest of them.
    `probs_difference` is the largest one of probabilities, `mean_probs_difference` their mean.
    """

    difference: float
    same_class: int
    samples: int
    probs_difference: float
    mean_probs_difference: float


@dataclass(frozen=True)
class ExportResult:
    """One export: the file, its size in bytes, its input and outputs, and the comparison it passed.

    `samples` are the path files of real samples that an exporter with `needs_samples` was shown some of and compared on
    others; without them the comparison is on made frames. `tolerance` bounds the difference of logits, or with samples
    the share of those whose most probable class is another.
    """

    path: Path
    format: str
    size: int
    input: str
    outputs: str
    classes: list[str]
    tolerance: float
    comparison: Comparison
    samples: list[str]
    shown: int

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    out: Path | None = None,
    samples: Sequence[str | Path] = (),
    data_root: Path | None = None,
    tolerance: float | None = None,
    device: str = "cpu",
    backbone: str | None = None,
    label_map: LabelMap | None = None,
    reporter: Reporter,
) -> ExportResult:
    """Write a checkpoint in another format, by default beside it; preprocessing is inside, the batch size is free.

    PyTorch, on `device`, and the other runtime see the same frames: made ones, or where the exporter `needs_samples`
    those of the path files `samples`, whose relative paths start from `data_root`. `tolerance` bounds the difference of
    logits, by default 1e-4 (see Comparison), or of real samples the share whose most probable class is another, by
    default 0.06. Raises ExportError, leaving no file, where it is more, and EcstflError for what cannot be opened.
    """
    exporter = _exporter(format)
    needs_samples = getattr(exporter, "needs_samples", False)
    _require_samples(format, needs_samples, samples, data_root)
    torch_device = resolve_device(device)
    if Path(model).suffix.lower() == _ending(exporter.suffix):
        raise ExportError(f"{model} is exported already", "Give the checkpoint that it was made from.")
    checkpoint = open_checkpoint(model, backbone=backbone, label_map=label_map, reporter=reporter)
    path = _target(Path(checkpoint.source), out, exporter.suffix)
    spec = checkpoint.input
    if needs_samples:
        real = read_samples(samples, spec, root=data_root, reporter=reporter)
        shown, trials = real.shown, _batches(real.held_out, KIND[spec.modality], reporter)
        tolerance = CLASS_TOLERANCE if tolerance is None else tolerance
    else:
        shown, trials = _noise(spec, 2, np.random.default_rng(0)), made_trials(spec)
        tolerance = TOLERANCE if tolerance is None else tolerance
    graph = InferenceGraph(FrameModel(build_network(checkpoint), spec)).eval()
    reporter.note(f"exporting {checkpoint.source} ({checkpoint.model.backbone})")
    try:
        with complete_file(path) as partial:
            exporter.export(graph, torch.from_numpy(shown), partial, export_metadata(checkpoint))
            if not partial.exists():
                raise ExportError(f"exporter {format!r} has written nothing to {partial}", _CONTRACT)
            comparison = compare(graph.to(torch_device), exporter, partial, trials)
            (_require_classes if needs_samples else _require)(comparison, tolerance)
            size = partial.stat().st_size
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}", "Choose another file with --out.") from error
    return ExportResult(
        path=path,
        format=format,
        size=size,
        input=f"frames uint8 (B, {', '.join(map(str, spec.shape))}), RGB",
        outputs=f"logits, probs float32 (B, {len(checkpoint.labels)})",
        classes=list(checkpoint.labels.names),
        tolerance=tolerance,
        comparison=comparison,
        samples=[str(file) for file in samples],
        shown=len(shown) if needs_samples else 0,
    )


def compare(graph: InferenceGraph, exporter: Exporter, path: Path, trials: Iterable[np.ndarray]) -> Comparison:
    """An exported file against `graph` on batches of frames, (B, T, H, W, 3) or (B, H, W, 3) uint8."""
    device = next(graph.parameters()).device
    difference = largest_probs = total_probs = 0.0
    same = samples = values = 0
    for frames in trials:
        ours = _logits(graph, torch.from_numpy(frames).to(device))
        theirs = _as_logits(exporter.run(path, frames), exporter, tuple(ours.shape))
        scale = max(1.0, ours.abs().max().item())
        difference = max(difference, _apart(theirs, ours).max().item() / scale)
        probs = _apart(theirs.softmax(dim=1), ours.softmax(dim=1))
        largest_probs = max(largest_probs, probs.max().item())
        total_probs += probs.sum().item()
        same += int((theirs.argmax(dim=1) == ours.argmax(dim=1)).sum())
        samples += len(frames)
        values += probs.numel()
    return Comparison(difference, same, samples, largest_probs, total_probs / values)


def _as_logits(found: Any, exporter: Exporter, shape: tuple[int, ...]) -> Tensor:
    """What an exporter's `run` returned, as logits. Raises ExportError for anything else."""
    name = type(exporter).__name__
    try:
        array = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExportError(f"`run` of the exporter {name} returned no logits: {error}", _CONTRACT) from error
    if array.shape != shape:
        raise ExportError(f"`run` of the exporter {name} returned {array.shape}, where logits are {shape}", _CONTRACT)
    return torch.from_numpy(array)


def _apart(theirs: Tensor, ours: Tensor) -> Tensor:
    # A not-a-number anywhere must not pass for a small difference.
    return torch.nan_to_num((theirs - ours).abs(), nan=float("inf"))


def _logits(graph: InferenceGraph, frames: Tensor) -> Tensor:
    # TF32 would round the reference itself to three digits.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return graph(frames)[0].float().cpu()


def made_trials(spec: InputSpec) -> Iterator[np.ndarray]:
    """Noise and structured frames, alone and in batches."""
    generator = np.random.default_rng(1)
    for batch_size in BATCH_SIZES:
        yield _noise(spec, batch_size, generator)
        yield _structured(spec, batch_size)


def _noise(spec: InputSpec, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, (batch_size, *spec.shape), dtype=np.uint8)


def _structured(spec: InputSpec, batch_size: int) -> np.ndarray:
    """Ramps across the frame that move with time and differ by channel; then black; then white."""
    positions = np.indices(spec.shape)[:-1].sum(axis=0)
    ramp = (positions * 255 // positions.max() + 85 * np.arange(3)).astype(np.uint8)
    return np.stack([ramp, np.zeros_like(ramp), np.full_like(ramp, 255)][:batch_size])


def _batches(frames: np.ndarray, unit: str, reporter: Reporter) -> Iterator[np.ndarray]:
    with reporter.progress("comparing", len(frames), unit) as advance:
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            yield batch
            advance(len(batch))


def _require_samples(format: str, needed: bool, samples: Sequence[str | Path], data_root: Path | None) -> None:
    if needed and not samples:
        raise ExportError(
            f"--format {format} needs real samples, to choose its numbers by and to compare with PyTorch on",
            "Name a path file with --samples, best that of the training list; labels are not needed.",
        )
    if samples and not needed:
        raise ExportError(f"--samples has no use with --format {format}, which looks at none", "Leave it out.")
    if data_root and not samples:
        raise ExportError("--data-root is where relative paths of --samples start from, and none are named")


def _require(comparison: Comparison, tolerance: float) -> None:
    if not comparison.difference <= tolerance:
        raise ExportError(
            f"the exported model differs from PyTorch by {comparison.difference:.2g}, more than the tolerance "
            f"{tolerance:g}; the most probable class is the same for {comparison.same_class} of "
            f"{comparison.samples} samples",
            "Nothing was written. If that difference is acceptable, raise --tolerance.",
        )


def _require_classes(comparison: Comparison, tolerance: float) -> None:
    changed = comparison.samples - comparison.same_class
    if not np.isfinite(comparison.difference) or changed > tolerance * comparison.samples:
        raise ExportError(
            f"the most probable class of the exported model is another than PyTorch's for {changed} of "
            f"{comparison.samples} samples ({changed / comparison.samples:.1%}), more than the tolerance "
            f"{tolerance:.1%}; probabilities differ by {comparison.mean_probs_difference:.2g} on average and by "
            f"{comparison.probs_difference:.2g} at most",
            "Nothing was written. Show it samples that are more like those it is for (--samples), use --format onnx, "
            "or raise --tolerance if that is acceptable.",
        )


def _exporter(format: str) -> Exporter:
    found = registry.load("exporters", format)
    exporter = found() if isinstance(found, type) else found
    if problem := contract_problem("exporters", exporter):
        raise ExportError(f"exporter {format!r} {problem}", _CONTRACT)
    return exporter


def _ending(suffix: str) -> str:
    """The last ending: `.onnx` of `.int8.onnx`."""
    return f".{suffix.rpartition('.')[2]}"


def _target(source: Path, out: Path | None, suffix: str) -> Path:
    if out is None:
        return source.with_suffix(suffix)
    if out.is_dir():
        return out / f"{source.stem}{suffix}"
    if out.suffix.lower() != _ending(suffix):
        raise ExportError(
            f"--out {out} does not end in {_ending(suffix)}", f"Write --out {out.with_suffix(_ending(suffix))}"
        )
    return out
