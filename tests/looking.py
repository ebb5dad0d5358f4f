"""Pictures and videos to look at, and the rows that came of them; `look` itself is a fixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ecstfl_cli.engine.inference.media_result import MediaResult
from tests.drawn_faces import write_frames

Look = Callable[..., MediaResult]


def picture(path: str, seed: int = 0) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return path


def video(path: str, frames: int = 10, seed: int = 0) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (frames, 48, 48, 3), dtype=np.uint8)
    write_frames(Path(path), list(images))
    return path


def small_batch() -> str:
    """A directory of three pictures and three videos, one of which is no video."""
    for n in range(3):
        picture(f"d/{n}.png", n)
    video("d/b.mp4", seed=7)
    video("d/c.mp4", 6, seed=8)
    Path("d/bad.mp4").write_text("no video")
    return "d"


def table(out: str = "o") -> pd.DataFrame:
    return pd.read_csv(Path(out) / "predictions.csv")
