"""Tracks: ids hold through motion and gaps, boxes are steadied, large and central faces count for more."""

import numpy as np
import pytest

from ecstfl_cli.api import Face
from ecstfl_cli.media.faces.tracking import FaceTracker, TrackedFace, interpolate, prominence


def face(x: float, y: float = 50, side: float = 40, score: float = 0.9) -> Face:
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), score)


def middle(tracked: TrackedFace) -> float:
    return (tracked.box[0] + tracked.box[2]) / 2


def test_two_faces_keep_their_ids_whatever_the_order_of_detections() -> None:
    tracker = FaceTracker()
    for k in range(20):
        faces = [face(100 + 3 * k), face(400 - 3 * k, score=0.95)]
        tracked = tracker.update(k / 25, faces if k % 2 else faces[::-1])
        assert [t.id for t in tracked] == [0, 1]
        first, second = tracked if middle(tracked[0]) < 250 else tracked[::-1]
        assert abs(middle(first) - (100 + 3 * k)) < 5
        assert abs(middle(second) - (400 - 3 * k)) < 5


@pytest.mark.parametrize("apart", [1.001, 10.0])
def test_where_frames_lie_far_apart_an_id_holds_from_one_to_the_next(apart: float) -> None:
    tracker = FaceTracker()
    ids = [tracker.update(i * apart, [face(100 + i % 3)])[0].id for i in range(5)]
    assert ids == [0] * 5
    assert tracker.update(8 * apart, []) == []
    assert tracker.update(9 * apart, [face(100)])[0].id == 1, "it was away for five frames"


def test_an_id_holds_over_a_short_gap_and_ends_with_a_long_one() -> None:
    tracker = FaceTracker(max_gap=1.0)
    assert tracker.update(0.0, [face(100)])[0].id == 0
    assert tracker.update(0.5, []) == []
    assert tracker.update(0.9, [face(104)])[0].id == 0
    assert tracker.update(2.0, [face(104)])[0].id == 1


def test_a_small_face_that_moves_by_its_size_each_frame_is_followed_by_its_motion() -> None:
    tracker = FaceTracker()
    ids = [tracker.update(k / 25, [face(10 + min(6 * k, 4 * k * k), side=30)])[0].id for k in range(12)]
    fast = [tracker.update(0.48 + k / 25, [face(76 + 25 * k, side=30)])[0].id for k in range(5)]
    assert set(ids + fast) == {0}


def test_a_face_elsewhere_is_another_face() -> None:
    tracker = FaceTracker()
    tracker.update(0.0, [face(100)])
    assert tracker.update(0.04, [face(300)])[0].id == 1


def test_trembling_boxes_are_steadied_and_moving_ones_do_not_lag() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.5, 200)
    tracker = FaceTracker()
    still = [middle(tracker.update(k / 25, [face(100 + noise[k])])[0]) for k in range(200)]
    assert np.abs(np.diff(still)).mean() < 0.5 * np.abs(np.diff(noise)).mean()
    tracker = FaceTracker()
    moving = [middle(tracker.update(k / 25, [face(100 + 4 * k)])[0]) - (100 + 4 * k) for k in range(50)]
    assert np.abs(moving[10:]).max() < 0.15 * 40


def test_without_smoothing_boxes_are_as_detected() -> None:
    tracker = FaceTracker(smoothing=0)
    for k in range(5):
        assert tracker.update(k / 25, [face(100 + 7 * k)])[0].box == face(100 + 7 * k).box


def test_landmarks_are_steadied_with_their_box() -> None:
    tracker = FaceTracker()
    eyes = ((90.0, 45.0), (110.0, 45.0))
    tracked = tracker.update(0.0, [Face((80, 30, 120, 70), 0.9, eyes)])[0]
    assert tracked.landmarks == eyes
    moved = Face((84, 30, 124, 70), 0.9, ((94.0, 45.0), (114.0, 45.0)))
    tracked = tracker.update(0.04, [moved])[0]
    assert tracked.landmarks is not None
    assert tracked.landmarks[0][0] - 90 == pytest.approx(tracked.box[0] - 80)
    assert 80 < tracked.box[0] < 84


def test_interpolated_faces_lie_between_those_that_both_frames_have() -> None:
    before = [TrackedFace(0, (0, 0, 10, 10), 0.9), TrackedFace(1, (50, 0, 60, 10), 0.9)]
    after = [TrackedFace(0, (8, 4, 18, 14), 0.7), TrackedFace(2, (90, 0, 95, 5), 0.9)]
    assert interpolate(before, after, 0.25) == [TrackedFace(0, (2, 1, 12, 11), 0.7, None, interpolated=True)]


def test_a_face_is_prominent_by_its_size_and_by_half_as_much_in_a_corner() -> None:
    def shown(x: float, y: float, side: float) -> float:
        return prominence(face(x, y, side).box, 200, 200)

    assert shown(100, 100, 40) == 40
    assert shown(60, 100, 40) == shown(140, 100, 40) < shown(60, 100, 50)
    assert shown(0, 0, 40) == pytest.approx(20)
