"""Probabilities of a face over time, steadied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# A face that was away for longer starts afresh.
_FORGOTTEN = 2.0


class Smoothing:
    """The exponential mean over time of each face's probs, with a time constant tau of `seconds`.

    At a time dt after the one before, s = s + (1 - exp(-dt / tau)) (p - s); it uses the past alone, so that files and
    streams give the same, and lags by about tau. 0 seconds change nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last: dict[int, tuple[float, NDArray[np.float64]]] = {}

    def __call__(self, face: int, time: float, probs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean (K,) of this face's probs (K,) up to `time` seconds."""
        mean = probs.astype(np.float64)
        if self.seconds > 0:
            before = self._last.get(face)
            if before is not None and time - before[0] <= max(_FORGOTTEN, 4 * self.seconds):
                share = 1 - math.exp(-max(time - before[0], 0.0) / self.seconds)
                mean = before[1] + share * (mean - before[1])
            self._last[face] = time, mean
            if len(self._last) > 1000:  # A crowd that passes a camera for days.
                self._last = dict(list(self._last.items())[-500:])
        return mean
