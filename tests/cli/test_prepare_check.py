"""`ecstfl prepare --check` from the command line: what can be named, the table, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TinyData


@pytest.fixture
def leaking(tiny_images: Callable) -> TinyData:
    """Tiny images of which a training one is tested on under another name."""
    data = tiny_images(size=32)
    shutil.copy(data.root / "images/train_sad_1.jpg", data.root / "images/test_sad_3.jpg")
    return data


def test_a_data_set_is_checked_right_after_it_is_prepared(cli, leaking, tmp_path) -> None:
    result = cli(
        "prepare", "--data-root", leaking.root, "--label-map", "dfew", "--check", "--check-faces", "0", cwd=tmp_path
    )
    assert result.exit_code == 1
    assert "wrote annotation/tiny_images_train.csv" in result.stdout
    assert "across splits" in result.stdout
    assert "Something would corrupt a result: across splits" in result.stderr
    report = json.loads((tmp_path / "annotation" / "tiny_images_check.json").read_text())
    assert report["verdict"] == "wrong"
    assert report["checks"]["across splits"]["count"] == 1


def test_what_was_prepared_is_checked_by_name_by_path_file_or_as_the_last_one(cli, leaking, tmp_path) -> None:
    cli("prepare", "--data-root", leaking.root, "--label-map", "dfew", cwd=tmp_path)
    for named in ([], ["tiny_images"], ["annotation/tiny_images.json"]):
        result = cli("prepare", "--check", "--check-faces", "0", *named, "--json", cwd=tmp_path)
        report = json.loads(result.stdout)
        assert report["name"] == "tiny_images"
        assert report["label_map"] == "dfew"
        assert result.exit_code == (report["verdict"] == "wrong")
        assert (tmp_path / "annotation" / "tiny_images_check.json").is_file()


def test_a_list_that_is_checked_alone_leaves_the_verdict_on_all_of_them(cli, leaking, tmp_path) -> None:
    cli("prepare", "--data-root", leaking.root, "--label-map", "dfew", cwd=tmp_path)
    cli("prepare", "--check", "--check-faces", "0", cwd=tmp_path)
    whole = (tmp_path / "annotation" / "tiny_images_check.json").read_text()
    lists = ["annotation/tiny_images_train.csv", "annotation/tiny_images_test.csv"]
    alone = cli("prepare", "--check", "--check-faces", "0", lists[0], "--json", cwd=tmp_path)
    report = json.loads(alone.stdout)
    assert (report["name"], report["label_map"]) == ("tiny_images_train", "dfew")
    assert report["checks"]["across splits"]["verdict"] == "skipped"
    assert (tmp_path / "annotation" / "tiny_images_check.json").read_text() == whole
    both = cli("prepare", "--check", "--check-faces", "0", *lists, "--json", cwd=tmp_path)
    assert json.loads(both.stdout)["name"] == "tiny_images"


def test_a_label_map_does_not_overrule_the_manifest(cli, leaking, tmp_path) -> None:
    cli("prepare", "--data-root", leaking.root, "--label-map", "dfew", cwd=tmp_path)
    for named in (["tiny_images"], ["annotation/tiny_images_train.csv"]):
        result = cli("prepare", "--check", *named, "--label-map", "fer2013", cwd=tmp_path)
        assert (result.exit_code, "told in two ways" in result.stderr) == (1, True)
    moved = cli(
        "prepare", "--data-root", leaking.root, "annotation/tiny_images_test.csv", "--label-map", "fer2013",
        "--out", "other", cwd=tmp_path,
    )  # fmt: skip
    assert (moved.exit_code, "told in two ways" in moved.stderr) == (1, True)
    assert not (tmp_path / "other").exists()


def test_a_label_map_is_for_the_lists_that_need_it(cli, leaking, tmp_path) -> None:
    cli("prepare", "--data-root", leaking.root, "--label-map", "dfew", "--name", "known", cwd=tmp_path)
    cli("prepare", "--data-root", leaking.root, "--name", "bare", cwd=tmp_path)
    lists = ["annotation/known_train.csv", "annotation/bare_test.csv"]
    result = cli("prepare", "--check", "--check-faces", "0", *lists, "--label-map", "fer2013", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["name"], result.stderr


def test_clean_data_exit_with_zero_and_json_holds_both(cli, tiny_images, tmp_path) -> None:
    root = tiny_images(classes=7, size=32).root
    result = cli(
        "prepare", "--data-root", root, "--label-map", "dfew", "--check", "--check-faces", "0", "--json", cwd=tmp_path
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["manifest"]["name"] == "tiny_images"
    assert {check["verdict"] for check in told["check"]["checks"].values()} <= {"ok", "note", "skipped"}


def test_an_unknown_name_is_answered_with_those_there_are(cli, tiny_images, tmp_path) -> None:
    cli("prepare", "--data-root", tiny_images().root, cwd=tmp_path)
    result = cli("prepare", "--check", "--check-faces", "0", "tiny_image", cwd=tmp_path)
    assert result.exit_code == 1
    assert "Did you mean 'tiny_images'? Manifests in annotation: tiny_images." in result.stderr
    nothing = cli("prepare", "--check", "--check-faces", "0", "--out", tmp_path / "empty")
    assert nothing.exit_code == 1
    assert "no path files that `ecstfl prepare` wrote are in" in nothing.stderr


def test_without_a_data_root_and_without_check_nothing_can_be_done(cli, tmp_path) -> None:
    result = cli("prepare", cwd=tmp_path)
    assert result.exit_code == 2
    assert "--data-root" in result.stderr


def part_of(folder: Path, file: str, out: Path, *words: str) -> Path:
    """A list of the rows of real data that hold one of these words, with its header and absolute paths."""
    lines = (folder / file).read_text().splitlines()
    header = [line for line in lines[:1] if line.startswith("filePath")]
    rows = [f"{folder}/{line}" for line in lines if any(word in line for word in words)]
    out.mkdir(exist_ok=True)
    (out / file).write_text("\n".join([*header, *rows]) + "\n")
    return out / file


def test_short_clips_of_real_data_are_noted(cli, real_data, tmp_path) -> None:
    folder = real_data("ictfaces")
    lists = [part_of(folder, file, tmp_path / "in", " 5 ", " 8 ", " 16 ") for file in ("train.txt", "test.txt")]
    result = cli("prepare", "--check", "--check-faces", "0", *lists, "--label-map", "dfew", "--json", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    checks = json.loads(result.stdout)["checks"]
    assert "the shortest 5" in checks["short clips"]["summary"]
    assert {check["verdict"] for name, check in checks.items() if "copies" in name or "across" in name} == {"ok"}


def test_a_webp_by_the_name_of_a_jpeg_is_noted_in_real_data(cli, real_data, tmp_path) -> None:
    lists = [part_of(real_data("muxspace"), "train.csv", tmp_path / "in", "images/f", "images/A")]
    result = cli(
        "prepare", "--check", "--check-faces", "0", *lists, "--label-map", "muxspace", "--json", "--out", tmp_path
    )
    assert result.exit_code == 0, result.stderr
    (odd,) = json.loads(result.stdout)["checks"]["formats"]["items"]
    assert Path(odd["path"]).name == "facial-expressions_2868588k.jpg"


def test_copies_with_one_label_and_with_two_are_found_in_real_data(cli, real_data, tmp_path) -> None:
    words = ("angry_010", "angry_011", "angry_016", "fear_014", "PublicTest_angry_006")
    lists = [part_of(real_data("fer2013"), file, tmp_path / "in", *words) for file in ("train.csv", "val.csv")]
    result = cli(
        "prepare", "--check", "--check-faces", "0", *lists, "--label-map", "fer2013", "--json", "--out", tmp_path
    )
    assert result.exit_code == 1
    checks = json.loads(result.stdout)["checks"]
    pairs = {(Path(item["path"]).stem, Path(item["same_as"]).stem) for item in checks["copies"]["items"]}
    assert ("Training_angry_01065", "Training_angry_01026") in pairs
    assert any(item["labels"] == ["angry", "fear"] for item in checks["conflicting labels"]["items"])
    (leak,) = checks["across splits"]["items"]
    assert Path(leak["path"]).stem == "PublicTest_angry_00608"
