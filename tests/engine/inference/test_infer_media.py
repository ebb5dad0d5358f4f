"""`infer` on pictures and videos: rows, problems, live sources, and what must never be half-written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ecstfl_cli.engine.inference import media_worker
from ecstfl_cli.engine.inference.source_summary import Tally
from ecstfl_cli.engine.inference.stop_signals import ends_on_interrupt
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native, save_checkpoint
from ecstfl_cli.errors import DataError, EcstflError, OutputError
from ecstfl_cli.labels import label_map_from
from ecstfl_cli.media import annotate
from ecstfl_cli.media.annotate import Annotator
from ecstfl_cli.media.video import VideoFrame, read_video
from tests.drawn_faces import drawn_scene, write_frames
from tests.looking import Look, picture, small_batch, table, video
from tests.small_model import save_small_model

NAMES = label_map_from("dfew").names


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_video_gives_a_row_for_each_face_and_frame(look: Look) -> None:
    result = look(video("talk.mp4"), formats=("csv", "json", "parquet"))
    rows = table()
    head = ["source", "frame", "time", "face", "left", "top", "right", "bottom", "score", "frames", "expression"]
    assert list(rows.columns) == [*head, *(f"prob_{name}" for name in NAMES)]
    assert rows["frame"].tolist() == list(range(10))
    np.testing.assert_allclose(rows["time"], np.arange(10) / 25, atol=1e-3)
    probs = rows[[f"prob_{name}" for name in NAMES]].to_numpy()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert [NAMES[k] for k in probs.argmax(axis=1)] == rows["expression"].tolist()
    assert json.loads(Path("o/predictions.json").read_text()) == rows.to_dict("records")
    pd.testing.assert_frame_equal(pd.read_parquet("o/predictions.parquet"), rows, check_dtype=False)
    (source,) = result.sources
    assert (source.rows, source.frames, source.faces, source.duration) == (10, 10, 1, pytest.approx(0.4))
    assert sum(source.seconds) == pytest.approx(0.4)
    assert sorted(path.name for path in result.files) == [
        "predictions.csv", "predictions.json", "predictions.parquet", "summary.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("thinned", "seconds"), [({"fps": 2.0}, 1.2), ({"every": 20}, 1.2), ({"fps": 2.0, "max_seconds": 0.8}, 0.8)]
)
def test_a_thinned_video_is_as_long_as_it_was(look: Look, thinned: dict[str, Any], seconds: float) -> None:
    (source,) = look(video("talk.mp4", 30), **thinned).sources
    assert source.duration == pytest.approx(seconds, abs=0.01)
    assert sum(source.seconds) == pytest.approx(seconds, abs=0.01), "a frame that shows the face lasts to the end"


def test_sources_keep_the_order_of_the_inputs(look: Look) -> None:
    inputs = [picture("z.png"), video("m.mp4", 3), picture("a.png", 1), picture("10.png", 2), picture("2.png", 3)]
    result = look(*inputs)
    assert table()["source"].drop_duplicates().tolist() == inputs
    assert [source.name for source in result.sources] == inputs


def test_thinning_and_the_first_seconds(look: Look) -> None:
    video("talk.mp4", 50)
    look("talk.mp4", out=Path("a"), every=4)
    assert table("a")["frame"].tolist() == list(range(0, 50, 4))
    look("talk.mp4", out=Path("b"), fps=5)
    assert table("b")["frame"].tolist() == list(range(0, 50, 5))
    look("talk.mp4", out=Path("c"), max_seconds=0.2)
    assert table("c")["frame"].tolist() == list(range(5))


@pytest.mark.parametrize(("name", "value"), [("fps", 0.0), ("fps", np.nan), ("max_seconds", np.inf)])
def test_numbers_that_are_none_are_said_before_anything_is_written(look: Look, name: str, value: float) -> None:
    with pytest.raises(EcstflError, match=f"--{name.replace('_', '-')} is {value}"):
        look(picture("a.png"), **{name: value})
    assert not Path("o").exists()


def test_progress_through_a_video_ends_where_looking_does(look: Look) -> None:
    class Totals(Reporter):
        @contextlib.contextmanager
        def progress(self, description: str, total: int, unit: str = "clips") -> Any:
            totals.append((description, total, unit))
            with super().progress(description, total, unit) as advance:
                yield advance

    totals: list[tuple[str, int, str]] = []
    video("talk.mp4", 60)
    look("talk.mp4", max_seconds=1.0, reporter=Totals())
    assert totals == [("looking", 1, "s")]


def test_one_frame_stands_for_a_video_of_which_no_other_was_looked_at(look: Look) -> None:
    (source,) = look(video("talk.mp4", 30), every=1000).sources
    assert source.frames == 1
    assert source.duration == pytest.approx(1.2, abs=0.01)
    assert sum(source.seconds) == pytest.approx(1.2, abs=0.01)


def test_the_last_frame_of_an_animation_lasts_as_long_as_it_says(look: Look) -> None:
    first, second = (Image.open(picture(f"{n}.png", n)) for n in range(2))
    first.save("moving.gif", save_all=True, append_images=[second], duration=[100, 1000])
    (source,) = look("moving.gif").sources
    assert source.duration == pytest.approx(1.1)
    assert sum(source.seconds) == pytest.approx(1.1)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_is_as_long_as_its_frames_say(look: Look, suffix: str) -> None:
    frames = [Image.open(picture(f"{n}.png", n)) for n in range(10)]
    frames[0].save(f"moving{suffix}", save_all=True, append_images=frames[1:], duration=300)
    (source,) = look(f"moving{suffix}").sources
    assert source.duration == pytest.approx(3.0)
    assert sum(source.seconds) == pytest.approx(3.0)


def test_a_truncated_animation_is_told_and_ends_nothing(look: Look) -> None:
    frames = [Image.open(picture(f"{n}.png", n)) for n in range(3)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    content = Path("moving.gif").read_bytes()
    Path("moving.gif").write_bytes(content[:-300])
    result = look("moving.gif", "0.png")
    assert [source for source, _ in result.problems] == ["moving.gif"]
    assert not Path("o/errors.log").exists()
    assert set(table()["source"]) == {"moving.gif", "0.png"}


def test_a_folder_of_frames_is_as_long_as_its_frames_however_it_is_thinned(look: Look) -> None:
    for n in range(6):
        picture(f"frames/{n}.png", n)
    (source,) = look("frames", frame_rate=4.0, fps=1.0).sources
    assert source.duration == pytest.approx(1.5)


def test_a_picture_that_its_format_does_not_take_is_drawn_as_another(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(annotate.KEPT_SUFFIXES, ".webp", 200)
    result = look(picture("a.webp"), picture("a.webp.png"), picture("b.jpg"), annotate=True)
    assert not result.problems
    assert sorted(path.name for path in Path("o/annotated").iterdir()) == ["a.webp.png", "a.webp_.png", "b.jpg"]


def test_thin_pictures_and_videos_are_drawn_like_others(look: Look) -> None:
    Image.new("RGB", (2000, 3), "grey").save("thin.png")
    write_frames(Path("thin.mkv"), [np.zeros((4, 1200, 3), np.uint8)] * 2)
    result = look("thin.png", picture("b.png"), "thin.mkv", annotate=True)
    assert not result.problems
    with Image.open("o/annotated/thin.png") as drawn:
        assert drawn.size == (4000, 6)
    assert Path("o/annotated/thin.mkv").exists()


@pytest.mark.parametrize("name", ["a.png", "talk.mp4"])
def test_what_cannot_be_drawn_is_told_and_the_others_are(
    look: Look, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As an encoder says that does not take such pictures."""
    draw = Annotator.draw

    def fails_for_one(self: Annotator, image: np.ndarray, rows: Any) -> np.ndarray:
        if image.shape[:2] == (40, 40) if name == "a.png" else image.shape[:2] == (48, 48):
            raise ValueError("encoding error")
        return draw(self, image, rows)

    monkeypatch.setattr(Annotator, "draw", fails_for_one)
    Image.new("RGB", (64, 64)).save("b.png")
    inputs = [picture("a.png"), "b.png"] if name == "a.png" else [video("talk.mp4"), "b.png"]
    result = look(*inputs, annotate=True)
    assert result.problems == [(name, "its annotated copy could not be made: encoding error")]
    assert set(table()["source"]) == {name, "b.png"}
    assert [path.name for path in Path("o/annotated").iterdir()] == ["b.png"]


