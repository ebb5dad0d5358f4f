"""`prepare --check`: each planted fault is found, alone, and clean data pass."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.engine.check.findings import Finding
from ecstfl_cli.engine.check.report import FORMAT, CheckReport
from ecstfl_cli.engine.check.run import check
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.errors import DataError

SIZE = 48


def picture(seed: int, size: int = SIZE) -> Image.Image:
    """A picture like no other: smooth random shapes, whose perceptual hash is its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def stills(tmp_path: Path) -> Callable[..., list[Path]]:
    """`stills()` writes train.csv and test.csv of eight and four pictures, each another one, of seven classes."""

    def make() -> list[Path]:
        (tmp_path / "images").mkdir()
        for split, seeds in (("train", range(14)), ("test", range(100, 107))):
            lines = ["filePath,expression"]
            for i, seed in enumerate(seeds):
                picture(seed).save(tmp_path / f"images/{split}_{i}.jpg", quality=92)
                lines.append(f"images/{split}_{i}.jpg,{i % 7}")
            (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
        return [tmp_path / "train.csv", tmp_path / "test.csv"]

    return make


@pytest.fixture
def clips(tmp_path: Path) -> Callable[..., list[Path]]:
    """`clips(frames)` writes train.txt and test.txt of fourteen and seven clips whose pictures change slowly."""

    def make(frames: int = 16) -> list[Path]:
        for split, seeds in (("train", range(14)), ("test", range(100, 107))):
            lines = []
            for i, seed in enumerate(seeds):
                folder = tmp_path / f"clips/{split}_{i}"
                folder.mkdir(parents=True)
                first, last = picture(seed, 32), picture(seed + 1000, 32)
                for t in range(frames):
                    Image.blend(first, last, t / frames).save(folder / f"{t + 1}.jpg", quality=90)
                lines.append(f"clips/{split}_{i} {frames} {i % 7}")
            (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
        return [tmp_path / "train.txt", tmp_path / "test.txt"]

    return make


def checked(files: list[Path], reporter: Reporter | None = None) -> CheckReport:
    out = files[0].parent / "out"
    return check(files, out=out, label_map="dfew", faces=0, reporter=reporter or Reporter())


def only(report: CheckReport, *expected: tuple[str, str]) -> list[Finding]:
    """The findings that are neither ok nor skipped, which must be exactly the expected (check, verdict)."""
    told = [finding for finding in report.findings if finding.verdict in ("note", "wrong")]
    assert [(finding.check, finding.verdict) for finding in told] == list(expected)
    return told


def append(file: Path, line: str) -> None:
    file.write_text(file.read_text() + line + "\n")


# --- clean data -----------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_clean_stills(stills) -> None:
    report = checked(stills())
    only(report)
    assert report.verdict == "ok"
    assert report.facts["samples"] == 21
    assert report.facts["counts"]["train"] == dict.fromkeys(
        ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"), 2
    )
    assert report.facts["sizes"] == {"48x48": 21}


def test_nothing_is_said_of_clean_clips(clips) -> None:
    report = checked(clips())
    only(report)
    assert report.facts["frames"] == 21 * 16


# --- files ----------------------------------------------------------------------------------------------------------


def test_missing_and_empty_samples_are_wrong(clips) -> None:
    files = clips()
    root = files[0].parent
    shutil.rmtree(root / "clips/train_3")
    for frame in (root / "clips/test_2").iterdir():
        frame.unlink()
    (finding,) = only(checked(files), ("missing", "wrong"))
    assert [(Path(item["path"]).name, item["problem"]) for item in finding.items] == [
        ("train_3", "no such folder"),
        ("test_2", "folder holds no images"),
    ]
    assert finding.items[0]["where"] == f"{files[0]}:4"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:0], "is empty (0 bytes)"),
        (lambda data: data[:-100], "truncated"),
        (lambda data: b"not a picture" + data[:0], "is not an image"),
        # The ends are sound, so that only decoding all of it shows it.
        (lambda data: data[: len(data) // 2] + bytes(200) + data[len(data) // 2 :], "is damaged: Corrupt JPEG data"),
    ],
)
def test_unreadable_frames_are_wrong(clips, damage: Callable[[bytes], bytes], problem: str) -> None:
    files = clips()
    frame = files[0].parent / "clips/train_5/9.jpg"
    frame.write_bytes(damage(frame.read_bytes()))
    (finding,) = only(checked(files), ("unreadable", "wrong"))
    assert len(finding.items) == 1
    assert finding.items[0]["path"].endswith("clips/train_5")
    assert finding.items[0]["problem"].startswith("9.jpg: ")
    assert problem in finding.items[0]["problem"]


