"""Small untrained checkpoints that give each input its own prediction, and inference with them, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ecstfl_cli.api import FrameSampling, InputSpec, Modality, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.inference.infer import InferResult, infer
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import save_checkpoint
from ecstfl_cli.labels import LabelMap, label_map_from

SIZE = 32


def save_small_model(
    path: Path,
    modality: Modality = "video",
    *,
    backbone: str = "timm/test_resnet",
    temporal_head: str | None = "mean",
    labels: LabelMap | None = None,
    size: int = SIZE,
    seed: int = 0,
) -> Path:
    """A checkpoint of a tiny network; `temporal_head` is left out for stills."""
    labels = labels or label_map_from("dfew")
    spec = InputSpec(
        modality=modality,
        size=size,
        sampling=FrameSampling(scheme="uniform", frames=4),
        mean=(0.5, 0.45, 0.4),
        std=(0.25, 0.2, 0.3),
    )
    model = ModelSpec(backbone, len(labels), temporal_head=temporal_head if modality == "video" else None)
    torch.manual_seed(seed)
    network = build_model(model, modality)
    with torch.no_grad():
        # A fresh classifier's logits are all but equal: the classes would hang on rounding.
        network.head.weight.mul_(50)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, network, model=model, input=spec, labels=labels)
    return path


def quick_infer(*inputs: str | Path, **options: Any) -> InferResult:
    """`infer` on the CPU and without worker processes, unless the options say otherwise."""
    return infer(inputs, **{"workers": 0, "device": "cpu", "reporter": Reporter(), **options})
