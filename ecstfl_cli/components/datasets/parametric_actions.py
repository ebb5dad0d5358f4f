"""What a face does in a clip: FACS action units over time, for the seven basic expressions of DFEW.

The prototypes are those of Ekman, Friesen and Hager, Facial Action Coding System: Investigator's Guide (2002), the
table of emotion predictions, and EMFACS. People differ, so intensities vary strongly, units drop out, some clips are
weak, and all faces blink and some talk, whatever they express.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ecstfl_cli.components.datasets.parametric_subject import Array

BLINK = 45
# Variants of each expression; an intensity of 1 is FACS level E.
PROTOTYPES: dict[str, tuple[dict[int, float], ...]] = {
    "happy": ({6: 0.8, 12: 0.9}, {6: 0.8, 12: 0.95, 25: 0.8}, {12: 0.9, 25: 0.6}, {6: 0.9, 12: 1.0, 25: 0.9, 26: 0.4}),
    "sad": ({1: 0.8, 4: 0.6, 15: 0.8}, {1: 0.9, 4: 0.6, 15: 0.8, 17: 0.8}, {1: 0.8, 4: 0.7, 15: 0.4, 17: 0.7}),
    "angry": (
        {4: 0.95, 5: 0.5, 7: 0.8, 23: 0.8},
        {4: 0.95, 5: 0.5, 7: 0.8, 24: 0.8},
        {4: 0.9, 7: 0.8, 17: 0.6, 24: 0.7},
        {4: 0.9, 5: 0.6, 7: 0.7, 10: 0.5, 23: 0.4, 25: 0.7, 26: 0.4},
    ),
    "surprise": (
        {1: 0.9, 2: 0.9, 5: 0.7, 25: 0.7, 26: 0.9},
        {1: 0.9, 2: 0.9, 5: 0.8, 25: 0.8, 27: 0.7},
        {1: 0.9, 2: 0.9, 5: 0.6},
    ),
    "disgust": (
        {9: 0.9, 15: 0.6, 17: 0.6},
        {9: 0.9, 10: 0.5, 16: 0.6, 25: 0.6},
        {10: 0.9, 15: 0.5, 17: 0.7},
        {4: 0.4, 9: 0.9, 10: 0.6, 17: 0.6},
    ),
    "fear": (
        {1: 0.9, 2: 0.6, 4: 0.7, 5: 0.9, 20: 0.8, 25: 0.7, 26: 0.4},
        {1: 0.9, 2: 0.6, 4: 0.7, 5: 0.8, 7: 0.4, 20: 0.9, 25: 0.5},
        {1: 0.8, 2: 0.6, 4: 0.7, 5: 0.9, 25: 0.7, 26: 0.5},
    ),
    "neutral": ({},),
}
# Frames from rest to apex: surprise is quick, sadness slow.
ONSET_FRAMES = {"surprise": (1.5, 3.5), "fear": (2.0, 5.0), "sad": (4.0, 8.0)}
DROPPED = 0.12
WEAK_CLIPS = 0.15
LATE_CLIPS = 0.25
STRAY_UNITS = (1, 2, 4, 5, 7, 10, 12, 15, 17, 20, 24)
SYLLABLES = (
    {25: 0.7, 26: 0.5},
    {25: 0.5, 26: 0.2},
    {18: 0.8, 25: 0.4},
    {20: 0.35, 25: 0.6},
    {24: 0.4},
    {16: 0.4, 25: 0.5},
)


def sample_actions(rng: np.random.Generator, expression: str, frames: int) -> dict[int, Array]:
    """Intensity over time, (frames,) in 0..1, of each action unit that moves in one clip of `expression`."""
    curves: list[tuple[int, Array]] = []
    variants = PROTOTYPES[expression]
    units = {unit: level for unit, level in variants[rng.integers(len(variants))].items() if rng.random() > DROPPED}
    strength = rng.uniform(0.3, 0.6) if rng.random() < WEAK_CLIPS else rng.uniform(0.75, 1.15)
    start, onset, end, offset = _timing(rng, frames, *ONSET_FRAMES.get(expression, (2.5, 6.0)))
    for unit, level in units.items():
        jitter = rng.normal(0, 0.8, 2)
        curve = _rise(start + jitter[0], onset * rng.uniform(0.8, 1.25), frames)
        curve = curve * (1 - _rise(end + jitter[1], offset, frames))
        curves.append((unit, level * strength * rng.uniform(0.6, 1.15) * curve))
    curves.extend(_distractors(rng, frames, talks=rng.random() < (0.6 if expression == "neutral" else 0.2)))
    return _combined(curves)


def _timing(
    rng: np.random.Generator, frames: int, quickest: float, slowest: float
) -> tuple[float, float, float, float]:
    """Start of the onset, its length, start of the offset, its length, in frames; the apex lies in the clip."""
    onset = rng.uniform(quickest, slowest)
    latest = max(0.0, frames - onset - 2)
    start = rng.uniform(0.35, 0.65) * frames if rng.random() < LATE_CLIPS else rng.uniform(-0.1, 0.3) * frames
    start = min(start, latest)
    kind = rng.random()
    if kind < 0.4:
        end = 2.0 * frames
    elif kind < 0.78:
        end = start + onset + rng.uniform(0.3, 0.6) * frames
    elif kind < 0.88:
        end = start + onset + rng.uniform(1, 4)
    else:
        start, end = -2 * onset, rng.uniform(0.3, 0.7) * frames
    return start, onset, end, rng.uniform(1, 1.8) * onset


def _rise(start: float, length: float, frames: int) -> Array:
    """0 before `start`, 1 after `start + length`, smooth between, (frames,)."""
    s = np.clip((np.arange(frames) - start) / length, 0, 1)
    return s * s * (3 - 2 * s)


def _pulse(at: float, half_width: float, frames: int) -> Array:
    return np.exp(-(((np.arange(frames) - at) / half_width) ** 2))


def _distractors(rng: np.random.Generator, frames: int, talks: bool) -> Iterable[tuple[int, Array]]:
    """Movements that say nothing about the expression: blinks, speech with raised brows, a stray action unit."""
    for _ in range(rng.poisson(frames / 22)):
        yield BLINK, _pulse(rng.uniform(0, frames), rng.uniform(0.8, 1.4), frames)
    if talks:
        loudness, at, last = rng.uniform(0.3, 0.75), rng.uniform(0, 4), rng.uniform(0.5, 1) * frames
        while at < last:
            for unit, level in SYLLABLES[rng.integers(len(SYLLABLES))].items():
                yield unit, loudness * level * rng.uniform(0.5, 1.2) * _pulse(at, rng.uniform(1, 2), frames)
            at += rng.uniform(2, 4.5)
        if rng.random() < 0.4:
            flash = rng.uniform(0.15, 0.5) * _pulse(rng.uniform(0, frames), rng.uniform(2, 5), frames)
            yield from ((1, flash), (2, flash))
    if rng.random() < 0.4:
        stray = rng.uniform(0.1, 0.35) * _pulse(rng.uniform(0, frames), rng.uniform(2, 10), frames)
        yield int(rng.choice(STRAY_UNITS)), stray


def _combined(curves: Iterable[tuple[int, Array]]) -> dict[int, Array]:
    """One curve a unit: where two causes move the same muscle, the stronger one shows."""
    actions: dict[int, Array] = {}
    for unit, curve in curves:
        actions[unit] = np.clip(np.maximum(actions.get(unit, 0.0), curve), 0, 1)
    return actions