def test_a_listed_frame_count_that_is_not_on_disk_is_wrong(clips) -> None:
    files = clips(frames=17)
    (files[1].parent / "clips/test_1/17.jpg").unlink()
    (finding,) = only(checked(files), ("frame counts", "wrong"))
    assert finding.items[0]["problem"] == "the list says 17 frames, on disk are 16"


def test_clips_shorter_than_a_view_are_noted(clips) -> None:
    files = clips()
    for t in range(9, 17):
        (files[0].parent / f"clips/train_0/{t}.jpg").unlink()
    files[0].write_text(files[0].read_text().replace("train_0 16", "train_0 8"))
    (finding,) = only(checked(files), ("short clips", "note"))
    assert "1 of 21 clips have fewer than the 16 frames of a view, the shortest 8" in finding.summary


def test_the_frames_of_a_view_are_those_of_the_recipe(clips, tmp_path) -> None:
    clips(frames=10)
    recipe = tmp_path / "short.yaml"
    lists = f"{{train: [{tmp_path}/train.txt], test: [{tmp_path}/test.txt]}}"
    sampling = "{scheme: uniform, frames: 10}"
    recipe.write_text(
        f"name: short\nlabel_map: dfew\ndata: {lists}\ninput: {{modality: video, sampling: {sampling}}}\n"
        "model: {backbone: motion_grid_cnn}\n"
    )
    only(check([recipe], out=tmp_path / "out", faces=0, reporter=Reporter()))


def test_a_file_of_another_format_than_its_name_is_noted(stills) -> None:
    files = stills()
    picture(0).save(files[0].parent / "images/train_0.jpg", format="webp", lossless=True)
    (finding,) = only(checked(files), ("formats", "note"))
    assert finding.items[0]["problem"] == "is a WEBP file in spite of its name"


def test_tiny_long_and_mixed_sizes_are_noted(clips) -> None:
    files = clips()
    root = files[0].parent
    picture(0, 40).save(root / "clips/train_0/3.jpg")
    for t in range(1, 17):
        picture(t, 32).resize((120, 32)).save(root / f"clips/train_1/{t}.jpg")
    (finding,) = only(checked(files), ("sizes", "note"))
    assert [item["problem"] for item in finding.items] == ["frames of different sizes: 32x32, 40x40", "120x32 pixels"]


def test_wrong_rows_are_wrong(stills) -> None:
    files = stills()
    append(files[0], "images/train_0.jpg,12")
    (finding,) = only(checked(files), ("lists", "wrong"))
    assert finding.items[0]["where"] == f"{files[0]}:16"
    assert "'12'" in finding.items[0]["problem"]


def test_a_loop_of_links_and_a_closed_folder_are_told_like_missing_files(clips, tmp_path) -> None:
    files = clips()
    loop = tmp_path / "clips/loop"
    loop.symlink_to(loop)
    append(files[0], "clips/loop 16 0")
    (finding,) = only(checked(files), ("missing", "wrong"))
    assert "symbolic links" in finding.items[0]["problem"]


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_within_a_split_is_noted(stills) -> None:
    files = stills()
    images = files[0].parent / "images"
    # Another file, of another format and name, with the same pixels.
    Image.open(images / "train_0.jpg").save(images / "train_7.png")
    files[0].write_text(files[0].read_text().replace("train_7.jpg", "train_7.png"))
    (finding,) = only(checked(files), ("copies", "note"))
    assert finding.items[0]["path"].endswith("train_7.png")
    assert finding.items[0]["same_as"].endswith("train_0.jpg")


