"""`ecstfl prepare --faces`: crops as DFEW has them, of the main face, continued after an interruption.

Most tests have a detector of their own, which finds bright squares, so that pictures can be made up; it is a plugin
like any other. Those with real faces need the real media.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ecstfl_cli.api import FaceCrop
from ecstfl_cli.engine.data.manifest import read_manifest_for
from ecstfl_cli.engine.preparation.face_crops import JOURNAL, TABLE
from ecstfl_cli.extra_columns import read_extra_columns
from ecstfl_cli.media.decode import read_image
from ecstfl_cli.media.faces.cropping import crop_faces
from ecstfl_cli.media.faces.finding import FaceFinder
from ecstfl_cli.media.faces.following import follow_faces
from ecstfl_cli.media.video import read_video

SQUARES = '''
import numpy as np
from ecstfl_cli.api import Face

class Squares:
    """White squares are faces."""

    def __init__(self, *, device="cpu", threads=None):
        pass

    def detect(self, images):
        found = []
        for image in images:
            bright = image.min(axis=2) > 180
            rows, columns = np.nonzero(bright)
            faces = []
            if len(rows):
                # Left of the middle and right of it.
                for side in (columns < image.shape[1] / 2, columns >= image.shape[1] / 2):
                    if side.any():
                        x, y = columns[side], rows[side]
                        faces.append(Face((x.min(), y.min(), x.max() + 1, y.max() + 1), 0.9))
            found.append(faces)
        return found
'''


@pytest.fixture
def squares(fake_distribution: Callable) -> str:
    fake_distribution("squares-plug", {"detectors": {"squares": "squares_mod:Squares"}}, {"squares_mod.py": SQUARES})
    return "squares"


def picture(*squares: tuple[int, int, int], size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """A dark picture with white squares of (left, top, side)."""
    pixels = np.full((size[1], size[0], 3), 40, np.uint8)
    for left, top, side in squares:
        pixels[top : top + side, left : left + side] = 250
    return pixels


def video(path: Path, frames: list[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.bit_rate = 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_folder(path: Path, frames: list[np.ndarray]) -> Path:
    path.mkdir(parents=True)
    for i, pixels in enumerate(frames):
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


FACE = picture((20, 40, 40))
EMPTY = picture()
FLAGS = ("--faces", "--workers", "1", "--size", "32", "--margin", "0")


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_videos_become_folders_of_numbered_crops_a_list_and_a_table(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "happy" / "a.mp4", [picture((20 + k, 40, 40)) for k in range(6)])
    video(tmp_path / "raw" / "b.mp4", [EMPTY, EMPTY, *[FACE] * 3])
    result = cli("prepare", *FLAGS, "--detector", squares, "raw", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    crops = tmp_path / "annotation" / "raw_faces"
    names = [f"b/b_{i:05d}.jpg" for i in range(1, 4)] + [f"happy/a/a_{i:05d}.jpg" for i in range(1, 7)]
    assert files_in(crops) == sorted([*names, JOURNAL, TABLE])
    pixels = read_image(crops / "b" / "b_00001.jpg")
    assert pixels.shape == (32, 32, 3)
    assert pixels.min() > 200
    lines = (tmp_path / "annotation" / "raw_faces_all.txt").read_text().splitlines()
    assert lines == [f"{crops}/b 3 -1", f"{crops}/happy/a 6 -1"]
    table = pd.read_parquet(crops / TABLE)
    b = table[table["crop"].str.startswith("b/")]
    assert list(b["frame"]) == [2, 3, 4]
    assert list(b["crop"]) == names[:3]
    assert b["time"].tolist() == pytest.approx([0.08, 0.12, 0.16])
    assert b.iloc[0][["left", "top", "right", "bottom"]].tolist() == pytest.approx([20, 40, 60, 80], abs=1)
    assert b["score"].tolist() == pytest.approx([0.9] * 3)
    assert not b["interpolated"].any()


def test_the_manifest_records_every_parameter_of_the_crops(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [FACE] * 3)
    flags = ("--align", "box", "--min-score", "0.4", "--faces-out", "crops", "--name", "mine")
    assert cli("prepare", *FLAGS, "--detector", squares, *flags, "raw", cwd=tmp_path).exit_code == 0
    manifest = read_manifest_for(tmp_path / "annotation" / "mine_all.txt")
    assert manifest is not None
    assert FaceCrop(**manifest["face_crop"]) == FaceCrop("squares", 0.4, "box", 0.0, 32)
    assert manifest["face_tracking"]["smoothing"] == 0.15
    assert manifest["faces_root"] == str(tmp_path / "crops")
    assert (tmp_path / "crops" / "a" / "a_00003.jpg").is_file()


def test_the_main_face_of_several_is_cropped(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [picture((10, 10, 20), (90, 50, 50)) for _ in range(4)])
    assert cli("prepare", *FLAGS, "--detector", squares, "raw", cwd=tmp_path).exit_code == 0
    table = pd.read_parquet(tmp_path / "annotation" / "raw_faces" / TABLE)
    assert len(table) == 4
    assert table["left"].tolist() == pytest.approx([90] * 4, abs=1)


def test_frames_and_images_are_cropped_too(cli, squares, tmp_path) -> None:
    frame_folder(tmp_path / "clips" / "one", [EMPTY, FACE, FACE])
    result = cli("prepare", *FLAGS, "--detector", squares, "clips", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "annotation" / "clips_faces_all.txt").read_text().split()[1] == "2"
    photos = frame_folder(tmp_path / "photos", [FACE, EMPTY, FACE])
    (photos / "0.png").rename(photos / "2.bmp")  # the ending is in the name only where it has to be
    result = cli("prepare", *FLAGS, "--detector", squares, "photos", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    rows = pd.read_csv(tmp_path / "annotation" / "photos_faces_all.csv").iloc[:, 0].tolist()
    assert [Path(row).name for row in rows] == ["2_bmp.jpg", "2_png.jpg"]
    assert all(read_image(Path(row)).shape == (32, 32, 3) for row in rows)
    assert "1.png: no face found" in result.stderr


def test_labels_splits_and_subjects_of_a_data_set_go_with_the_crops(cli, squares, fake_distribution, tmp_path) -> None:
    source = """
