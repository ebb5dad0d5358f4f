"""What several commands' options share: their choices, and how one is declared."""

from __future__ import annotations

from enum import Enum
from typing import Any

import typer


class Modality(str, Enum):
    """What `--type` takes."""

    img = "img"
    video = "video"


class Device(str, Enum):
    """What `--device` takes."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    cuda = "cuda"
    mps = "mps"


class Precision(str, Enum):
    """What `--precision` takes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Tracker(str, Enum):
    """What `--trackers` takes."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class PackCodec(str, Enum):
    """How packed frames are written; see media.packed.encode."""

    JPEG = "jpeg"
    PNG = "png"
    RAW = "raw"


class PackResize(str, Enum):
    """How packed frames are sized; see engine.preparation.pack.Packing."""

    SHORT = "short"
    STRETCH = "stretch"


class FaceAlign(str, Enum):
    """How face crops lie; see api.FaceCrop."""

    BOX = "box"
    EYES = "eyes"


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option for `Annotated`, in a panel of the command's help."""
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)
