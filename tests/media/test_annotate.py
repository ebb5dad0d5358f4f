"""Pictures and videos with boxes, names and bar charts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.errors import DataError, EcstflError
from ecstfl_cli.media.annotate import Annotator, annotate_image
from ecstfl_cli.media.annotated_video import AnnotatedVideo, annotate_video
from ecstfl_cli.media.video import probe, read_video
from ecstfl_cli.palette import EXPRESSIONS, expression_colours, luminance, rgb, text_on

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
GREY = 96


@dataclass(frozen=True)
class Row:
    """A face as results have it; `expression` gets 0.7 of the probability."""

    box: tuple[float, float, float, float]
    expression: str = "happy"
    face: int = 0
    frame: int = 0
    time: float = 0.0
    frames: int = 1

    @property
    def probs(self) -> tuple[float, ...]:
        return tuple(0.7 if name == self.expression else 0.05 for name in DFEW)


def picture(height: int, width: int, grey: int = GREY) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def coloured(image: np.ndarray, expression: str, tolerance: int = 0) -> np.ndarray:
    """Which pixels have an expression's colour."""
    return (np.abs(image.astype(int) - rgb(EXPRESSIONS[expression])) <= tolerance).all(axis=2)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(240, 320), (360, 640), (1080, 1920)])
def test_a_box_in_the_expressions_colour_and_a_chart_beside_it_that_grow_with_the_picture(size):
    height, width = size
    box = (0.2 * width, 0.3 * height, 0.4 * width, 0.7 * height)
    before = picture(height, width)
    after = Annotator(DFEW).draw(before, [Row(box, "surprise")])
    assert after.shape == before.shape
    assert (before == GREY).all()
    drawn = coloured(after, "surprise")
    assert drawn[round(0.5 * height), round(box[0])]
    assert drawn[round(0.5 * height), round(box[2])]
    # Inside of the box the face stays as it is.
    middle = changed(before, after)[
        round(0.4 * height) : round(0.6 * height), round(0.23 * width) : round(0.37 * width)
    ]
    assert not middle.any()
    # The chart: at the right, as large a part of the picture at each size.
    beside = changed(before, after)[:, round(box[2]) + 10 :]
    assert 0.04 < beside.mean() < 0.5
    bars = coloured(after, "surprise")[:, round(box[2]) + 10 :].sum()
    assert bars > 5 * coloured(after, "fear")[:, round(box[2]) + 10 :].sum() > 0


@pytest.mark.parametrize("grey", [0, 255, 152])
def test_the_box_is_seen_on_any_background(grey):
    before = picture(360, 640, grey)
    after = Annotator(DFEW).draw(before, [Row((200, 120, 320, 260), "neutral")])
    assert (np.abs(after[190, 195:206].astype(int) - grey).max(axis=1) > 60).any()


@pytest.mark.parametrize(
    "box", [(-30, -40, 90, 80), (560, 300, 700, 400), (0, 0, 640, 360), (600, 0, 640, 40), (0, 330, 30, 360)]
)
def test_a_face_at_the_border_keeps_its_name_in_the_picture(box):
    after = Annotator(DFEW).draw(picture(360, 640), [Row(box, "angry")])
    # The name stands on a field of the colour: one whole line of it is longer than the letters leave free.
    rows = coloured(after, "angry").sum(axis=1)
    assert rows.max() > 60


def test_names_and_charts_of_several_faces_stand_apart():
    faces = [Row((60 + 110 * i, 100, 140 + 110 * i, 190), DFEW[i], face=i) for i in range(5)]
    drawn = _places(720, 1280, faces)
    assert len(drawn) >= 8
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
        assert min(a) >= 0
        assert (a[2] <= 1280, a[3] <= 720) == (True, True)