def test_a_row_that_is_there_twice_is_noted(stills) -> None:
    files = stills()
    append(files[0], "images/train_0.jpg,0")
    (finding,) = only(checked(files), ("listed twice", "note"))
    assert finding.items[0]["problem"] == f"is also {files[0]}:2"


def test_two_labels_for_one_path_are_wrong(stills) -> None:
    files = stills()
    append(files[0], "images/train_0.jpg,1")
    _, finding = only(checked(files), ("listed twice", "note"), ("conflicting labels", "wrong"))
    assert finding.items[0]["labels"] == ["happy", "sad"]


def test_copies_with_different_labels_are_noted_while_they_are_few(stills) -> None:
    files = stills()
    shutil.copy(files[0].parent / "images/train_0.jpg", files[0].parent / "images/train_1.jpg")
    *_, finding = only(checked(files), ("copies", "note"), ("conflicting labels", "wrong"))
    assert finding.summary == "1 of 20 distinct samples (5.0%) with two or more labels"


@pytest.mark.parametrize("as_copy", [True, False])
def test_a_training_sample_in_the_test_list_is_wrong(stills, as_copy: bool) -> None:
    files = stills()
    images = files[0].parent / "images"
    if as_copy:
        shutil.copy(images / "train_0.jpg", images / "test_0.jpg")
    else:
        files[1].write_text(files[1].read_text().replace("test_0", "train_0"))
    (finding,) = only(checked(files), ("across splits", "wrong"))
    assert finding.summary == "in two splits: 1 of test in train"


def test_a_copied_clip_is_found_whatever_its_frames_are_called(clips) -> None:
    files = clips()
    root = files[0].parent / "clips"
    shutil.rmtree(root / "test_0")
    (root / "test_0").mkdir()
    for t in range(1, 17):
        shutil.copy(root / f"train_0/{t}.jpg", root / f"test_0/frame_{t:05d}.jpg")
    (finding,) = only(checked(files), ("across splits", "wrong"))
    assert finding.items[0]["same_as"].endswith("clips/train_0")


def test_recompressed_and_recropped_pictures_look_alike(stills) -> None:
    files = stills()
    images = files[0].parent / "images"
    picture(0, 96).save(images / "train_7.jpg", quality=40)
    picture(1, 200).crop((3, 3, 198, 198)).resize((64, 64)).save(images / "train_8.jpg", quality=60)
    (finding,) = only(checked(files), ("near copies", "note"))
    assert {(Path(item["path"]).stem, Path(item["like"]).stem) for item in finding.items} == {
        ("train_7", "train_0"),
        ("train_8", "train_1"),
    }


def test_near_copies_across_splits_are_wrong_where_they_are_many(stills) -> None:
    files = stills()
    picture(0, 96).save(files[0].parent / "images/test_0.jpg", quality=40)
    (finding,) = only(checked(files), ("near across splits", "wrong"))
    assert finding.summary == "like a sample of another split: 1 of 7 (14.3%) in test"


def test_a_recompressed_part_of_a_clip_looks_like_it(clips) -> None:
    files = clips()
    root = files[0].parent / "clips"
    for t in range(1, 17):
        source = Image.open(root / f"train_0/{t}.jpg")
        source.resize((64, 64)).save(root / f"test_0/{t}.jpg", quality=50)
    (finding,) = only(checked(files), ("near across splits", "wrong"))
    assert finding.items[0]["like"].endswith("clips/train_0")


def test_blank_pictures_are_not_like_each_other(stills) -> None:
    files = stills()
    for i, grey in enumerate((0, 90, 250)):
        Image.new("RGB", (SIZE, SIZE), (grey, grey, grey)).save(files[0].parent / f"images/train_{i}.jpg")
    only(checked(files))


def test_folds_are_compared_within_themselves(stills, tmp_path) -> None:
    train, test = stills()
    lists = []
    for fold, (first, second) in enumerate(((train, test), (test, train)), start=1):
        for kind, source in (("train", first), ("test", second)):
            lists.append(tmp_path / f"data_fold{fold}_{kind}.csv")
            shutil.copy(source, lists[-1])
    report = checked(lists)
    only(report)
    assert set(report.facts["files"]) == {"fold1_train", "fold1_test", "fold2_train", "fold2_test"}
    assert report.facts["samples"] == 21


