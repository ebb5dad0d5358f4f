"""The recogniser with the weights that ship, on real videos, and with drawn people before the real face detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ecstfl_cli import Recogniser
from ecstfl_cli.engine.weights.model_source import shipped_model
from ecstfl_cli.errors import CheckpointError, DataError
from tests.drawn_faces import drawn_scene, write_frames
from tests.small_model import save_small_model

RealData = Callable[[str], Path]


@pytest.fixture(scope="module")
def shipped() -> Path:
    try:
        return shipped_model()
    except CheckpointError:
        pytest.skip("the weights that ship are not in this checkout")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return save_small_model(tmp_path / "small.safetensors", "img")


# --- with the weights that ship --------------------------------------------------------------------------------------


def test_the_smile_is_found_when_it_is_there(real_data: RealData, shipped: Path) -> None:
    """He is neutral up to 0.55 s, smiles up to 2.3 s, and is neutral in the last frames."""
    recogniser = Recogniser(shipped, device="cpu", smoothing=0, every=2)
    rows = recogniser.video(real_data("media") / "single_face.mp4")
    assert {row.face for row in rows} == {0}
    assert {rows.name(row) for row in rows if row.time < 0.4} == {"neutral"}
    assert {rows.name(row) for row in rows if 0.8 < row.time < 2.1} == {"happy"}


def test_a_smoothed_smile_begins_when_it_does(real_data: RealData, shipped: Path) -> None:
    rows = Recogniser(shipped, device="cpu", every=2).video(real_data("media") / "single_face.mp4")
    begins = next(row.time for row in rows if rows.name(row) == "happy")
    assert begins == pytest.approx(0.55, abs=0.15)
    assert {rows.name(row) for row in rows if begins < row.time < 2.1} == {"happy"}


def test_a_woman_who_shows_several_expressions_is_seen_to(real_data: RealData, shipped: Path) -> None:
    """She grieves for six seconds, then looks up in fear with a hand before her mouth, and laughs from ten on."""
    rows = Recogniser(shipped, device="cpu", fps=6).video(real_data("media") / "WolfgangLanger_Pexels.mp4")
    table = rows.to_dataframe()
    assert set(table["face"]) == {0}
    happy = table["expression"] == "happy"
    assert happy[table["time"] > 11].mean() > 0.9
    assert happy[table["time"].between(3, 9)].mean() < 0.1
    # With her hand over her eyes, from four seconds on, it is taken for fear.
    assert (table["expression"][table["time"] < 3.5] == "sad").mean() > 0.9
    assert (table["expression"][table["time"].between(7, 9)] == "fear").mean() > 0.9
    assert (table["expression"].value_counts() >= 6).sum() >= 3


# --- people who are drawn --------------------------------------------------------------------------------------------


def test_two_people_keep_their_numbers_through_a_video(small: Path, tmp_path: Path) -> None:
    path = write_frames(tmp_path / "two.mp4", drawn_scene((1, 3), frames=8))
    rows = Recogniser(small, device="cpu", min_score=0.3).video(path)
    assert [(row.frame, row.face) for row in rows] == [(frame, face) for frame in range(8) for face in (0, 1)]
    middles = {face: {(row.box[0] + row.box[2]) / 2 < 300 for row in rows if row.face == face} for face in (0, 1)}
    assert sorted(middles.values()) == [{False}, {True}]


def test_a_person_who_comes_and_goes_has_rows_only_while_there(small: Path) -> None:
    there = drawn_scene((1,), frames=8)
    away = [np.full_like(there[0], 90)] * 9
    frames = away + there + away
    rows = Recogniser(small, device="cpu", min_score=0.3, detect_every=1).frames(frames, fps=10, source="door")
    assert [row.frame for row in rows] == list(range(9, 17))
    assert {(row.source, row.face) for row in rows} == {("door", 0)}
    assert [row.time for row in rows] == pytest.approx([frame / 10 for frame in range(9, 17)])
    assert not rows.problems


@pytest.mark.parametrize(("fps", "asked", "expected"), [(25, 3, 3), (2.4, 3, 1), (10, 30, 5)])
def test_faces_are_detected_at_least_every_half_second(
    small: Path, monkeypatch: pytest.MonkeyPatch, fps: float, asked: int, expected: int
) -> None:
    used = []

    def follow(frames: object, finder: object, *, detect_every: int, batch_size: int) -> Iterator:  # noqa: ARG001
        used.append(detect_every)
        return iter(())

    monkeypatch.setattr("ecstfl_cli.engine.inference.recogniser.follow_faces", follow)
    Recogniser(small, device="cpu", detect_every=asked).frames([np.zeros((240, 360, 3), np.uint8)] * 4, fps=fps)
    assert used == [expected]


def test_a_person_keeps_the_number_in_a_video_that_is_thinned(small: Path, tmp_path: Path) -> None:
    path = write_frames(tmp_path / "one.mp4", drawn_scene((1,), frames=50))
    rows = Recogniser(small, device="cpu", min_score=0.3, every=10).video(path)
    assert [(row.frame, row.face) for row in rows] == [(frame, 0) for frame in range(0, 50, 10)]


def test_a_video_without_a_face_gives_no_rows_and_says_so(small: Path) -> None:
    rows = Recogniser(small, device="cpu").frames([np.full((240, 360, 3), 90, np.uint8)] * 7, source="wall")
    assert not rows
    assert rows.problems == [("wall", "no face was found in 7 frames")]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pillow_images_are_understood_as_their_files_are(small: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(tmp_path / "alpha.png")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "cmyk.tif")
    files = [tmp_path / name for name in ("turned.jpg", "deep.png", "alpha.png", "cmyk.tif")]
    recogniser = Recogniser(small, device="cpu", faces=False)
    of_files, of_images = recogniser.images(files), recogniser.images([Image.open(file) for file in files])
    assert [row.probs for row in of_images] == [row.probs for row in of_files]
    assert [row.box for row in of_images] == [(0, 0, 40, 60), *[(0, 0, 60, 40)] * 3]


@pytest.mark.filterwarnings("error")
def test_arrays_that_must_not_be_written_to_are_taken_without_a_warning(small: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    recogniser = Recogniser(small, device="cpu")
    (row,) = recogniser.images([pixels])
    assert recogniser.probs(pixels[None])[0] == pytest.approx(row.probs, abs=1e-6)


def test_a_pillow_image_that_cannot_be_decoded_is_said(small: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(DataError, match="cannot read image image 0"):
        Recogniser(small, device="cpu", faces=False).images([Image.open(tmp_path / "cut.png")])


def test_of_large_photographs_few_are_in_memory_at_a_time(small: Path) -> None:
    opened = 0

    def photographs() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal opened
        for n in range(40):
            opened += 1
            # 36 MB that are one pixel in memory.
            yield str(n), np.broadcast_to(np.full((1, 1, 3), n, np.uint8), (3000, 4000, 3))

    seen = Recogniser(small, device="cpu", faces=False).see_images(photographs())
    assert next(seen)[0] == "0"
    assert opened <= 13
    seen.close()
    assert opened < 20