def _places(height: int, width: int, faces: list[Row]) -> list[tuple[float, float, float, float]]:
    """Where the names and the charts of `faces` are drawn."""
    from ecstfl_cli.media import annotate

    found = []

    class Pen(annotate._Pen):
        def tag(self, tag, k):
            found.append(tag.rect)
            super().tag(tag, k)

        def chart(self, chart, probs):
            found.append(chart.rect)
            super().chart(chart, probs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotate, "_Pen", Pen)
        Annotator(DFEW).draw(picture(height, width), faces)
    return found


def test_a_chart_stays_on_its_side_while_a_face_moves_by_a_little():
    annotator = Annotator(DFEW)
    sides = []
    # The room at the right becomes too small for a moment, as when a face shakes.
    for left in (380, 384, 388, 384, 380, 388):
        annotator.draw(picture(360, 640), [Row((left, 100, left + 110, 240))])
        sides.append(dict(annotator._sides))
    assert all(a == b for a, b in pairwise(sides))


def test_a_crowd_and_a_tiny_picture_can_be_drawn():
    crowd = [Row((13 * i, 20 + i % 3 * 30, 12 + 13 * i, 34 + i % 3 * 30), face=i) for i in range(40)]
    assert Annotator(DFEW).draw(picture(120, 530), crowd).shape == (240, 1060, 3)
    tiny = Annotator(DFEW).draw(picture(48, 48), [Row((0, 0, 48, 48), "sad")])
    assert tiny.shape == (240, 240, 3)
    assert coloured(tiny, "sad").sum() > 500
    assert (Annotator(DFEW).draw(picture(300, 300), []) == GREY).all()


def test_names_in_a_crowd_hide_no_other_face():
    boxes = [(60 + 190 * x, 70 + 215 * y, 116 + 190 * x, 142 + 215 * y) for y in range(5) for x in range(9)]
    faces = [Row(box, DFEW[i % 7], face=i) for i, box in enumerate(boxes)]
    for name in _places(1200, 1800, faces)[-len(faces) :]:
        for box in boxes:
            wide, high = min(name[2], box[2]) - max(name[0], box[0]), min(name[3], box[3]) - max(name[1], box[1])
            assert min(wide, high) <= 0 or wide * high < 0.1 * 56 * 72


def test_a_name_stays_on_its_side_while_a_face_moves_by_a_little():
    annotator = Annotator(DFEW)
    places = []
    # Above, there is room for the name in some frames only.
    for top in (4, 40, 12, 40):
        annotator.draw(picture(360, 640), [Row((100, top, 210, top + 140))])
        places.append(dict(annotator._places))
    assert all(a == b for a, b in pairwise(places))


def test_class_names_in_other_letters_are_drawn():
    names = ("радость", "грусть")
    rows = [Row((50, 50, 150, 150))]

    class Two(Row):
        probs = (0.8, 0.2)

    after = Annotator(names).draw(picture(300, 500), [Two(rows[0].box)])
    other = Annotator(("ррррррр", "грусть")).draw(picture(300, 500), [Two(rows[0].box)])
    assert changed(after, other).any()


@pytest.mark.parametrize(
    ("name", "written", "format"),
    [
        ("a.jpg", "a.jpg", "JPEG"),
        ("a.PNG", "a.PNG", "PNG"),
        ("a.webp", "a.webp", "WEBP"),
        ("a.gif", "a.gif.png", "PNG"),
    ],
)
def test_a_picture_is_written_in_the_format_of_its_ending_or_as_png(tmp_path, name, written, format):
    path = annotate_image(picture(300, 400), [Row((50, 50, 150, 150))], DFEW, tmp_path / name)
    assert path == tmp_path / written
    assert [file.name for file in tmp_path.iterdir()] == [written]
    with Image.open(path) as image:
        assert (image.format, image.size) == (format, (400, 300))


# --- colours ---------------------------------------------------------------------------------------------------------


def test_an_expression_has_one_colour_in_every_label_map_and_strange_classes_get_others():
    assert expression_colours(["sad", "happy"]) == [EXPRESSIONS["sad"], EXPRESSIONS["happy"]]
    colours = expression_colours(["happy", "bored", "curious", *DFEW[1:]])
    assert len(set(colours)) == len(colours)
    assert expression_colours([f"class {k}" for k in range(50)])