def test_only_what_was_written_is_said_to_be(look: Look) -> None:
    Path("o").mkdir()
    Path("o/notes.md").write_text("mine")
    names = [path.name for path in look(picture("a.png")).files]
    assert names == ["predictions.csv", "summary.json"]


def test_a_single_frame_of_a_video_has_its_expression_in_the_summary(look: Look) -> None:
    (source,) = look(video("talk.mp4", 10), every=20).sources
    assert source.frames == 1
    assert sum(source.shown[0].seconds) > 0
    assert source.shown[0].seconds[NAMES.index(table()["expression"][0])] == sum(source.seconds)


def test_a_folder_of_images_is_stills_or_with_a_frame_rate_a_video(look: Look) -> None:
    for n in range(1, 12):
        picture(f"clip/{n}.png", n)
    look("clip", out=Path("stills"))
    assert table("stills")["source"].tolist() == [f"clip/{n}.png" for n in range(1, 12)]
    look("clip", out=Path("video"), frame_rate=10)
    assert table("video")["source"].unique().tolist() == ["clip"]
    np.testing.assert_allclose(table("video")["time"], np.arange(11) / 10)


def test_faces_are_found_annotated_and_reported(look: Look) -> None:
    write_frames(Path("talk.mp4"), drawn_scene((1, 2), 6))
    Image.fromarray(drawn_scene((1,))[0]).save("photo.jpg")
    result = look("talk.mp4", "photo.jpg", faces="auto", annotate=True, report=True)
    assert [source.faces for source in result.sources] == [2, 1]
    with Image.open("o/annotated/photo.jpg") as copy, Image.open("photo.jpg") as photo:
        assert copy.size == photo.size
        assert np.abs(np.asarray(copy, dtype=int) - np.asarray(photo)).max() > 100
    assert Path("o/annotated/talk.mp4").stat().st_size > 1000
    page = Path("o/report.html").read_text()
    assert "talk.mp4" in page
    assert "data:image/jpeg;base64" in page
    assert not Path("o/unfinished").exists()