# --- what the lists say ---------------------------------------------------------------------------------------------


def test_a_subject_in_training_and_test_is_wrong(stills) -> None:
    files = stills()
    for file, first in ((files[0], 0), (files[1], 13)):
        lines = file.read_text().splitlines()
        subjects = [f"{line},actor{first + i}" for i, line in enumerate(lines[1:])]
        file.write_text("\n".join([lines[0] + ",subject", *subjects]) + "\n")
    (finding,) = only(checked(files), ("subjects", "wrong"))
    assert [item["subject"] for item in finding.items] == ["actor13"]


def test_a_class_that_is_not_tested_is_noted(stills) -> None:
    files = stills()
    files[1].write_text(files[1].read_text().replace("images/test_6.jpg,6\n", ""))
    (finding,) = only(checked(files), ("classes", "note"))
    assert finding.summary == "test lacks fear"


# --- again, and in bad places ---------------------------------------------------------------------------------------


def test_a_second_check_reads_only_what_has_changed(clips) -> None:
    files = clips()
    first = checked(files)
    assert first.facts["frames_read"] == 21 * 16
    frame = files[0].parent / "clips/train_0/1.jpg"
    picture(77, 32).save(frame)
    os.utime(frame, ns=(1, 1))
    second = checked(files)
    assert second.facts["frames_read"] == 16
    assert second.facts["frames"] == 21 * 16
    only(second)


def test_an_interrupted_check_keeps_what_it_has_read(clips) -> None:
    files = clips()

    class Interrupted(Reporter):
        @contextmanager
        def progress(self, description: str, *_: object) -> Iterator[Callable[..., None]]:
            calls = itertools.count()

            def advance(*_: object) -> None:
                if description == "reading" and next(calls) == 8:
                    raise KeyboardInterrupt

            yield advance

    reporter = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        checked(files, reporter)
    assert "the same command goes on from there" in reporter.notes[-1]
    assert [path.name for path in (files[0].parent / "out").iterdir()] == ["checked.sqlite"]
    report = checked(files)
    assert report.facts["frames_read"] == (21 - 9) * 16
    only(report)


def test_a_damaged_cache_is_begun_anew(stills) -> None:
    files = stills()
    checked(files)
    cache = files[0].parent / "out" / "checked.sqlite"
    cache.write_bytes(b"not a database, though long enough to be taken for one" * 40)
    reporter = Reporter()
    assert checked(files, reporter).facts["frames_read"] == 21
    assert any("begun anew" in note for note in reporter.notes)


def test_the_report_is_complete_json_and_replaces_no_other_file(stills) -> None:
    files = stills()
    report = checked(files)
    written = json.loads(report.path.read_text())
    assert written["format"] == FORMAT
    assert written["verdict"] == "ok"
    assert set(written["checks"]) == {finding.check for finding in report.findings}
    report.path.write_text("{}")
    with pytest.raises(DataError, match="is not a report of a check"):
        checked(files)


def test_a_folder_that_cannot_be_written_to_is_an_error_before_anything_is_read(stills, tmp_path) -> None:
    files = stills()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*checked\.sqlite"):
        checked(files)


def test_images_and_clips_are_not_checked_together(tmp_path, stills) -> None:
    (train, _) = stills()
    other = tmp_path / "test.txt"
    other.write_text("clips/a 3 0\n")
    with pytest.raises(DataError, match="some of the files list images and some clips"):
        checked([train, other])


def test_video_files_are_clips_too(tmp_path, real_data) -> None:
    media = real_data("media")
    shutil.copy(media / "single_face.mp4", tmp_path / "a.mp4")
    whole = (media / "no_face.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[:1000])
    (tmp_path / "train.txt").write_text("a.mp4 0 0\nb.mp4 0 1\n")
    report = checked([tmp_path / "train.txt"])
    finding = next(finding for finding in report.findings if finding.check == "unreadable")
    assert finding.verdict == "wrong"
    assert [Path(item["path"]).name for item in finding.items] == ["b.mp4"]
    assert report.facts["frames"] > 16
