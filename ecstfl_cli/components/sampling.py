"""Frame sampling: which frames of a clip are read. Indices count from 0; a clip has n frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecstfl_cli.api import FrameSampling


def evaluation_indices(sampling: FrameSampling, n: int) -> NDArray[np.int64]:
    """The T frame indices of evaluation and inference; the same every time.

    `segments` follows the reference release: with more than segments + duration - 1 frames, offset k is the middle of
    the k-th of `segments` ticks of (n - duration + 1) / segments frames, else every offset is 0. `uniform` takes the
    middle of each of `frames` equal parts.
    """
    if sampling.scheme == "uniform":
        return _uniform(n, sampling.frames, np.full(sampling.frames, 0.5))
    offsets = np.zeros(sampling.segments, dtype=np.int64)
    if n > sampling.segments + sampling.duration - 1:
        tick = (n - sampling.duration + 1) / sampling.segments
        offsets = np.array([int(tick / 2 + tick * k) for k in range(sampling.segments)], dtype=np.int64)
    return _expand(offsets, sampling.duration, n)


def training_indices(sampling: FrameSampling, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The T frame indices of one training view, drawn from `generator`.

    `segments` follows the reference release: offset k is uniform in the k-th run of (n - duration + 1) // segments
    frames; where such a run is empty every offset is 0. `uniform` draws one frame from each of `frames` equal parts.
    """
    if sampling.scheme == "uniform":
        return _uniform(n, sampling.frames, generator.random(sampling.frames))
    offsets = np.zeros(sampling.segments, dtype=np.int64)
    average = (n - sampling.duration + 1) // sampling.segments
    if average > 0:
        offsets = np.arange(sampling.segments) * average + generator.integers(average, size=sampling.segments)
    return _expand(offsets, sampling.duration, n)


def _uniform(n: int, frames: int, position: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum(((np.arange(frames) + position) * n / frames).astype(np.int64), n - 1)


def _expand(offsets: NDArray[np.int64], duration: int, n: int) -> NDArray[np.int64]:
    return np.minimum(offsets[:, None] + np.arange(duration), n - 1).reshape(-1)
