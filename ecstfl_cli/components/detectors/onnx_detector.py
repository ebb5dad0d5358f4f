"""What detectors of faces in ONNX Runtime have in common: sessions, batches of one size, non-maximum suppression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import Face
from ecstfl_cli.errors import CheckpointError, DeviceError


def open_session(model: Path | bytes, device: str, threads: int | None) -> Any:
    """An inference session of a model file or its bytes.

    `device`: `cpu`; `gpu` or `cuda` (or `cuda:1`), which need the package onnxruntime-gpu; `auto` (or `auto:1`) takes
    such a GPU where it can.
    `threads` of one computation; None leaves it to ONNX Runtime, which takes all cores. Raises DeviceError where the
    device is not available, and CheckpointError where the model cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(device)
    name = model if isinstance(model, Path) else "the face detector"
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=providers
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base class of their own.
        raise CheckpointError(f"ONNX Runtime cannot load {name}: {error}") from error


def _providers(device: str) -> list[Any]:
    import onnxruntime

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "gpu", "cuda") or not (index or "0").isdigit():
        raise DeviceError(f"faces cannot be detected on {device!r}", "Allowed: auto, cpu, gpu, cuda, cuda:1 and so on.")
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind in ("gpu", "cuda") and not has_cuda:
        raise DeviceError(
            "face detection on a GPU needs the package onnxruntime-gpu, and here is only the CPU's",
            "Use --device cpu, or run `pip uninstall onnxruntime` and `pip install onnxruntime-gpu`.",
        )
    if kind != "cpu" and has_cuda:
        return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def in_batches(
    images: Sequence[NDArray[np.uint8]], detect: Callable[[NDArray[np.uint8]], list[list[Face]]], batch_size: int
) -> list[list[Face]]:
    """`detect`, which takes (N, H, W, 3), over images of any sizes: those of one size together."""
    of_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        of_size[image.shape].append(i)
    found: list[list[Face]] = [[] for _ in images]
    for indices in of_size.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            for i, faces in zip(chosen, detect(np.stack([images[i] for i in chosen])), strict=True):
                found[i] = faces
    return found


def to_faces(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    points: NDArray[np.float32],
    max_overlap: float,
) -> list[Face]:
    """Candidates as faces, best first: boxes (N, 4), scores (N,), points (N, 5, 2) in the image's pixels.

    A candidate that overlaps a better one by an IoU above `max_overlap` is the same face.
    """
    kept = suppress(boxes, scores, max_overlap)
    return [
        Face(_floats(boxes[i]), min(1.0, float(scores[i])), tuple((float(x), float(y)) for x, y in points[i]))
        for i in kept
    ]


def _floats(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], max_overlap: float) -> list[int]:
    """Non-maximum suppression: indices of the boxes (N, 4) that no better one overlaps, best first."""
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = boxes[order].T
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    free = np.ones(len(order), dtype=bool)
    kept = []
    for i in range(len(order)):
        if not free[i]:
            continue
        kept.append(int(order[i]))
        width = np.minimum(right[i], right[i + 1 :]) - np.maximum(left[i], left[i + 1 :])
        height = np.minimum(bottom[i], bottom[i + 1 :]) - np.maximum(top[i], top[i + 1 :])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = area[i] + area[i + 1 :] - shared
        free[i + 1 :] &= shared <= max_overlap * np.maximum(union, 1e-9)
    return kept
