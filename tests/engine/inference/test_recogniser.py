"""The recogniser: pictures, frames and videos in, one row for each face and frame out."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli import Recogniser
from ecstfl_cli.engine.inference.recogniser import Seen
from ecstfl_cli.engine.inference.results import columns
from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.media.video import VideoFrame
from tests.media.test_video import write_video
from tests.small_model import save_small_model


@pytest.fixture
def recogniser(tmp_path: Path) -> Callable[..., Recogniser]:
    """A recogniser with a small untrained model for stills, or for clips."""

    def make(modality: str = "img", **options: object) -> Recogniser:
        path = save_small_model(tmp_path / f"{modality}.safetensors", modality)  # type: ignore[arg-type]
        return Recogniser(path, device="cpu", **{"faces": False, **options})  # type: ignore[arg-type]

    return make


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_a_picture_that_is_a_face_gives_one_row_over_all_of_it(recogniser: Callable) -> None:
    results = recogniser().images([noise(40, 60)])
    (row,) = results
    assert (row.source, row.frame, row.time, row.face, row.score, row.frames) == ("image 0", 0, 0.0, 0, 1.0, 1)
    assert row.box == (0, 0, 60, 40)
    assert sum(row.probs) == pytest.approx(1, abs=1e-5)
    assert len(row.probs) == len(results.labels)


def test_files_arrays_and_pillow_images_of_the_same_pixels_give_the_same(recogniser: Callable, tmp_path: Path) -> None:
    pixels = noise(50, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rows = recogniser().images([tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels)])
    assert [row.source for row in rows] == [str(tmp_path / "a.png")] * 2 + ["image 2", "image 3"]
    assert len({row.probs for row in rows}) == 1


def test_a_single_picture_needs_no_list(recogniser: Callable, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    look = recogniser()
    (listed,) = look.images([pixels])
    for one in (str(path), path, pixels, Image.open(path)):
        (result,) = look.images(one)
        assert result.probs == pytest.approx(listed.probs, abs=1e-6)
    assert [result.source for result in look.images([pixels, path, Image.open(path)])] == [
        "image 0",
        str(path),
        "image 2",
    ]


def test_a_table_without_rows_has_the_types_of_one_with_rows(recogniser: Callable) -> None:
    look = recogniser()
    full, empty = look.images(np.zeros((40, 40, 3), np.uint8)), look.images([])
    assert not empty
    kinds = {name: kind.kind for name, kind in full.to_dataframe().dtypes.items()}
    assert {name: kind.kind for name, kind in empty.to_dataframe().dtypes.items()} == kinds


def test_flip_looks_at_the_mirror_image_too(recogniser: Callable) -> None:
    pixels = noise(48, 48)
    plain, mirrored = (row.probs for row in recogniser().images([pixels, pixels[:, ::-1]]))
    (both,) = recogniser(flip=True).images([pixels])
    assert plain != pytest.approx(mirrored, abs=1e-2)
    assert both.probs == pytest.approx((np.array(plain) + np.array(mirrored)) / 2, abs=1e-5)


def test_arrays_that_run_backwards_are_taken(recogniser: Callable) -> None:
    bgr = noise(48, 48)
    turned, copied = bgr[..., ::-1], bgr[..., ::-1].copy()
    one = recogniser()
    assert one.images([turned])[0].probs == one.images([copied])[0].probs
    assert [row.probs for row in one.frames([turned] * 3)] == [row.probs for row in one.frames([copied] * 3)]
    assert (one.probs(turned[None]) == one.probs(copied[None])).all()


def test_a_frame_that_is_no_picture_is_named(recogniser: Callable) -> None:
    with pytest.raises(DataError, match=r"frame 0 is an array \(5, 5, 2\)"):
        recogniser().frames([np.zeros((5, 5, 2), np.uint8)])


def test_a_grey_array_is_a_picture_and_bytes_are_refused_once(recogniser: Callable) -> None:
    grey = noise(30, 40)[..., 0]
    one = recogniser()
    assert one.images(grey)[0].probs == one.images(np.stack([grey] * 3, -1))[0].probs
    with pytest.raises(DataError, match="image 0 is bytes"):
        one.images(b"a file's content")


def test_frames_need_a_rate_and_none_are_said_to_be_none(recogniser: Callable) -> None:
    with pytest.raises(EcstflError, match="fps is 0"):
        recogniser().frames([noise(30, 40)], fps=0)
    (problem,) = recogniser().frames([]).problems
    assert problem.text == "has no frames"


def test_batches_do_not_change_the_result(recogniser: Callable) -> None:
    images = [noise(30 + n, 40, seed=n) for n in range(40)]
    whole, single = recogniser(batch_size=32).images(images), recogniser(batch_size=1).images(images)
    for a, b in zip(whole, single, strict=True):
        assert a.probs == pytest.approx(b.probs, abs=1e-5)


def test_tiny_squares_are_faces_already_and_other_pictures_are_searched(recogniser: Callable) -> None:
    automatic = recogniser(faces="auto")
    assert [row.box for row in automatic.images([noise(48, 48)])] == [(0, 0, 48, 48)]
    assert not automatic.images([noise(1, 1)]), "nor is a spacer of a web page a face"
    searched = automatic.images([np.zeros((240, 320, 3), np.uint8)])
    assert not searched
    assert searched.problems == [("image 0", "no face was found")]


def test_one_bad_image_of_many_is_a_problem_and_a_single_one_an_error(recogniser: Callable, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    results = recogniser().images([noise(20, 20), tmp_path / "bad.jpg", noise(20, 20)])
    assert [row.source for row in results] == ["image 0", "image 2"]
    ((source, text),) = results.problems
    assert source.endswith("bad.jpg")
    assert "is not an image" in text
    with pytest.raises(DataError, match=r"bad\.jpg"):
        recogniser().images([tmp_path / "bad.jpg"])
    with pytest.raises(DataError, match="uint8 RGB"):
        recogniser().images([np.zeros((5, 5), np.float32)])


def test_a_video_gives_a_row_for_each_frame_with_its_time(recogniser: Callable, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [k / 30 for k in range(36)])
    rows = recogniser().video(path)
    assert [row.frame for row in rows] == list(range(36))
    assert [row.time for row in rows] == pytest.approx([k / 30 for k in range(36)], abs=1e-3)
    assert [row.frame for row in recogniser(every=5).video(path)] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert len(recogniser(fps=10).video(path)) == 12
    assert not rows.problems


def test_probabilities_of_a_video_are_smoothed_and_those_of_the_same_pictures_are_not(recogniser: Callable) -> None:
    frames = [noise(32, 32, seed=n) for n in range(20)]
    raw = np.array([row.probs for row in recogniser().images(frames)])
    off = np.array([row.probs for row in recogniser(smoothing=0).frames(frames, fps=25)])
    smooth = np.array([row.probs for row in recogniser(smoothing=0.3).frames(frames, fps=25)])
    assert off == pytest.approx(raw, abs=1e-5)
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.3 * np.abs(np.diff(raw, axis=0)).mean()
    weights = np.exp(-0.04 * np.abs(np.arange(20) - 10) / 0.15)
    assert smooth[10] == pytest.approx(weights @ raw / weights.sum(), abs=5e-3)


def test_a_model_of_clips_sees_windows(recogniser: Callable) -> None:
    frames = [noise(32, 32, seed=n) for n in range(41)]
    rows = recogniser("video", window=1.0, stride=0.5).frames(frames, fps=10)
    assert [(row.frame, row.frames) for row in rows] == [(5 * k, 11) for k in range(1, 8)]
    assert [row.time for row in rows] == pytest.approx([0.5 * k for k in range(1, 8)])
    (short,) = recogniser("video").frames(frames[:3], fps=10)
    assert short.frames == 3


def timed(frames: list[np.ndarray]) -> Iterator[VideoFrame]:
    """Frames of a video with ten a second."""
    return (VideoFrame(i, i / 10, pixels) for i, pixels in enumerate(frames))


def test_frames_of_a_model_of_clips_come_once_each_and_in_order(recogniser: Callable) -> None:
    frames = [noise(32, 32, seed=n) for n in range(50)]
    seen = recogniser("video").see_frames(timed(frames), "x")
    order = [(frame.index, [row.frame for row in rows]) for frame, rows, _ in seen]
    assert [index for index, _ in order] == list(range(50))
    assert all(row == index for index, rows in order for row in rows)
    assert sum(len(rows) for _, rows in order) > 5


def test_frames_between_windows_have_their_faces_with_the_probs_of_the_window_before(recogniser: Callable) -> None:
    frames = [noise(32, 32 + index, seed=index) for index in range(24)]  # A face whose box changes all the time.
    seen = list(recogniser("video", faces=False, window=1.0, stride=0.5).see_frames(timed(frames), "x"))
    windows = [row for one in seen for row in one.results]
    assert [row.frame for row in windows] == [5, 10, 15, 19]
    shown = [face for one in seen for face in one.faces]
    assert [face.frame for face in shown] == list(range(24)), "one in each frame"
    assert [face.box[2] for face in shown] == list(range(32, 56)), "at its place in this frame"
    before = [max(0, sum(row.frame <= face.frame for row in windows) - 1) for face in shown]
    assert [face.probs for face in shown] == [windows[k].probs for k in before]
    assert all(one.faces == one.results for one in recogniser(faces=False).see_frames(timed(frames), "x"))


def test_what_was_read_before_damage_is_looked_at_by_a_model_of_clips_too(recogniser: Callable) -> None:
    def damaged() -> Iterator[VideoFrame]:
        yield from timed([noise(32, 32, seed=n) for n in range(14)])
        raise DataError("the rest is gone")

    seen: list[Seen] = []
    with pytest.raises(DataError, match="the rest is gone"):
        seen.extend(recogniser("video", window=1.0, stride=0.5).see_frames(damaged(), "x"))
    assert [one.frame.index for one in seen] == list(range(14))
    assert [row.frame for one in seen for row in one.results] == [5, 9]


def test_a_folder_of_frames_and_an_animated_image_are_videos(recogniser: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for n in range(12):
        Image.fromarray(noise(20, 20, seed=n)).save(folder / f"{n + 1}.png")
    rows = recogniser().video(folder)
    assert [row.frame for row in rows] == list(range(12))
    assert rows[11].time == pytest.approx(11 / 25)
    images = [Image.fromarray(noise(20, 20, seed=n)) for n in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 200, 300, 400], loop=0)
    rows = recogniser().video(tmp_path / "a.gif")
    assert [row.time for row in rows] == pytest.approx([0, 0.1, 0.3, 0.6])


def test_a_truncated_video_keeps_its_rows_and_an_unreadable_one_is_an_error(
    recogniser: Callable, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.avi", [k / 30 for k in range(40)], size=(320, 240))
    cut = tmp_path / "cut.avi"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < len(recogniser().video(cut)) < 40
    (tmp_path / "none.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"none\.mp4"):
        recogniser().video(tmp_path / "none.mp4")


def test_a_stream_can_be_left_early_and_ends_its_threads(recogniser: Callable, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [k / 30 for k in range(60)])
    before = threading.active_count()
    stream = recogniser().stream(path)
    assert next(stream).frame == 0
    stream.close()
    assert threading.active_count() == before


def test_results_are_a_table(recogniser: Callable) -> None:
    results = recogniser().images([noise(20, 20), noise(30, 30)])
    table = results.to_dataframe()
    assert list(table.columns) == columns(results.labels)
    assert table["expression"].tolist() == [results.name(row) for row in results]
    assert table.loc[0, "right"] == 20
    assert list(recogniser().images([]).to_dataframe().columns) == columns(results.labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"smoothing": -1},
        {"window": 0},
        {"batch_size": 0},
        {"fps": 0},
        {"smoothing": float("nan")},
        {"stride": float("inf")},
        {"min_score": float("nan")},
        {"every": 2, "fps": 3.0},
        {"detect_every": 31},
        {"faces": "perhaps"},
        {"precision": "fp12"},
    ],
)
def test_wrong_settings_are_said(recogniser: Callable, wrong: dict) -> None:
    with pytest.raises(EcstflError, match=next(iter(wrong))):
        recogniser(**wrong)


def test_importing_the_package_is_quick_although_it_offers_the_recogniser() -> None:
    code = "import sys, ecstfl_cli; assert 'torch' not in sys.modules; assert not hasattr(ecstfl_cli, 'recogniser')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_faces_of_real_pictures_and_videos_are_found(real_data: Callable, tmp_path: Path) -> None:
    media = real_data("media")
    recogniser = Recogniser(save_small_model(tmp_path / "m.safetensors", "img"), device="cpu")
    assert len(recogniser.images([media / "multi_face.jpg"])) == 5
    rows = recogniser.video(media / "single_face.mp4")
    assert {row.face for row in rows} == {0}
    assert len(rows) == 72
    nothing = recogniser.video(media / "no_face.mp4")
    assert not nothing
    assert nothing.problems == [(str(media / "no_face.mp4"), "no face was found in 95 frames")]
