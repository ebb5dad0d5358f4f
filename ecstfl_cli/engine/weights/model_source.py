"""Opening a model for inference: a checkpoint in PyTorch, or an exported file in its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecstfl_cli.api import InputSpec, Modality
from ecstfl_cli.components.frame_model import FrameModel
from ecstfl_cli.engine.data.samples import KIND
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.runtime import resolve_device, resolve_precision, use_channels_last
from ecstfl_cli.engine.weights.catalogue import FOLDER
from ecstfl_cli.engine.weights.checkpoint import has_metadata, load_native
from ecstfl_cli.engine.weights.export_metadata import read_export_metadata
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.engine.weights.folding import folded
from ecstfl_cli.engine.weights.opening import open_checkpoint
from ecstfl_cli.errors import CheckpointError, DeviceError, suggest
from ecstfl_cli.labels import LabelMap
from ecstfl_cli.resources import shipped

SHIPPED = "fer2013_mobilenet80"
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class InferenceModel:
    """A model ready to predict, whichever runtime it runs in.

    `logits` maps uint8 frames on `device`, (B, T, H, W, 3) or (B, H, W, 3), to logits (B, K). `card` is what a
    published model says of itself, and `measured` how well it did on which data; both are empty where it does not say.
    `flip`: it looks at mirror images too.
    """

    source: str
    backbone: str
    input: InputSpec
    labels: LabelMap
    runtime: str
    device: torch.device
    precision: str
    logits: Callable[[Tensor], Tensor]
    card: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    flip: bool = False

    def autocast(self) -> AbstractContextManager:
        """The context in which `logits` is called."""
        if self.precision not in _AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, _AUTOCAST[self.precision])

    def describe(self) -> str:
        """One line: what it is, what it takes and where it runs."""
        size = f"{self.input.size}x{self.input.size}"
        if self.input.modality == "video":
            size = f"{self.input.sampling.num_frames}x{size}"
        return (
            f"{self.source}: {self.backbone}, {KIND[self.input.modality]} {size}, {len(self.labels)} classes, "
            f"{self.runtime} on {self.device}, {self.precision}" + (", and mirrored" if self.flip else "")
        )


def open_model(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    backbone: str | None = None,
    label_map: LabelMap | None = None,
    flip: bool = False,
    reporter: Reporter,
) -> InferenceModel:
    """The model that a user names: a checkpoint file, native or foreign, a run folder, a known name, or an `.onnx`.

    `backbone` and `label_map` say what a foreign checkpoint does not. With `flip` its probabilities are the mean of
    those for the frames and for their mirror images. Raises EcstflError where it cannot be opened.
    """
    model = _opened(name, device, precision, backbone, label_map, reporter)
    return replace(model, logits=_with_mirror_image(model.logits), flip=True) if flip else model


def _with_mirror_image(logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def both(frames: Tensor) -> Tensor:
        logprobs = logits(torch.cat([frames, frames.flip(-2)])).float().log_softmax(dim=-1)
        return torch.logaddexp(*logprobs.chunk(2))  # The log of the mean but for a constant.

    return both


def _opened(
    name: str | Path,
    device: str,
    precision: str,
    backbone: str | None,
    label_map: LabelMap | None,
    reporter: Reporter,
) -> InferenceModel:
    if Path(name).suffix.lower() == ".onnx":
        if backbone or label_map:
            raise CheckpointError(
                f"{name} knows its backbone and its classes", "Leave --backbone and --model-label-map out."
            )
        return _open_onnx(Path(name), device, precision)
    checkpoint = open_checkpoint(name, backbone=backbone, label_map=label_map, reporter=reporter)
    torch_device = resolve_device(device)
    network = build_network(checkpoint)
    use_channels_last(network)
    noise = torch.randint(256, (1, *checkpoint.input.shape), generator=torch.Generator().manual_seed(0))
    model = folded(FrameModel(network, checkpoint.input).eval(), noise.to(torch.uint8)).to(torch_device)
    return InferenceModel(
        source=checkpoint.source,
        backbone=checkpoint.model.backbone,
        input=checkpoint.input,
        labels=checkpoint.labels,
        runtime="PyTorch",
        device=torch_device,
        precision=resolve_precision(precision, torch_device),
        logits=lambda frames: model(frames)[0],
        card=checkpoint.card,
        measured=checkpoint.metrics.get("published", {}),
    )


def _open_onnx(path: Path, device: str, precision: str) -> InferenceModel:
    from ecstfl_cli.components.exporters.onnx import OnnxModel

    if not path.is_file():
        near = suggest(path.name, [p.name for p in path.parent.glob("*.onnx")])
        raise CheckpointError(f"there is no file {path}", f"{near}Write one: ecstfl export CHECKPOINT --out {path}")
    session = OnnxModel(path)
    if device not in ("auto", "cpu") or precision not in ("auto", session.precision):
        raise DeviceError(
            f"{path} runs in ONNX Runtime, on the CPU and in {session.precision}",
            "Use --device cpu --precision auto, or the checkpoint that it was exported from.",
        )
    exported = read_export_metadata(session.metadata, str(path))
    return InferenceModel(
        source=str(path),
        backbone=exported.backbone,
        input=exported.input,
        labels=exported.labels,
        runtime="ONNX Runtime",
        device=torch.device("cpu"),
        precision=session.precision,
        logits=lambda frames: torch.from_numpy(session.logits(frames.numpy())),
    )


def shipped_model() -> Path:
    """The weights that come with ecstfl, for stills. Raises CheckpointError where an installation lacks them."""
    path = shipped("checkpoint_load") / f"{SHIPPED}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"this installation lacks its default model, {path}", "Name a model, or install it again."
        )
    return path


def default_model(modality: Modality | None = None, *, runs: Path = Path("runs"), folder: Path = FOLDER) -> Path:
    """The model where none is named: the newest finished run's best, else a checkpoint in `folder`, else a shipped one.

    Only models for `modality` count where it is given. Raises CheckpointError where there is none.
    """
    for path in _candidates(runs, folder):
        if modality is None or load_native(path).input.modality == modality:
            return path
    wanted = f" for {KIND[modality]}" if modality else ""
    raise CheckpointError(
        f"no model was named, and there is none{wanted} to take: no finished run under {runs}/, "
        f"no checkpoint in {folder}/",
        "Name one with --model (`ecstfl checkpoints` lists the released ones), or train one: "
        "ecstfl finetune recipes/NAME.yaml. `ecstfl demo` shows the whole way.",
    )


def _candidates(runs: Path, folder: Path) -> Iterator[Path]:
    # A run writes metrics.json last; result folders of `infer` have one too, but no weights.
    finished = sorted(runs.glob("*/*/metrics.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for metrics in finished:
        weights = (metrics.with_name("best.safetensors"), metrics.with_name("last.safetensors"))
        yield from [path for path in weights if path.is_file()][:1]
    # What a person has put there comes before what ships, and of that the default first.
    ours = {path.name for path in shipped("checkpoint_load").glob("*.safetensors")}
    for place in dict.fromkeys((folder, shipped("checkpoint_load"))):
        files = sorted(place.glob("*.safetensors"), key=lambda p: (p.name in ours, p.stem != SHIPPED, p.name))
        yield from (path for path in files if has_metadata(path))
