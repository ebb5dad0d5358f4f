"""Device, precision, seed and environment of a workflow."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecstfl_cli import __version__
from ecstfl_cli.engine.processes import cores
from ecstfl_cli.errors import DeviceError

CHECKOUT = Path(__file__).resolve().parents[2]
DEVICES = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "safetensors")


def resolve_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `gpu`, `cuda` or `mps`. Raises DeviceError where the machine has none."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise DeviceError(f"unknown device {name!r}", f"Allowed: {', '.join(DEVICES)}")
    has_mps = torch.backends.mps.is_available()
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
        return torch.device(kind)
    if kind in ("gpu", "cuda"):
        if torch.cuda.is_available():
            return torch.device(name if kind == "cuda" else "cuda")
        if kind == "gpu" and has_mps:
            return torch.device("mps")
        raise DeviceError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees no GPU",
            "Use --device cpu, or install a torch build for your GPU.",
        )
    if kind == "mps" and not has_mps:
        raise DeviceError("device 'mps' was asked for, but torch sees no Apple GPU", "Use --device cpu.")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16` for `auto`: half precision only where the machine runs it fast.

    Raises DeviceError for a name that is none of these, and for fp16 on a CPU, which has no loss scaling to speak of.
    """
    if name not in PRECISIONS:
        raise DeviceError(f"unknown precision {name!r}", f"Allowed: {', '.join(PRECISIONS)}")
    if name == "auto":
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # of `accelerate launch --mixed_precision`
        if asked in ("bf16", "fp16"):
            return resolve_precision(asked, device)
        if device.type == "cuda":
            generation = torch.cuda.get_device_capability(device)[0]
            return "bf16" if generation >= 8 else "fp16" if generation >= 7 else "fp32"
        return "fp32"
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16 needs a GPU", "Use --precision fp32, or bf16 where the CPU has it.")
    return name


def resolve_parallel(name: str) -> str:
    """`ddp` or `fsdp`: what the recipe says, or `accelerate launch --use_fsdp`."""
    return "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" else name


def slow_precision(precision: str, device: torch.device) -> str:
    """A warning where the machine emulates a precision, else an empty string."""
    if precision != "bf16" or device.type != "cpu":
        return ""
    found = (
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    if any(found):
        return ""
    return "this CPU has no bf16 instructions: a step may take a hundred times as long as with --precision fp32"


def loader_workers(wanted: int | str, device: torch.device, processes: int = 1) -> int:
    """Worker processes of a loader, where `processes` train on this machine; no more than it has cores.

    `auto`: half of the cores that this process may use, at most 4, where they compute, too; all but one, at most 16,
    where a GPU does.
    """
    own = max(1, cores() // processes)
    if isinstance(wanted, int):
        return min(wanted, cores())
    return min(4, max(1, own // 2)) if device.type == "cpu" else min(16, max(1, own - 1))


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch; data order and augmentation have generators of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def use_channels_last(network: nn.Module) -> None:
    """Lay convolution weights out channels-last, in place: the same results, faster convolutions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])


class _Fp32Conv2d(nn.Conv2d):
    """A convolution that computes in fp32 under autocast, too."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_depthwise_in_fp32(network: nn.Module) -> None:
    """Let depthwise convolutions compute in fp32 under autocast, in place.

    On CPUs they gain nothing from bf16, and their gradients take several times as long in it.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and 1 < module.groups == module.in_channels:
            module.__class__ = _Fp32Conv2d


def library_versions() -> dict[str, str]:
    """Versions of ecstfl, Python and the libraries that results depend on."""
    found = {"ecstfl": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # It says the build as well (+cu132, +cpu).
    return found | {"torch": str(torch.__version__)}


def environment(device: torch.device) -> dict[str, Any]:
    """What a run was made with: versions, machine, device, command line, and the git state of the working folder and of
    this program, where it runs from a checkout.
    """
    return {
        "versions": library_versions(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "git": _git_state(Path.cwd()),
        "code": _git_state(CHECKOUT) if (CHECKOUT / ".git").exists() else None,
    }


def _git_state(folder: Path) -> dict[str, Any] | None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed_files": git("status", "--porcelain").splitlines()}
    except (OSError, subprocess.SubprocessError):
        return None
