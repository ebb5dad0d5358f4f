"""Frame sampling against the reference release's rules, written out once more as plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from ecstfl_cli.api import FrameSampling
from ecstfl_cli.components.sampling import evaluation_indices, training_indices

RELEASE = FrameSampling("segments", segments=8, duration=2)


def release_test_indices(n: int) -> list[int]:
    offsets = [int((n - 1) / 8 / 2 + (n - 1) / 8 * k) if n > 9 else 0 for k in range(8)]
    return [index for p in offsets for index in (p, p + 1 if p < n - 1 else p)]


@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 11, 16, 17, 30, 97, 400])
def test_evaluation_takes_the_frames_that_the_release_takes(n: int) -> None:
    assert evaluation_indices(RELEASE, n).tolist() == release_test_indices(n)


def test_sixteen_known_indices_of_a_thirty_frame_clip() -> None:
    assert evaluation_indices(RELEASE, 30).tolist() == [1, 2, 5, 6, 9, 10, 12, 13, 16, 17, 19, 20, 23, 24, 27, 28]


@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 17, 30, 97])
def test_training_draws_each_offset_from_its_own_run_of_frames(n: int) -> None:
    average = (n - 1) // 8
    seen = [set() for _ in range(8)]
    for seed in range(200):
        indices = training_indices(RELEASE, n, np.random.default_rng(seed))
        first, second = indices[0::2], indices[1::2]
        assert (second == np.minimum(first + 1, n - 1)).all()
        for k, offset in enumerate(first):
            seen[k].add(int(offset))
    for k in range(8):
        allowed = set(range(k * average, k * average + average)) if average > 0 else {0}
        assert seen[k] == allowed


def test_training_draws_repeat_with_their_generator_and_differ_between_seeds() -> None:
    draws = [training_indices(RELEASE, 100, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_uniform_sampling_takes_the_middles_of_equal_parts() -> None:
    uniform = FrameSampling("uniform", frames=4)
    assert evaluation_indices(uniform, 8).tolist() == [1, 3, 5, 7]
    assert evaluation_indices(uniform, 100).tolist() == [12, 37, 62, 87]


@pytest.mark.parametrize("n", [1, 3, 7, 50])
def test_uniform_sampling_stays_inside_the_clip_and_in_order(n: int) -> None:
    uniform = FrameSampling("uniform", frames=6)
    for indices in (evaluation_indices(uniform, n), training_indices(uniform, n, np.random.default_rng(0))):
        assert len(indices) == 6
        assert indices.min() >= 0
        assert indices.max() < n
        assert (np.diff(indices) >= 0).all()
