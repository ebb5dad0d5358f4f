"""Probabilities over time are steadied, face by face."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from ecstfl_cli.engine.inference.smoothing import Looked, smoothed
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.faces.tracking import TrackedFace
from ecstfl_cli.media.video import VideoFrame

A, B = (1.0, 0.0), (0.0, 1.0)


def frames(*seen: tuple[float, Mapping[int, Sequence[float]]]) -> Iterator[Looked]:
    """Frames at these times with the probs of each face id."""
    for index, (time, probs) in enumerate(seen):
        faces = [TrackedFace(id, (0, 0, 1, 1), 1.0) for id in probs]
        frame = VideoFrame(index, time, np.empty((0, 0, 3), np.uint8))
        yield frame, faces, np.array(list(probs.values()), np.float32).reshape(-1, 2)


def second(looked: Iterator[Looked]) -> dict[float, list[float]]:
    """Time of each frame to the probability of the second class of each face in it."""
    return {frame.time: [row[1] for row in probs.tolist()] for frame, _, probs in looked}


def a_change_at_one_second(fps: int) -> Iterator[Looked]:
    return frames(*((k / fps, {0: A if k < fps else B}) for k in range(2 * fps)))


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_of_a_file_a_change_shows_when_it_happens(fps: int) -> None:
    means = second(smoothed(a_change_at_one_second(fps), 0.3))
    assert list(means) == [k / fps for k in range(2 * fps)]
    shown = [mean for (mean,) in means.values()]
    assert (np.diff(shown) > -1e-9).all(), "no overshoot"
    assert shown[fps - 1] < 0.5 < shown[fps]
    assert shown[fps - 2] == pytest.approx(1 - shown[fps + 1], abs=0.01), "as early as late"
    assert shown[0] < 0.01
    assert shown[-1] > 0.99


@pytest.mark.parametrize("seconds", [0.3, 1, 2, 4])
def test_a_change_is_not_late_however_long_the_mean(seconds: float) -> None:
    fps = 30
    means = second(smoothed(frames(*((k / fps, {0: A if k < 10 * fps else B}) for k in range(20 * fps))), seconds))
    first = next(time for time, (mean,) in means.items() if mean > 0.5)
    assert first == pytest.approx(10, abs=1.5 / fps)


def test_of_a_live_source_a_step_is_followed_with_the_time_constant() -> None:
    steps = ((0.0, {0: A}), *((k / 100, {0: B}) for k in range(1, 51)))
    (*_, (_, _, probs)) = smoothed(frames(*steps), 0.5, live=True)
    assert probs[0, 1] == pytest.approx(1 - math.exp(-1), abs=1e-6)
    assert probs.sum() == pytest.approx(1)


def test_a_live_frame_does_not_wait_for_another() -> None:
    read = []

    def camera() -> Iterator[Looked]:
        for k, looked in enumerate(frames(*((k / 10, {0: A}) for k in range(5)))):
            read.append(k)
            yield looked

    for k, _ in enumerate(smoothed(camera(), 0.3, live=True)):
        assert read == list(range(k + 1))


def test_files_and_live_sources_are_steadied_as_much() -> None:
    noise = np.random.default_rng(0).random(3000)
    spread = []
    for live in (False, True):
        seen = frames(*((k / 30, {0: (1 - p, p)}) for k, p in enumerate(noise)))
        spread.append(np.std([mean for (mean,) in second(smoothed(seen, 0.3, live=live)).values()]))
    assert spread[0] == pytest.approx(spread[1], rel=0.1)
    assert spread[0] < 0.35 * noise.std()


def test_few_frames_wait_however_far_the_mean_reaches() -> None:
    ahead = 0

    def film() -> Iterator[Looked]:
        nonlocal ahead
        for looked in frames(*((k / 100, {0: A}) for k in range(500))):
            ahead += 1
            yield looked

    for k, _ in enumerate(smoothed(film(), 60.0)):
        assert ahead - k <= 34
    assert k == 499


@pytest.mark.parametrize("live", [False, True])
def test_faces_are_kept_apart_and_a_long_absence_starts_afresh(live: bool) -> None:
    seen = frames((0.0, {0: A}), (0.01, {1: B}), (0.02, {}), (10.0, {1: A, 0: B}))
    means = second(smoothed(seen, 0.3, live=live))
    assert {time: np.round(mean, 6).tolist() for time, mean in means.items()} == {
        0: [0],
        0.01: [1],
        0.02: [],
        10: [0, 1],
    }


@pytest.mark.parametrize("live", [False, True])
def test_no_smoothing_changes_nothing(live: bool) -> None:
    assert second(smoothed(frames((0.0, {0: A}), (0.01, {0: B})), 0, live=live)) == {0.0: [0], 0.01: [1]}


def test_frames_before_damage_come_before_its_error() -> None:
    def damaged() -> Iterator[Looked]:
        yield from frames((0.0, {0: A}), (0.1, {0: A}))
        raise DataError("a.mp4 is damaged")

    seen = smoothed(damaged(), 0.3)
    assert [next(seen)[0].time, next(seen)[0].time] == [0.0, 0.1]
    with pytest.raises(DataError, match="damaged"):
        next(seen)