def test_between_detections_boxes_are_interpolated(look: Look) -> None:
    (still,) = drawn_scene((1,))
    write_frames(Path("talk.mp4"), [np.roll(still, (n // 4) * 12, axis=1) for n in range(9)])
    for every in (1, 8):
        look("talk.mp4", out=Path(str(every)), faces=True, detect_every=every)
    steps = {every: table(str(every))["left"].diff().dropna() for every in (1, 8)}
    assert len(steps[1]) == len(steps[8]) == 8
    np.testing.assert_allclose(steps[8], steps[8].mean(), atol=0.1)
    assert steps[1].max() > 5 * steps[1].median(), "he jumps, where every frame is looked for faces in"


def test_the_report_says_how_well_the_model_is_calibrated(look: Look, model: Path) -> None:
    look(picture("a.png"), out=Path("unknown"), report=True)
    assert "calibration error" not in Path("unknown/report.html").read_text()
    plain = load_native(model)
    measured = {"war": 65.7, "calibration": {"temperature": 0.8176, "ece_before": 0.0594, "ece_after": 0.0283}}
    save_checkpoint(
        Path("calibrated.safetensors"),
        plain.state,
        model=plain.model,
        input=plain.input,
        labels=plain.labels,
        metrics={"published": measured},
    )
    look("a.png", model="calibrated.safetensors", report=True)
    page = re.sub(r"<[^>]+>", " ", Path("o/report.html").read_text())
    assert re.search(r"calibration error before scaling\s+5\.9%\s", page)
    assert re.search(r"calibration error after scaling\s+2\.8%\s", page)
    assert re.search(r"Temperature\s+0\.818, in the weights already", page)


@pytest.mark.parametrize("thinning", [{"every": 4}, {"fps": 6.25}])
def test_of_a_thinned_video_the_copy_has_every_frame_with_the_last_faces(look: Look, thinning: dict) -> None:
    there = drawn_scene((1,), 6)
    frames = [*there, *[np.full_like(there[0], 90)] * 8]
    write_frames(Path("talk.mp4"), frames)
    look("talk.mp4", faces=True, detect_every=1, annotate=True, **thinning)
    assert table()["frame"].tolist() == [0, 4]
    copy = list(read_video("o/annotated/talk.mp4"))
    np.testing.assert_allclose([frame.time for frame in copy], np.arange(14) / 25, atol=1e-3)
    drawn_on = [
        np.abs(one.pixels.astype(int) - own.pixels).max() > 90
        for one, own in zip(copy, read_video("talk.mp4"), strict=True)
    ]
    assert drawn_on == [True] * 8 + [False] * 6, "nobody is there in frame 8, the next that was looked at"
    look("talk.mp4", out=Path("start"), faces=True, annotate=True, max_seconds=0.2, **thinning)
    assert len(list(read_video("start/annotated/talk.mp4"))) == 5


def test_the_copy_of_a_model_for_clips_follows_faces_between_windows(look: Look) -> None:
    there = drawn_scene((1,), 12)
    write_frames(Path("talk.mp4"), [*there, *[np.full_like(there[0], 90)] * 3])
    clips = save_small_model(Path("clips.safetensors"), "video")
    look("talk.mp4", model=str(clips), faces=True, detect_every=1, annotate=True, window=0.24, stride=0.12)
    assert len(table()) < 5, "one row a window"
    both = zip(read_video("o/annotated/talk.mp4"), read_video("talk.mp4"), strict=True)
    drawn_on = [np.abs(one.pixels.astype(int) - own.pixels).max() > 90 for one, own in both]
    assert drawn_on == [True] * 12 + [False] * 3


def test_every_source_that_moves_has_a_copy_of_its_own(look: Look) -> None:
    frames = [Image.open(picture(f"d/clip/{n}.png", n)) for n in range(3)]
    video("d/clip.mp4", 4)
    frames[0].save("wave.webp", save_all=True, append_images=frames[1:])
    result = look("d", "wave.webp", annotate=True, frame_rate=10.0)
    assert not result.problems
    copies = {path.name: len(list(read_video(path))) for path in Path("o/annotated").rglob("*.*")}
    assert copies == {"clip.mp4": 4, "clip_.mp4": 3, "wave.webp.mp4": 3}


def test_a_bad_frame_of_a_folder_is_left_out_and_told_of(look: Look) -> None:
    for n in range(5):
        picture(f"d/{n}.png", n)
    Path("d/2.png").write_bytes(b"")
    (source,) = look("d", frame_rate=10.0).sources
    assert source.problem.startswith("1 of 5 frames of d were left out: cannot read image d/2.png")
    assert table()["frame"].tolist() == [0, 1, 3, 4]


def test_a_frame_before_damage_is_kept(look: Look) -> None:
    picture("d/0.png")
    Path("d/1.png").write_bytes(b"")
    (source,) = look("d", frame_rate=10.0).sources
    assert source.problem.startswith("1 of 2 frames of d were left out")
    assert table()["frame"].tolist() == [0]


def test_frames_of_other_sizes_than_the_first_are_treated_like_it(look: Look) -> None:
    """A small square picture among large ones is searched for faces as they are, not taken for one."""
    face = Image.fromarray(drawn_scene((1,))[0])
    face.thumbnail((110, 110))
    for n, size in enumerate((300, 300, 120, 300)):
        frame = Image.new("RGB", (size, size), "grey")
        frame.paste(face)
        frame.save(Path(picture(f"d/{n}.png", n)))
    look("d", frame_rate=10.0, faces="auto", detect_every=1, smoothing=0.0)
    look("d", frame_rate=10.0, faces=True, detect_every=1, smoothing=0.0, out=Path("found"))
    assert table()["frame"].tolist() == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(table(), table("found"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_pipes_in_a_directory_are_passed_over(look: Look) -> None:
    picture("d/a.png")
    os.mkfifo("d/pipe")
    os.mkfifo("d/cam.mp4")
    assert [source.name for source in look("d").sources] == ["d/a.png"]


def test_a_name_that_ends_a_line_elsewhere_is_a_name(look: Look) -> None:
    name = picture("d/a\rb.png")
    look("d", formats=("csv", "json", "parquet"))
    assert json.loads(Path("o/predictions.json").read_text())[0]["source"] == name
    assert pd.read_parquet("o/predictions.parquet")["source"].tolist() == [name]


def test_the_copy_of_a_long_address_has_a_shorter_name(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [VideoFrame(n, n / 25, np.zeros((48, 48, 3), np.uint8)) for n in range(3)]
    monkeypatch.setattr(media_worker, "read_moving", lambda *_, **__: iter(frames))
    look(f"http://x/{'y' * 400}", annotate=True)
    (copy,) = Path("o/annotated").iterdir()
    assert (len(copy.name) < 100, copy.suffix) == (True, ".mp4")


def test_copies_lie_as_the_sources_do_below_their_common_folder(look: Look, tmp_path: Path) -> None:
    picture("deep/x/a.png")
    picture("deep/y/a.png", 1)
    look(str(tmp_path / "deep" / "x"), "deep/x/../y/a.png", annotate=True)
    assert Path("o/annotated/x/a.png").is_file()
    assert Path("o/annotated/y/a.png").is_file()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_a_line_and_does_not_stop_the_others(look: Look) -> None:
    small_batch()
    Path("d/empty.mp4").touch()
    Path("d/empty.png").touch()
    whole = Path(picture("d/half.png", 9)).read_bytes()
    Path("d/half.png").write_bytes(whole[: len(whole) // 2])
    result = look("d")
    assert table()["source"].nunique() == 5
    problems = dict(result.problems)
    assert set(problems) == {"d/bad.mp4", "d/empty.mp4", "d/empty.png", "d/half.png"}
    assert problems["d/empty.mp4"] == problems["d/empty.png"] == "is empty (0 bytes)"
    assert all("\n" not in problem for problem in problems.values())
    assert pd.read_csv("o/problems.csv")["source"].tolist() == [name for name, _ in result.problems]


def test_a_video_that_ends_early_keeps_its_rows_and_says_so(look: Look) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))
    whole = write_frames(Path("whole.mp4"), frames, fps=5, options={"movflags": "faststart"}).read_bytes()
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])
    result = look("whole.mp4", "cut.mp4")
    assert table()["source"].value_counts()["whole.mp4"] == 40
    assert 5 < table()["source"].value_counts()["cut.mp4"] < 30
    ((name, problem),) = result.problems
    assert name == "cut.mp4"
    assert re.fullmatch(r"video cut\.mp4 ends after \d\.\d of 8\.0 seconds; it is truncated", problem)


def test_a_bug_in_one_image_is_a_problem_of_that_image(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecstfl_cli.engine.inference import pictures

    read = pictures.read_image

    def broken(path: Path) -> np.ndarray:
        if path.name == "1.png":
            raise ZeroDivisionError("boom")
        return read(path)

    small_batch()
    monkeypatch.setattr(pictures, "read_image", broken)
    result = look("d/0.png", "d/1.png", "d/2.png")
    assert table()["source"].tolist() == ["d/0.png", "d/2.png"]
    assert [name for name, _ in result.problems] == ["d/1.png"]
    assert "ZeroDivisionError: boom" in result.problems[0][1]
    assert "Traceback" in Path("o/errors.log").read_text()


def test_where_nothing_could_be_read_there_is_an_error_and_nothing_is_left(look: Look) -> None:
    Path("a.mp4").write_text("x")
    Path("b.jpg").touch()
    with pytest.raises(DataError, match=r"(?s)none of the 2 sources.*a\.mp4.*b\.jpg: is empty"):
        look("a.mp4", "b.jpg")
    with pytest.raises(DataError, match=r"cannot open video a\.mp4"):
        look("a.mp4")
    with pytest.raises(DataError, match=r"nothing\.mp4: no such file"):
        look("nothing.mp4")
    with pytest.raises(DataError, match="no camera 97"):
        look(camera="97")
    assert not Path("o").exists()


def test_a_still_is_not_for_a_model_for_clips(look: Look) -> None:
    clips = save_small_model(Path("clips.safetensors"), "video")
    with pytest.raises(DataError, match=r"a\.png is a still, and the model is for clips"):
        look(picture("a.png"), model=str(clips))
    result = look(picture("a.png"), video("b.mp4", 50), model=str(clips))
    assert [bool(source.problem) for source in result.sources] == [True, False]
    assert not Path("o/errors.log").exists()


def test_stopped_in_the_first_images_it_leaves_nothing(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [picture(f"{n}.png") for n in range(4)]

    def interrupted(self: Tally, *_: Any, **__: Any) -> None:
        if self.name == names[2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tally, "finish_still", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(*names, annotate=True)
    assert not Path("o").exists()


def test_results_that_cannot_be_written_end_the_job_which_then_goes_on(look: Look) -> None:
    picture("a.png")
    video("b.mp4", 200)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    reporter = Reporter()
    try:
        with pytest.raises(OutputError, match=r"cannot write o/unfinished/rows/000001\.csv: File too large"):
            look("a.png", "b.mp4", reporter=reporter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "1 of 2 sources are done. Go on with: ecstfl infer --resume o" in reporter.warnings[-1]
    assert not Path("o/predictions.csv").exists()
    assert list(Path("o/unfinished/rows").iterdir()) == [Path("o/unfinished/rows/000000.csv")]
    look("a.png", "b.mp4")
    assert len(table()) == 201
    with pytest.raises(OutputError, match="cannot write"):
        look("a.png", out=Path("a.png/below"))


def test_an_earlier_result_is_not_overwritten(look: Look) -> None:
    look(picture("a.png"))
    with pytest.raises(EcstflError, match=r"(?s)o holds an earlier result: predictions\.csv.*--out"):
        look("a.png")


@pytest.mark.parametrize("name", ["fps", "frame_rate", "max_seconds"])
def test_what_has_to_be_above_zero_is_checked_before_anything_is_read(look: Look, name: str) -> None:
    with pytest.raises(EcstflError, match=f"{name.replace('_', '-')} is -1.0"):
        look(video("talk.mp4", 2), **{name: -1.0})
    assert not Path("o").exists()


# --- live ------------------------------------------------------------------------------------------------------------


def test_a_live_source_ends_where_nobody_reads_its_rows_any_more(look: Look) -> None:
    os.mkfifo("pipe.ts")
    content = Path(video("talk.ts", 60)).read_bytes()
    sender = threading.Thread(target=_send, args=(content,), daemon=True)
    sender.start()
    seen: list[float] = []

    def on_live(time: float, results: Any, labels: Any) -> None:  # noqa: ARG001
        seen.append(time)
        if len(seen) == 5:
            raise BrokenPipeError

    result = look("pipe.ts", on_live=on_live)
    assert len(seen) == len(table()) == 5
    assert not result.problems
    assert not Path("o/errors.log").exists()


def _send(content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), Path("pipe.ts").open("wb") as pipe:
        pipe.write(content)


def test_a_live_source_ends_when_it_is_asked_to_and_keeps_its_rows(look: Look) -> None:
    os.mkfifo("pipe.ts")
    content = Path(video("talk.ts", 60)).read_bytes()
    write_end_closes = threading.Event()

    def send() -> None:
        with contextlib.suppress(BrokenPipeError), Path("pipe.ts").open("wb") as pipe:
            pipe.write(content)
            pipe.flush()
            write_end_closes.wait(20)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    seen: list[float] = []
    before = signal.getsignal(signal.SIGINT)

    def on_live(time: float, results: Any, labels: Any) -> None:  # noqa: ARG001
        seen.append(time)
        if len(seen) == 5:
            assert len(pd.read_csv(next(Path("o/unfinished/rows").iterdir()))) == 5, "rows are there as they come"
            os.kill(os.getpid(), signal.SIGINT)

    try:
        result = look("pipe.ts", on_live=on_live, annotate=True)
    finally:
        write_end_closes.set()
        sender.join(20)
    assert 5 <= len(table()) < 20
    assert result.sources[0].kind == "stream"
    assert Path("o/annotated/pipe.ts.mp4").stat().st_size > 500
    assert signal.getsignal(signal.SIGINT) is before, "whoever started the tests may ignore it"


def test_the_second_interrupt_does_not_wait() -> None:
    with ends_on_interrupt() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("address", "over"), [("rtsp://x/y", "prefer_tcp"), ("http://x/y.ts", None), ("rtmp://x/y", None)]
)
def test_rtsp_is_asked_for_over_tcp(
    look: Look, monkeypatch: pytest.MonkeyPatch, address: str, over: str | None
) -> None:
    """Over UDP what comes while frames are looked at is lost."""
    asked: list[dict[str, str]] = []

    def refused(source: str, *, options: dict[str, str], **_: Any) -> Iterator[VideoFrame]:
        asked.append(options)
        raise DataError(f"cannot open video {source}")

    monkeypatch.setattr(media_worker, "read_moving", refused)
    with pytest.raises(DataError, match="cannot open video"):
        look(address)
    assert [options.get("rtsp_flags") for options in asked] == [over]
    assert asked[0]["rw_timeout"] == "15000000"
    # With it FFmpeg waits for somebody who sends to it by RTMP.
    assert ("timeout" in asked[0]) == (not address.startswith("rtmp"))


def test_a_live_source_is_alone(look: Look) -> None:
    picture("a.png")
    with pytest.raises(EcstflError, match=r"rtsp://x/y is live and has to be the only input"):
        look("rtsp://x/y", "a.png")
    assert not Path("o").exists()
