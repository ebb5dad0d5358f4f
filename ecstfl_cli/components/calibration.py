"""How far probabilities can be believed, and the few numbers that mend most of what is wrong with them.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: one temperature. Alexandari et al., "Maximum
Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", ICML 2020: a bias for each class
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Predictions by confidence: for each bin of (0, 1] its samples, their mean confidence and accuracy (0 to 1)."""

    samples: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1: the mean gap of confidence and accuracy, weighted by samples."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((self.samples * gaps).sum() / max(1, self.samples.sum()))


def reliability(probs: NDArray, target: NDArray[np.int64], bins: int = BINS) -> Reliability:
    """The reliability diagram of probs (N, K) for known targets (N,), in `bins` of equal width."""
    confidence = probs.max(axis=1).astype(np.float64)
    right = probs.argmax(axis=1) == target
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    samples = np.bincount(place, minlength=bins)
    count = np.maximum(samples, 1)
    return Reliability(
        samples,
        np.bincount(place, confidence, bins) / count,
        np.bincount(place, right.astype(np.float64), bins) / count,
    )


def with_temperature(probs: NDArray, temperature: float) -> NDArray[np.float64]:
    """Probs (N, K) as their logits divided by `temperature` give them."""
    return _softmax(_logits(probs) / temperature)


def with_bias(probs: NDArray, bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probs (N, K) as their logits with `bias` (K,) added give them."""
    return _softmax(_logits(probs) + bias)


def _logits(probs: NDArray) -> NDArray[np.float64]:
    return np.log(np.maximum(probs.astype(np.float64), 1e-12))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def negative_log_likelihood(probs: NDArray, target: NDArray[np.int64]) -> float:
    """Mean of -log p of the true class, in nats."""
    return float(-np.log(np.maximum(probs[np.arange(len(target)), target].astype(np.float64), 1e-12)).mean())


def fit_temperature(probs: NDArray, target: NDArray[np.int64]) -> float:
    """The temperature, 0.05 to 20, with the least negative log-likelihood of probs (N, K) for known targets (N,).

    The likelihood has one optimum in 1 / T (it is concave in it): found by golden section, to four digits.
    Raises ValueError where there are no samples.
    """
    if not len(target):
        raise ValueError("no samples to fit a temperature to")
    ratio = (5**0.5 - 1) / 2
    low, high = 1 / 20, 20.0
    while high - low > 1e-5:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        losses = [negative_log_likelihood(with_temperature(probs, 1 / beta), target) for beta in (a, b)]
        low, high = (low, b) if losses[0] < losses[1] else (a, high)
    return 2 / (low + high)


def fit_bias(probs: NDArray, target: NDArray[np.int64]) -> NDArray[np.float64]:
    """The bias (K,), of mean 0, to be added to the logits of probs (N, K) so that classes come as often as they should.

    Fitted together with a temperature, by the least negative log-likelihood of the known targets (N,), which is convex
    in s = 1 / T and s x bias (it is a logistic regression). A class without a sample keeps the bias 0. Raises
    ValueError where there are no samples, or the probs say nothing of the targets.
    """
    from scipy.optimize import minimize

    if not len(target):
        raise ValueError("no samples to fit a bias to")
    classes = probs.shape[1]
    there = np.bincount(target, minlength=classes) > 0
    logits = _logits(probs)
    true = np.eye(classes)[target]

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = _softmax(values[0] * logits + np.where(there, values[1:], 0))
        slope = (found - true) / len(target)
        gradient = np.append((slope * logits).sum(), np.where(there, slope.sum(axis=0), 0))
        return negative_log_likelihood(found, target), gradient

    start = np.append(1.0, np.zeros(classes))
    scale, *shifts = minimize(loss, start, jac=True, method="L-BFGS-B").x
    if scale <= 1e-3:
        raise ValueError("the likelier a class is said to be, the rarer it is")
    bias = np.array(shifts) / scale
    return np.where(there, bias - bias[there].mean(), 0)


def cross_fitted(probs: NDArray, target: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """Probs (N, K), each half scaled by the temperature of the other half, so that none was fitted to itself."""
    order = np.random.default_rng(seed).permutation(len(target))
    scaled = np.empty(probs.shape, dtype=np.float64)
    halves = order[::2], order[1::2]
    for own, other in (halves, halves[::-1]):
        scaled[own] = with_temperature(probs[own], fit_temperature(probs[other], target[other]))
    return scaled
