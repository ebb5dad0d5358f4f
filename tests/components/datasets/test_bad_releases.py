"""Releases that are damaged, incomplete or hostile: one clear error, nothing half-written, nothing else touched."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.components.datasets import layouts
from tests.components.datasets.layouts import text

Build = Callable[[Path], None]


@pytest.fixture
def prepared(cli, tmp_path: Path) -> Callable:
    """`prepared(*flags)` runs prepare on `data` in the test's folder."""

    def run(*flags: str | Path):
        return cli("prepare", "--data-root", tmp_path / "data", *flags, cwd=tmp_path)

    return run


@contextmanager
def disk_that_takes(n_bytes: int) -> Iterator[None]:
    """No file can be larger: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- lists -----------------------------------------------------------------------------------------------------------

DFEW_LIST = "EmoLabel_DataSplit/train(single-labeled)/set_2.csv"
FERV_LIST = "4_setups/All_scenes/train_All.csv"
MAFW_LIST = "single/no_caption/set_4/test.txt"
RAFDB_LIST = "EmoLabel/list_patition_label.txt"
AFFECTNET_LIST = "Manually_Annotated_file_lists/training.csv"
AFFECTNET_ROW = "{},0,0,9,9,1;2,{},0,0\n"


@pytest.mark.parametrize(
    ("build", "file", "row", "said"),
    [
        (layouts.dfew, DFEW_LIST, "../../../etc/passwd,1\n", "leads out of the data root"),
        (layouts.dfew, DFEW_LIST, "/etc/passwd,1\n", "leads out"),
        (layouts.dfew, DFEW_LIST, "12,0\n", "label '0' is not 1 to 7"),
        (layouts.dfew, DFEW_LIST, "12\n", "1 columns, wanted video_name, label"),
        (layouts.dfew, DFEW_LIST, '"12,4\n', "cannot be read from here on"),
        (layouts.ferv39k, FERV_LIST, "..\\..\\Sad\\0010 Sad\n", "leads out"),
        (layouts.ferv39k, FERV_LIST, "Action/Sad/0010 Bored\n", "'Bored' is not one of happy, sad"),
        (layouts.mafw, MAFW_LIST, "../../etc/passwd anger\n", "leads out"),
        (layouts.mafw, MAFW_LIST, "03747.mp4 anger,fear\n", "label 'anger,fear' is not of angry"),
        (layouts.mafw, MAFW_LIST, "03747.mp4\n", "label '' is not of angry"),
        (layouts.rafdb, RAFDB_LIST, "train_../../../etc/passwd 5\n", "leads out"),
        (layouts.rafdb, RAFDB_LIST, "train_00001.jpg 8\n", "a label from 1 to 7"),
        (layouts.affectnet, AFFECTNET_LIST, AFFECTNET_ROW.format("../../etc/passwd", 1), "leads out"),
        (layouts.affectnet, AFFECTNET_LIST, AFFECTNET_ROW.format("459/a.jpg", 11), "expression '11' is not 0 to 10"),
        (layouts.fer2013, "fer2013.csv", "0,1 2 3,Training\n", "pixels are not 2304 numbers from 0 to 255"),
        (layouts.fer2013, "fer2013.csv", f"0,{'300 ' * 2304},Training\n", "pixels are not 2304 numbers"),
        (layouts.fer2013, "fer2013.csv", f"0,{'1 ' * 2300}x 1 1 1,Training\n", "pixels are not 2304 numbers"),
        (layouts.fer2013, "fer2013.csv", f"0,{'1 ' * 2304},Testing\n", "Usage 'Testing' is not one of Training"),
        (layouts.fer2013, "fer2013.csv", f"7,{'1 ' * 2304},Training\n", "emotion '7' is not 0 to 6"),
        (layouts.ferplus, "fer2013new.csv", "Training,a.png,1,x,0,0,0,0,0,0,0,0\n", "votes are whole numbers"),
        (layouts.ckplus, "Emotion/S005/001/S005_001_00000011_emotion.txt", "9", "emotion '3.0000000e+00\\n9'"),
    ],
)
def test_a_wrong_row_is_named_with_its_file_and_nothing_is_written(
    prepared, tmp_path: Path, build: Build, file: str, row: str, said: str
) -> None:
    build(tmp_path / "data")
    with (tmp_path / "data" / file).open("a", newline="") as listed:
        listed.write(row)
    result = prepared()
    assert result.exit_code == 1
    assert said in result.stderr
    assert Path(file).name in result.stderr
    assert not (tmp_path / "annotation").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"\x00\x01\xff\xfe" * 30, "is no text in UTF-8, UTF-16 or GB18030"),
        (b"clip,emotion\n1,1\n", "has no column video_name, label; its first line is 'clip,emotion'"),
    ],
)
def test_a_list_that_is_none_says_so(prepared, tmp_path: Path, content: bytes, said: str) -> None:
    layouts.dfew(tmp_path / "data")
    text(tmp_path / "data" / DFEW_LIST, content)
    result = prepared()
    assert result.exit_code == 1
    assert said in result.stderr
    assert "set_2.csv" in result.stderr


@pytest.mark.parametrize(
    ("build", "file"), [(layouts.dfew, DFEW_LIST), (layouts.mafw, MAFW_LIST), (layouts.ferv39k, FERV_LIST)]
)
def test_a_list_that_is_not_there_is_named(prepared, tmp_path: Path, build: Build, file: str) -> None:
    build(tmp_path / "data")
    (tmp_path / "data" / file).unlink()
    name = "ferv39k" if build is layouts.ferv39k else build.__name__
    result = prepared("--dataset", name)
    assert result.exit_code == 1
    assert Path(file).stem in result.stderr
    assert "Wanted" in result.stderr or "wanted" in result.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_lists_of_other_encodings_and_separators_are_read(prepared, tmp_path: Path, encoding: str) -> None:
    layouts.ferv39k(tmp_path / "data")
    for clip in ("Action/Sad/他笑了 1", "Action/Sad/0010"):
        layouts.frames(tmp_path / "data/2_ClipsforFaceCrop" / clip)
    lines = "path,label\r\n2Action\\Sad\\他笑了 1,Sad\r\n\r\nAction\\\\Sad\\\\0010\tSadness\r\n".replace("2A", "A")
    text(tmp_path / "data" / FERV_LIST, lines.encode(encoding))
    result = prepared()
    assert result.exit_code == 0, result.stderr
    clips = tmp_path / "data/2_ClipsforFaceCrop/Action/Sad"
    listed = (tmp_path / "annotation/ferv39k_train.txt").read_text(encoding="utf-8").splitlines()
    assert listed == [f"{clips}/他笑了 1 2 1", f"{clips}/0010 11 1"]


# --- votes in xlsx, annotations in npy -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "text", "other columns", "no numbers"])
def test_votes_that_cannot_be_read_are_an_error_that_says_how_to_go_on(prepared, tmp_path: Path, damage: str) -> None:
    import openpyxl

    layouts.dfew(tmp_path / "data")
    path = tmp_path / "data/EmoLabel_DataSplit/annotation.xlsx"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not a workbook")
    else:
        book = openpyxl.load_workbook(path)
        sheet = book.worksheets[0]
        sheet["A1" if damage == "other columns" else "A2"] = "many"
        book.save(path)
    result = prepared()
    assert result.exit_code == 1
    assert "annotation.xlsx" in result.stderr
    assert not (tmp_path / "annotation").exists()
    path.unlink()
    again = prepared()
    assert again.exit_code == 0
    assert "no annotation.xlsx" in again.stderr


def test_labels_that_contradict_the_votes_are_a_warning(prepared, tmp_path: Path) -> None:
    layouts.dfew(tmp_path / "data")
    text(tmp_path / "data" / DFEW_LIST, "video_name,label\n1,2\n12,4\n")
    result = prepared()
    assert result.exit_code == 0
    assert "1 clips have a label that is not the class with most votes in annotation.xlsx: Clip/clip_224x224/00001" in (
        result.stderr
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", "cannot be read"),
        ("pickled", "cannot be read"),
        ("empty", "cannot be read"),
        ("missing", "no such file"),
        ("several", "2 values"),
        ("outside", "expression '11' is not 0 to 10"),
    ],
)
def test_an_annotation_that_is_no_label_is_named(prepared, tmp_path: Path, damage: str, said: str) -> None:
    layouts.affectnet_npy(tmp_path / "data")
    path = tmp_path / "data/train_set/annotations/10_exp.npy"
    if damage == "pickled":
        np.save(path, np.array({"harm": "done"}, dtype=object), allow_pickle=True)
    elif damage in ("several", "outside"):
        np.save(path, np.array(["1", "2"] if damage == "several" else 11))
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2] if damage == "truncated" else b"")
    result = prepared()
    assert result.exit_code == 1
    assert "10_exp.npy" in result.stderr
    assert said in result.stderr


# --- what lies on disk -----------------------------------------------------------------------------------------------


def test_clips_that_are_missing_or_empty_are_reported_and_can_be_left_out(prepared, tmp_path: Path) -> None:
    layouts.dfew_older(tmp_path / "data")
    layouts.sheet(tmp_path / "data/label/annotation.xlsx")
    for frame in (tmp_path / "data/data/00012").iterdir():
        frame.unlink()
    result = prepared()
    assert result.exit_code == 1
    assert "00012: folder holds no images" in result.stderr
    assert prepared("--skip-bad").exit_code == 0
    assert "00012" not in (tmp_path / "annotation/dfew_fold3_train.txt").read_text()
    assert "00012" not in (tmp_path / "annotation/dfew_fold3_train.extra.csv").read_text()


def test_links_that_lead_round_in_circles_are_passed_over(prepared, tmp_path: Path) -> None:
    layouts.class_folders(tmp_path / "data")
    (tmp_path / "data/Training/sad/loop").symlink_to(tmp_path / "data/Training/sad/loop")
    (tmp_path / "data/Training/sad/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/Training/sad/gone.png").symlink_to("nowhere.png")
    result = prepared()
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "annotation/data.json").read_text())["samples"] == {"train": 3, "test": 3}


def test_a_clip_that_is_a_circular_link_is_reported(prepared, tmp_path: Path) -> None:
    layouts.dfew_older(tmp_path / "data")
    releases_clip = tmp_path / "data/data/00345"
    for frame in releases_clip.iterdir():
        frame.unlink()
    releases_clip.rmdir()
    releases_clip.symlink_to(releases_clip)
    result = prepared("--skip-bad")
    assert result.exit_code == 1, "no sample of the test lists is left"
    assert "cannot be read: Too many levels of symbolic links" in result.stderr


def test_class_folders_with_stills_and_videos_ask_which(prepared, tmp_path: Path) -> None:
    layouts.class_folders(tmp_path / "data")
    layouts.video(tmp_path / "data/Test/sad/a.mp4")
    result = prepared()
    assert result.exit_code == 1
    assert "hold images and videos" in result.stderr
    assert "--option kind=images|videos" in result.stderr
    assert prepared("--option", "kind=images").exit_code == 0


def test_class_folders_of_other_names_are_only_taken_when_asked_for(prepared, tmp_path: Path) -> None:
    for name in ("smile", "frown"):
        layouts.image(tmp_path / "data" / name / "1.jpg")
    assert "no data set is recognised" in prepared().stderr
    result = prepared("--dataset", "class_folders")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "annotation/data.json").read_text())
    assert manifest["label_map"] == ["frown", "smile"]


def test_a_release_one_folder_further_down_is_pointed_at(cli, tmp_path: Path) -> None:
    layouts.rafdb(tmp_path / "downloads" / "RAF")
    result = cli("prepare", "--data-root", tmp_path / "downloads", cwd=tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}/downloads/RAF is recognised as rafdb" in result.stderr


def test_an_archive_is_to_be_unpacked(cli, tmp_path: Path) -> None:
    (tmp_path / "DFEW.zip").write_bytes(b"PK")
    assert "Unpack it first" in cli("prepare", "--data-root", tmp_path / "DFEW.zip").stderr


# --- FERPlus and FER2013 ---------------------------------------------------------------------------------------------


def test_votes_without_their_images_say_what_is_missing(prepared, tmp_path: Path) -> None:
    layouts.ferplus(tmp_path / "data")
    (tmp_path / "data/fer2013.csv").unlink()
    result = prepared()
    assert result.exit_code == 1
    assert "put its fer2013.csv beside fer2013new.csv" in result.stderr


def test_votes_for_other_rows_are_refused(prepared, tmp_path: Path) -> None:
    layouts.ferplus(tmp_path / "data")
    path = tmp_path / "data/fer2013new.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    result = prepared()
    assert result.exit_code == 1
    assert "do not go together: 5 and 6 rows" in result.stderr


def test_a_full_disk_leaves_no_list_and_the_next_run_goes_on(prepared, tmp_path: Path) -> None:
    layouts.fer2013(tmp_path / "data")
    with disk_that_takes(40):
        result = prepared()
    assert result.exit_code == 1
    assert "cannot write images" in result.stderr
    assert "0 of 6 are there" in result.stderr
    assert files_in(tmp_path / "annotation") == set()
    kept = tmp_path / "annotation/fer2013_images.unfinished/fer0000000.png"
    Image.new("L", (48, 48), 7).save(tmp_path / "broken.png")
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes((tmp_path / "broken.png").read_bytes()[:20])
    assert prepared().exit_code == 0
    written = files_in(tmp_path / "annotation")
    assert {name for name in written if name.endswith("png")} == {f"fer2013_images/fer000000{i}.png" for i in range(6)}
    with Image.open(tmp_path / "annotation/fer2013_images/fer0000000.png") as image:
        assert np.asarray(image)[0, :3].tolist() == [0, 255, 7]


def test_images_that_are_there_are_kept_and_those_of_others_are_not_overwritten(prepared, tmp_path: Path) -> None:
    layouts.ferplus(tmp_path / "data")
    assert prepared().exit_code == 0
    image = tmp_path / "annotation/fer2013_images/fer0000003.png"
    before = image.stat().st_mtime_ns
    assert prepared("--dataset", "fer2013").exit_code == 0
    assert image.stat().st_mtime_ns == before
    Image.new("L", (48, 48), 9).save(image)
    mine = image.read_bytes()
    result = prepared()
    assert result.exit_code == 1
    assert "fer0000003.png is another image" in result.stderr
    assert image.read_bytes() == mine


@pytest.mark.parametrize("first", [True, False])
def test_lists_and_manifest_appear_together_or_not_at_all(prepared, tmp_path: Path, first: bool) -> None:
    layouts.dfew(tmp_path / "data")
    if not first:
        assert prepared().exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "annotation").rglob("*")}
    with disk_that_takes(150):
        result = prepared("--label-map", "fer2013")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "annotation").rglob("*")} == before
    assert prepared("--label-map", "fer2013").exit_code == 0, "nothing that is left stands in the way"


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("clip=original", "has no option 'clip' Did you mean 'clips'? Its options and defaults: clips=auto"),
        ("clips=7", "option 'clips' of data set 'dfew' takes a word, not 7"),
        ("clips=small", "option 'clips' cannot be 'small' It may be auto, clip_224x224"),
        ("original", "'original' is not of the form key=value"),
    ],
)
def test_an_option_that_does_not_exist_lists_those_that_do(prepared, tmp_path: Path, option: str, said: str) -> None:
    layouts.dfew(tmp_path / "data")
    result = prepared("--option", option)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())


def test_more_folds_than_subjects_are_refused(prepared, tmp_path: Path) -> None:
    layouts.cremad(tmp_path / "data")
    for folds in (1, 6):
        result = prepared("--option", f"folds={folds}")
        assert result.exit_code == 1
        assert f"5 subjects cannot make {folds} folds" in result.stderr


# --- what is carried on ----------------------------------------------------------------------------------------------


def test_subjects_and_votes_move_with_a_list_that_is_re_rooted(cli, prepared, tmp_path: Path) -> None:
    layouts.dfew(tmp_path / "data")
    assert prepared().exit_code == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    listed = tmp_path / "annotation/dfew_fold1_train.txt"
    result = cli("prepare", "--data-root", tmp_path / "moved", listed, "--out", "new", "--json", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    old = (tmp_path / "annotation/dfew_fold1_train.extra.csv").read_text()
    new = (tmp_path / "new/dfew_fold1_train.extra.csv").read_text()
    assert new == old.replace(f"{tmp_path}/data/", f"{tmp_path}/moved/")
    assert json.loads(result.stdout)["manifest"]["extra"] == {"train": "dfew_fold1_train.extra.csv"}


def test_a_sidecar_of_an_older_list_does_not_stay_beside_a_new_one(prepared, tmp_path: Path) -> None:
    layouts.dfew(tmp_path / "data")
    assert prepared().exit_code == 0
    assert (tmp_path / "annotation/dfew_fold1_train.extra.csv").exists()
    (tmp_path / "data/EmoLabel_DataSplit/annotation.xlsx").unlink()
    assert prepared().exit_code == 0
    assert not list((tmp_path / "annotation").glob("*.extra.csv"))
