"""Sliding windows of a face's crops for models of clips."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from ecstfl_cli.api import FrameSampling, InputSpec
from ecstfl_cli.engine.inference.face_windows import FaceWindows, Window, WindowProbs
from ecstfl_cli.media.faces.tracking import TrackedFace
from ecstfl_cli.media.video import VideoFrame

SPEC = InputSpec("video", 4, FrameSampling("uniform", frames=4))
NOTHING = np.empty((0, 0, 3), np.uint8)


def windows_of(
    presence: Mapping[int, range], n: int, seconds: float, stride: float, fps: float = 10
) -> tuple[list[Window], list[int]]:
    """Windows of `n` frames in which face `id` is there in `presence[id]`; crops hold the frame's index."""
    windows = FaceWindows(SPEC, seconds, stride)
    found: list[Window] = []
    settled = []
    for index in range(n):
        ids = [id for id, frames in presence.items() if index in frames]
        faces = [TrackedFace(id, (0, 0, 1, 1), 1.0) for id in ids]
        crops = np.full((len(ids), 4, 4, 3), index, np.uint8)
        windows.add(VideoFrame(index, index / fps, NOTHING), faces, crops)
        found += windows.take()
        settled.append(windows.settled)
    windows.finish()
    return found + windows.take(), settled


def spans(windows: list[Window]) -> list[tuple[int, int, int]]:
    return [(window.face.id, window.frame.index, window.frames) for window in windows]


def test_a_face_gives_a_window_every_stride_about_its_middle_frame() -> None:
    found, _ = windows_of({0: range(31)}, 31, seconds=1.0, stride=0.5)
    assert spans(found) == [(0, 5, 11), (0, 10, 11), (0, 15, 11), (0, 20, 11), (0, 25, 11)]
    assert all(window.clip.shape == (4, 4, 4, 3) for window in found)
    assert found[0].clip[:, 0, 0, 0].tolist() == [1, 4, 6, 9]


def test_a_stride_longer_than_a_window_leaves_frames_out() -> None:
    found, _ = windows_of({0: range(41)}, 41, seconds=1.0, stride=2.0)
    assert spans(found)[:2] == [(0, 5, 11), (0, 25, 11)]


def test_a_short_run_gives_one_window_and_a_long_one_a_last_one() -> None:
    assert spans(windows_of({3: range(6)}, 6, 1.0, 0.5)[0]) == [(3, 3, 6)]
    found, _ = windows_of({0: range(15)}, 15, 1.0, 0.5)
    assert spans(found)[0] == (0, 5, 11)
    assert len(found) == 2
    assert found[1].frame.index + found[1].frames // 2 >= 13, "the end of the run is seen"


def test_faces_have_windows_of_their_own_and_a_gap_starts_a_new_run() -> None:
    found, _ = windows_of({0: range(12), 1: range(4, 16)}, 20, 1.0, 1.0)
    assert {window.face.id for window in found} == {0, 1}
    for window in found:
        assert len(set(window.clip[:, 0, 0, 0].tolist())) == 4


def test_a_window_never_has_its_middle_before_what_was_settled() -> None:
    windows = FaceWindows(SPEC, 1.0, 0.3)
    generator = np.random.default_rng(0)
    settled = 0
    for index in range(200):
        faces = [TrackedFace(id, (0, 0, 1, 1), 1.0) for id in range(3) if generator.random() < 0.9]
        windows.add(VideoFrame(index, index / 10, NOTHING), faces, np.zeros((len(faces), 4, 4, 3), np.uint8))
        assert all(window.frame.index >= settled for window in windows.take())
        settled = windows.settled
    assert settled > 150, "frames do not wait for ever"


def test_a_frame_shows_each_faces_last_window_or_its_first_one_and_none_of_an_earlier_stay() -> None:
    def window(id: int, middle: int) -> Window:
        return Window(NOTHING, VideoFrame(middle, middle / 10, NOTHING), TrackedFace(id, (0, 0, 1, 1), 1.0), 5)

    told = WindowProbs()
    for id, middle in ((0, 3), (1, 3), (0, 6), (1, 11), (0, 14)):
        told.add(window(id, middle), np.array([middle], np.float32))
    shown = []
    for index in range(16):
        ids = [0, 1] if not 7 <= index <= 8 else [0]  # The second face is away, and comes back with a new run.
        found = told.at(index, [TrackedFace(id, (0, 0, index, 1), 1.0) for id in ids])
        assert all(face.box[2] == index for face, _, _ in found)
        shown.append([int(probs[0]) for _, _, probs in found])
    assert shown[:7] == [[3, 3]] * 6 + [[6, 3]]
    assert shown[7:9] == [[6]] * 2
    assert shown[9:] == [[6, 11]] * 5 + [[14, 11]] * 2


@pytest.mark.parametrize("fps", [5, 24, 60])
def test_a_window_has_as_many_frames_as_the_sampling_takes(fps: float) -> None:
    found, _ = windows_of({0: range(90)}, 90, seconds=0.2, stride=0.1, fps=fps)
    assert min(window.frames for window in found) >= 4