from ecstfl_cli.api import PathRow, PreparedDataset

class Release:
    def recognise(self, root):
        return (root / "marker").exists()

    def prepare(self, root, reporter):
        rows = [PathRow("a.mp4", 2, subject="p1"), PathRow("b.mp4", 0, subject="p2")]
        return PreparedDataset("release", "video", {"train": rows, "test": [PathRow("c.mp4", 1, subject="p3")]}, "dfew")
"""
    fake_distribution("release-plug", {"datasets": {"release": "release_mod:Release"}}, {"release_mod.py": source})
    root = tmp_path / "data"
    for name, frames in {"a": [FACE] * 2, "b": [EMPTY] * 2, "c": [FACE] * 3}.items():
        video(root / f"{name}.mp4", frames)
    (root / "marker").touch()
    before = files_in(root)
    result = cli("prepare", *FLAGS, "--detector", squares, "--data-root", root, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "annotation"
    assert (out / "release_faces_train.txt").read_text() == f"{out}/release_faces/a 2 2\n"
    assert (out / "release_faces_test.txt").read_text() == f"{out}/release_faces/c 3 1\n"
    rejects = pd.read_csv(out / "release_faces_rejects.csv")
    assert rejects["path"].tolist() == [str(root / "b.mp4")]
    assert rejects["problem"].tolist() == ["no face found in 2 frames"]
    assert "1 row without a face" in result.stderr
    assert files_in(root) == before


def test_path_files_are_cropped_with_their_labels(cli, squares, tmp_path) -> None:
    for name in "abc":
        frame_folder(tmp_path / "clips" / name, [FACE] * 2)
    (tmp_path / "my_train.txt").write_text("clips/a 2 happy\nclips/b 2 sad\n")
    (tmp_path / "my_train.extra.csv").write_text("path,subject\nclips/a,ann\nclips/b,bob\n")
    (tmp_path / "my_test.txt").write_text("clips/c 2 fear\n")
    flags = (*FLAGS, "--detector", squares, "--label-map", "dfew")
    result = cli("prepare", *flags, "my_train.txt", "my_test.txt", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "annotation"
    lines = (out / "my_faces_train.txt").read_text().splitlines()
    assert lines == [f"{out}/my_faces/clips/a 2 0", f"{out}/my_faces/clips/b 2 1"]
    assert (out / "my_faces_test.txt").read_text().split()[-1] == "6"
    assert read_extra_columns(out / "my_faces_train.txt").subjects == ["ann", "bob"]


def test_bad_videos_are_told_one_line_each_and_the_others_are_cropped(cli, squares, tmp_path) -> None:
    raw = tmp_path / "raw"
    video(raw / "good.mp4", [FACE] * 3)
    (raw / "empty.mp4").touch()
    (raw / "text.avi").write_text("no video at all")
    whole = video(tmp_path / "whole.mp4", [FACE] * 40).read_bytes()
    (raw / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    result = cli("prepare", *FLAGS, "--detector", squares, "raw", cwd=tmp_path)
    assert result.exit_code == 1
    out = tmp_path / "annotation"
    assert (out / "raw_faces_all.txt").read_text() == f"{out}/raw_faces/good 3 -1\n"
    rejects = pd.read_csv(out / "raw_faces_rejects.csv")
    assert [Path(path).name for path in rejects["path"]] == ["cut.mp4", "empty.mp4", "text.avi"]
    assert all(str(raw) not in problem for problem in rejects["problem"])
    assert "3 rows not found on disk or unreadable" in result.stderr
    assert cli("prepare", *FLAGS, "--detector", squares, "--skip-bad", "raw", cwd=tmp_path).exit_code == 0


def test_a_run_continues_where_another_stopped(cli, squares, tmp_path) -> None:
    for name in "abc":
        video(tmp_path / "raw" / f"{name}.mp4", [FACE] * 3)
    flags = ("prepare", *FLAGS, "--detector", squares, "raw")
    assert cli(*flags, cwd=tmp_path).exit_code == 0
    crops = tmp_path / "annotation" / "raw_faces"
    expected = {name: (crops / name).read_bytes() for name in files_in(crops) if name != TABLE}
    # As it is after a kill: `a` is done, `b` has been moved but not noted, `c` half-written, a line torn.
    lines = (crops / JOURNAL).read_text().splitlines(keepends=True)
    (crops / JOURNAL).write_text(lines[0] + lines[1] + lines[2][:30])
    (crops / "b" / "b_00002.jpg").unlink()
    (crops / TABLE).unlink()
    (crops / ".partial" / "7_1" / "0").mkdir(parents=True)
    shutil.move(crops / "c", crops / ".partial" / "7_1" / "0")
    kept = (crops / "a" / "a_00001.jpg").stat().st_mtime_ns
    result = cli(*flags, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "1 of 3 are in" in result.stderr
    assert {name: (crops / name).read_bytes() for name in files_in(crops) if name != TABLE} == expected
    assert (crops / "a" / "a_00001.jpg").stat().st_mtime_ns == kept
    assert len(pd.read_parquet(crops / TABLE)) == 9


def test_a_source_that_has_changed_is_cropped_again(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [FACE] * 3)
    flags = ("prepare", *FLAGS, "--detector", squares, "raw")
    cli(*flags, cwd=tmp_path)
    video(tmp_path / "raw" / "a.mp4", [FACE] * 5)
    assert cli(*flags, cwd=tmp_path).exit_code == 0
    crops = tmp_path / "annotation" / "raw_faces"
    assert len(list((crops / "a").iterdir())) == 5
    assert len(pd.read_parquet(crops / TABLE)) == 5


def test_other_settings_do_not_mix_with_what_is_there(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [FACE] * 3)
    flags = ("prepare", *FLAGS, "--detector", squares, "raw")
    cli(*flags, cwd=tmp_path)
    result = cli(*flags, "--margin", "0.2", cwd=tmp_path)
    assert result.exit_code == 1
    assert "made otherwise: margin 0.0, now 0.2" in result.stderr
    assert "--faces-out" in result.stderr


def test_several_workers_write_what_one_does(cli, real_data, tmp_path) -> None:
    clip = [frame.pixels for frame in read_video(real_data("media") / "single_face.mp4")][::8]
    for name, frames in {"a": clip[:4], "b": clip[4:], "c": [np.zeros((90, 160, 3), np.uint8)] * 3}.items():
        frame_folder(tmp_path / "clips" / name, frames)
    written: list[dict[str, Any]] = []
    for workers in (1, 2):
        folder = tmp_path / f"crops{workers}"
        flags = ("--faces", "--size", "48", "--faces-out", folder, "--workers", workers, "clips")
        result = cli("prepare", *flags, cwd=tmp_path)
        assert result.exit_code == 0, result.stderr
        written.append({name: (folder / name).read_bytes() for name in files_in(folder) if name.endswith(".jpg")})
    assert written[0] == written[1]
    assert len(written[0]) == len(clip)


@pytest.mark.parametrize("align", ["box", "eyes"])
def test_crops_are_those_of_following_the_same_video(cli, real_data, tmp_path, align) -> None:
    """What `infer` does on the raw video: the same finder, tracker and crop, from what the manifest says."""
    source = real_data("media") / "single_face.mp4"
    frames = [frame.pixels for frame in read_video(source)][:20]
    raw = video(tmp_path / "raw.mp4", frames)
    result = cli("prepare", "--faces", "--align", align, "--size", "64", raw, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    manifest = read_manifest_for(tmp_path / "annotation" / "raw_faces_all.txt")
    assert manifest is not None
    crop = FaceCrop(**manifest["face_crop"])
    folder = tmp_path / "annotation" / "raw_faces" / "raw"
    expected = tmp_path / "expected.jpg"
    count = 0
    for frame, faces in follow_faces(read_video(raw), FaceFinder(crop, "cpu", threads=2), batch_size=3):
        Image.fromarray(crop_faces(frame.pixels, faces[:1], crop)[0]).save(expected, quality=95, subsampling=0)
        count += 1
        assert expected.read_bytes() == (folder / f"raw_{count:05d}.jpg").read_bytes()
    assert count == 20 == len(list(folder.iterdir()))


def test_nothing_is_written_where_the_folder_cannot_be(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [FACE] * 3)
    (tmp_path / "file").touch()
    flags = ("prepare", *FLAGS, "--detector", squares, "raw", "--faces-out", "file/crops")
    result = cli(*flags, cwd=tmp_path)
    assert result.exit_code == 1
    assert "cannot write face crops to" in result.stderr
    assert not (tmp_path / "annotation").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_run_with_one_error_and_it_continues_later(cli, squares, tmp_path, monkeypatch) -> None:
    for name in "ab":
        video(tmp_path / "raw" / f"{name}.mp4", [FACE] * 3)
    save = Image.Image.save

    def to_full_disk(self: Image.Image, path: Any, *args: Any, **kwargs: Any) -> None:
        save(self, Path("/dev/full") if "b_" in str(path) else path, *args, **kwargs)

    flags = ("prepare", *FLAGS, "--detector", squares, "raw")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", to_full_disk)
        result = cli(*flags, cwd=tmp_path)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    crops = tmp_path / "annotation" / "raw_faces"
    assert files_in(crops) == ["a/a_00001.jpg", "a/a_00002.jpg", "a/a_00003.jpg", JOURNAL]
    assert not (tmp_path / "annotation" / "raw_faces_all.txt").exists()
    result = cli(*flags, cwd=tmp_path)
    assert result.exit_code == 0
    assert "1 of 2 are in" in result.stderr


def test_no_face_anywhere_is_an_error_that_lists_the_sources(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [EMPTY] * 3)
    result = cli("prepare", *FLAGS, "--detector", squares, "raw", cwd=tmp_path)
    assert result.exit_code == 1
    assert "no sample of the all split has a face" in result.stderr
    assert "a.mp4: no face found in 3 frames" in result.stderr


def test_a_path_outside_of_the_root_stays_inside_of_the_crops(cli, squares, tmp_path) -> None:
    frame_folder(tmp_path / "elsewhere" / "a", [FACE] * 2)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x_train.txt").write_text("../elsewhere/a 2 0\n")
    result = cli("prepare", *FLAGS, "--detector", squares, "lists/x_train.txt", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    folder = (tmp_path / "annotation" / "x_faces_train.txt").read_text().split()[0]
    assert Path(os.path.normpath(folder)).is_relative_to(tmp_path / "annotation" / "x_faces")


def test_json_tells_what_was_cropped_and_what_was_not(cli, squares, tmp_path) -> None:
    video(tmp_path / "raw" / "a.mp4", [FACE] * 3)
    video(tmp_path / "raw" / "b.mp4", [EMPTY] * 2)
    result = cli("prepare", *FLAGS, "--detector", squares, "--json", "raw", cwd=tmp_path)
    faces = json.loads(result.stdout)["faces"]
    assert (faces["sources"], faces["crops"]) == (2, 3)
    assert faces["without_face"][0]["problem"] == "no face found in 2 frames"
