"""Faces in real pictures: all of them, none where there are none, the same however images are grouped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecstfl_cli.api import Face, FaceCrop
from ecstfl_cli.errors import DataError
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.faces.finding import PHOTO_SIZES, FaceFinder
from ecstfl_cli.media.faces.following import follow_faces
from ecstfl_cli.media.video import VideoFrame, read_video

RealData = Callable[[str], Path]


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(FaceCrop(), "cpu", threads=1)


@pytest.mark.parametrize("sizes", [PHOTO_SIZES, (320, 640)])
def test_all_five_people_are_found_with_their_eyes_in_the_upper_half(real_data: RealData, sizes: tuple[int]) -> None:
    image = read_image(real_data("media") / "multi_face.jpg")
    faces = FaceFinder(FaceCrop(), "cpu", threads=1, sizes=sizes).find([image])[0]
    assert len(faces) == 5
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)
    for face in faces:
        left, top, right, bottom = face.box
        assert face.landmarks is not None
        (x1, y1), (x2, y2), (_, nose), (_, mouth), _ = face.landmarks
        assert left < x1 < x2 < right
        assert top < min(y1, y2) < (top + bottom) / 2 < mouth < bottom
        assert max(y1, y2) < nose < mouth


def test_images_of_several_sizes_together_give_what_each_gives_alone(real_data: RealData, finder: FaceFinder) -> None:
    image = read_image(real_data("media") / "multi_face.jpg")
    frame = next(read_video(real_data("media") / "single_face.mp4")).pixels
    images = [image, frame, np.zeros((40, 30, 3), np.uint8), image[:, ::-1], frame[:, ::-1]]
    together = finder.find(images)
    assert together == [finder.find([i])[0] for i in images]
    assert [len(faces) for faces in together][1:3] == [1, 0]


def test_faces_too_small_for_the_reduced_copy_are_found_in_a_larger_one(real_data: RealData) -> None:
    photo = read_image(real_data("media") / "single_face.jpg")[::6, ::6]
    wide = np.zeros((700, 1600, 3), np.uint8)
    wide[300 : 300 + photo.shape[0], 900 : 900 + photo.shape[1]] = photo
    assert FaceFinder(FaceCrop(), "cpu", threads=1, sizes=(320,)).find([wide]) == [[]]
    (face,) = FaceFinder(FaceCrop(), "cpu", threads=1, sizes=(320, 1600)).find([wide])[0]
    assert 900 < face.box[0] < face.box[2] < 900 + photo.shape[1]


def test_faces_below_the_minimum_score_are_left_out(real_data: RealData) -> None:
    image = read_image(real_data("media") / "single_face.jpg")
    score = FaceFinder(FaceCrop(), "cpu", threads=1).find([image])[0][0].score
    assert FaceFinder(FaceCrop(min_score=score + 0.001), "cpu", threads=1, sizes=(320,)).find([image]) == [[]]


def test_one_person_is_one_track_in_every_frame_and_batches_do_not_matter(
    real_data: RealData, finder: FaceFinder
) -> None:
    frames = list(read_video(real_data("media") / "single_face.mp4"))
    followed = list(follow_faces(iter(frames), finder, batch_size=8))
    assert [frame.index for frame, _ in followed] == list(range(72))
    assert all([face.id for face in faces] == [0] for _, faces in followed)
    for (_, faces), (_, again) in zip(
        followed[:20], follow_faces(iter(frames[:20]), finder, batch_size=3), strict=True
    ):
        assert faces == again


def test_between_detections_faces_are_interpolated(real_data: RealData, finder: FaceFinder) -> None:
    frames = list(read_video(real_data("media") / "single_face.mp4"))[:12]
    followed = list(follow_faces(iter(frames), finder, detect_every=5, batch_size=1))
    kinds = [faces[0].interpolated for _, faces in followed]
    assert kinds == [False, True, True, True, True, False, True, True, True, True, False, False]
    lefts = [faces[0].box[0] for _, faces in followed]
    assert lefts[2] == pytest.approx(lefts[0] + (lefts[5] - lefts[0]) * frames[2].time / frames[5].time)


def test_a_video_without_faces_gives_its_frames_without_faces(finder: FaceFinder) -> None:
    frames = [VideoFrame(k, k / 25, np.full((48, 64, 3), 10 * k, np.uint8)) for k in range(5)]
    assert [(f.index, faces) for f, faces in follow_faces(iter(frames), finder)] == [(k, []) for k in range(5)]


def test_frames_before_damage_come_before_the_error(finder: FaceFinder) -> None:
    frame = VideoFrame(0, 0.0, np.zeros((48, 64, 3), np.uint8))

    def damaged():  # type: ignore[no-untyped-def]
        yield frame
        yield replace(frame, index=1, time=0.04)
        raise DataError("damage")

    followed = follow_faces(damaged(), finder)
    seen = [next(followed)[0].index for _ in range(2)]
    with pytest.raises(DataError, match="damage"):
        next(followed)
    assert seen == [0, 1]


class ScriptedFinder(FaceFinder):
    """Finds a face in the frames that it is told to, by their first pixel; counts what it is asked."""

    def __init__(self, shown: set[int]) -> None:
        self.shown = shown
        self.thorough: list[int] = []

    def find_quickly(self, images):  # type: ignore[no-untyped-def]
        found = [[Face((8, 8, 40, 40), 0.9)] if int(i[0, 0, 0]) in self.shown else [] for i in images]
        return found, [k for k, faces in enumerate(found) if not faces]

    def find_thoroughly(self, image, found):  # type: ignore[no-untyped-def]
        self.thorough.append(int(image[0, 0, 0]))
        return found


def numbered(count: int) -> list[VideoFrame]:
    return [VideoFrame(k, k / 25, np.full((48, 64, 3), k, np.uint8)) for k in range(count)]


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_a_face_that_is_missed_for_a_moment_is_filled_in_and_one_that_has_gone_is_not(batch_size: int) -> None:
    shown = set(range(5, 15)) | set(range(18, 25)) | set(range(40, 45))
    followed = list(follow_faces(numbered(60), ScriptedFinder(shown), batch_size=batch_size))
    assert [frame.index for frame, _ in followed] == list(range(60))
    with_face = {frame.index for frame, faces in followed if faces}
    assert with_face == shown | {15, 16, 17}
    assert {frame.index for frame, faces in followed if faces and faces[0].interpolated} == {15, 16, 17}


def test_without_faces_the_large_search_is_made_now_and_then_only() -> None:
    finder = ScriptedFinder(shown={60})
    list(follow_faces(numbered(100), finder, batch_size=8))
    assert finder.thorough[:12] == list(range(0, 60, 5))
    assert set(range(61, 86)) <= set(finder.thorough)
    assert len([k for k in finder.thorough if k > 86]) <= 3