def test_the_seven_colours_are_told_apart_with_colour_blind_eyes_and_seen_on_white_and_on_dark():
    # Machado, Oliveira and Fernandes, IEEE TVCG 2009: full protanopia, deuteranopia, tritanopia.
    eyes = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    values = np.array([rgb(EXPRESSIONS[name]) for name in DFEW]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    for eye in eyes:
        seen = _oklab(np.clip(linear @ np.asarray(eye).T, 0, 1))
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert distance[~np.eye(len(DFEW), dtype=bool)].min() > 0.11
    for name in DFEW:
        light = luminance(EXPRESSIONS[name])
        assert 1.05 / (light + 0.05) > 2.55
        assert (light + 0.05) / (luminance("#14171c") + 0.05) > 2.9
        text = luminance(text_on(EXPRESSIONS[name]))
        assert (max(light, text) + 0.05) / (min(light, text) + 0.05) > 4.5


def _oklab(linear: np.ndarray) -> np.ndarray:
    """Ottosson's OKLab of linear sRGB (N, 3)."""
    to_cones = [[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]]
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T


# --- videos ----------------------------------------------------------------------------------------------------------


def greys(path: Path) -> list[tuple[float, float, bool]]:
    """(time, grey of the lower right corner, whether a box is drawn) of each frame."""
    frames = list(read_video(path))
    return [
        (f.time, float(f.pixels[-30:, -30:].mean()), bool(coloured(f.pixels, "happy", 40).sum() > 100)) for f in frames
    ]


def test_frames_keep_their_times_and_thinned_ones_the_last_faces(tmp_path):
    times = [0.0, 0.04, 0.08, 0.2, 0.5, 0.52, 1.0]
    face = Row((40, 60, 120, 160))
    rows = [[face], None, None, [], None, [face], None]
    with AnnotatedVideo(tmp_path / "a.mp4", DFEW) as video:
        for k, (time, faces) in enumerate(zip(times, rows, strict=True)):
            video.write(time, picture(240, 320, 40 + 20 * k), faces)
        assert not (tmp_path / "a.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    written = greys(tmp_path / "a.mp4")
    assert [time for time, _, _ in written] == pytest.approx(times, abs=1e-3)
    assert [grey for _, grey, _ in written] == pytest.approx([40 + 20 * k for k in range(7)], abs=5)
    assert [drawn for _, _, drawn in written] == [True, True, True, False, False, True, True]
    assert video.sound is False


def test_odd_sizes_gain_a_line_and_frames_of_another_size_are_scaled(tmp_path):
    with AnnotatedVideo(tmp_path / "a.mp4", DFEW, fps=25) as video:
        video.write(0.0, picture(241, 321), [])
        video.write(0.04, picture(480, 640, 200), [])
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height) == (322, 242)
    assert [grey for _, grey, _ in greys(tmp_path / "a.mp4")] == pytest.approx([GREY, 200], abs=5)


def test_after_an_error_nothing_is_left_and_without_frames_nothing_is_written(tmp_path):
    def interrupted() -> None:
        with AnnotatedVideo(tmp_path / "a.mp4", DFEW) as video:
            video.write(0.0, picture(240, 320), [])
            raise RuntimeError("stopped by the user")

    with pytest.raises(RuntimeError, match="stopped"):
        interrupted()
    with AnnotatedVideo(tmp_path / "b.mp4", DFEW):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_ending_that_is_no_video_and_a_place_that_cannot_be_written_are_said(tmp_path):
    with pytest.raises(EcstflError, match=r"\.mp4, \.mkv"):
        AnnotatedVideo(tmp_path / "a.gif", DFEW)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EcstflError, match="cannot write annotated video"),
        AnnotatedVideo(tmp_path / "file" / "a.mp4", DFEW) as video,
    ):
        video.write(0.0, picture(240, 320), [])


def with_sound(path: Path, seconds: float = 1.0) -> Path:
    """A grey video of 20 frames a second with a tone."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=20)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        for _ in range(round(20 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(240, 320), format="rgb24")))
        tone = np.sin(np.arange(round(16000 * seconds)) * 0.17).astype(np.float32)[None]
        for start in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def test_sound_ends_where_it_is_told_to(tmp_path):
    import av

    source = with_sound(tmp_path / "source.mp4")
    lengths = []
    for until in (inf, 0.4):
        path = tmp_path / f"{until}.mp4"
        with AnnotatedVideo(path, DFEW, fps=25, sound_from=source, sound_until=until) as copy:
            for k in range(10):
                copy.write(k / 25, picture(64, 64), [])
        with av.open(str(path)) as container:
            lengths.append(float(container.streams.audio[0].duration * container.streams.audio[0].time_base))
    assert lengths[0] > 0.8
    assert lengths[1] == pytest.approx(0.4, abs=0.15)


def test_a_whole_file_is_annotated_and_its_sound_copied(tmp_path):
    import av

    source = with_sound(tmp_path / "source.mp4")
    rows = [Row((40, 60, 120, 160), face=0, frame=n, time=n / 20) for n in (0, 4)]
    done: list[int] = []
    video = annotate_video(source, rows, DFEW, tmp_path / "out.mp4", advance=done.append)
    assert video.sound
    assert sum(done) == 20
    # Rows come every 0.2 s: the last ones stay for half as much again, 0.2 to 0.5 s.
    assert [drawn for _, _, drawn in greys(tmp_path / "out.mp4")] == [True] * 11 + [False] * 9
    annotate_video(source, rows, DFEW, tmp_path / "short.mp4", hold=0.05)
    assert [drawn for _, _, drawn in greys(tmp_path / "short.mp4")][:7] == [True, True, False, False, True, True, False]
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        packets = [[bytes(p) for p in container.demux(audio=0) if p.size] for container in (before, after)]
        assert packets[0] == packets[1]
    assert probe(tmp_path / "out.mp4").seconds == pytest.approx(1.0, abs=0.06)


def test_faces_whose_windows_take_turns_are_both_held(tmp_path):
    source = with_sound(tmp_path / "source.mp4", seconds=1.0)
    left, right = (10, 60, 60, 120), (240, 60, 300, 120)
    turns = [(0, 0, left), (4, 1, right), (8, 0, left), (12, 1, right)]
    rows = [Row(box, face=face, frame=n, time=n / 20, frames=8) for n, face, box in turns]
    annotate_video(source, rows, DFEW, tmp_path / "out.mp4")
    edges = [(frame.pixels[60:120, 5:15], frame.pixels[60:120, 295:305]) for frame in read_video(tmp_path / "out.mp4")]
    drawn = [tuple(bool(np.abs(edge.astype(int) - GREY).max() > 60) for edge in pair) for pair in edges]
    # A face's windows are 0.4 s apart: each stays for 0.6 s.
    assert drawn == [(True, False)] * 4 + [(True, True)] * 16


def test_a_truncated_video_is_annotated_as_far_as_it_goes(tmp_path):
    source = with_sound(tmp_path / "source.mkv", seconds=3)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    indices: list[int] = []
    with pytest.raises(DataError, match="truncated"):
        indices.extend(frame.index for frame in read_video(cut))
    assert 0 < len(indices) < 60
    annotate_video(cut, [Row((40, 60, 120, 160))], DFEW, tmp_path / "out.mp4")
    assert len(greys(tmp_path / "out.mp4")) == len(indices)


def test_a_real_video_keeps_its_length_and_sound(real_data, tmp_path):
    source = real_data("media") / "single_face.mp4"
    rows = [Row((250, 60, 400, 260), frame=n, time=n / 30) for n in range(0, 72, 3)]
    assert annotate_video(source, rows, DFEW, tmp_path / "out.mp4").sound
    written = greys(tmp_path / "out.mp4")
    assert [time for time, _, _ in written] == pytest.approx([n / 30 for n in range(72)], abs=1e-3)
    assert all(drawn for _, _, drawn in written)
