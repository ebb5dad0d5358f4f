"""Path files: whatever another machine or editor left in them is read as what it means, and errors name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecstfl_cli import pathfile
from ecstfl_cli.api import PathRow
from ecstfl_cli.components.label_maps import dfew
from ecstfl_cli.errors import DataError
from ecstfl_cli.pathfile import PathFile


def given(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labelled(path: Path, **options) -> PathFile:
    return pathfile.read(path, **{"root": None, "label_map": dfew, **options})


def error_of(path: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        labelled(path, **options)
    return caught.value


def as_read(file: PathFile) -> list[tuple[str, int | None, int | None]]:
    return [(row.path_as_written, row.label, row.n_frames) for row in file.rows]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "filePath,expression\na.jpg,0\nb.jpg,3\n",
        "FILEPATH,Expression\na.jpg,0\nb.jpg,3",
        "path,label\na.jpg,happy\nb.jpg,Anger\n",
        "id,expression,filePath,age\n7,0,a.jpg,30\n8,3,b.jpg,40\n",
        "\ufefffilePath,expression\r\na.jpg,0\r\n\r\nb.jpg,3\r\n,\r\n",
        'filePath,expression\n"a.jpg", 0 \n  b.jpg ,"3"\n',
    ],
    ids=["plain", "case", "names", "further columns", "bom, crlf, blank lines", "quotes and spaces"],
)
def test_image_lists_are_read_however_they_are_spelt(tmp_path: Path, content: str) -> None:
    found = labelled(given(tmp_path, "list.csv", content))
    assert found.modality == "img"
    assert as_read(found) == [("a.jpg", 0, None), ("b.jpg", 3, None)]


def test_a_quoted_path_may_hold_commas_and_an_unquoted_one_is_reported(tmp_path: Path) -> None:
    assert as_read(labelled(given(tmp_path, "good.csv", 'path,label\n"a,b.jpg",1\n'))) == [("a,b.jpg", 1, None)]
    error = error_of(given(tmp_path, "bad.csv", "path,label\na,b.jpg,1\n"))
    assert "bad.csv:2" in error.message
    assert "comma" in error.hint


def test_a_list_without_labels_is_fine_only_where_they_are_not_required(tmp_path: Path) -> None:
    bare = given(tmp_path, "bare.csv", "filePath\na.jpg\n")
    assert as_read(labelled(bare, require_labels=False)) == [("a.jpg", None, None)]
    assert "no label column" in error_of(bare).message
    partly = given(tmp_path, "partly.csv", "filePath,expression\na.jpg,\nb.jpg,-1\nc.jpg,2\n")
    assert [row.label for row in labelled(partly, require_labels=False).rows] == [None, None, 2]
    assert "has 2 wrong rows" in error_of(partly).message


# --- clips ----------------------------------------------------------------------------------------------------------


def test_a_folder_may_hold_spaces_and_tabs(tmp_path: Path) -> None:
    lines = "clips/my clip 2 16 3\nclips/a\tb\t12\thappy\n\n   \nplain 5   0  \n"
    found = labelled(given(tmp_path, "list.txt", "\ufeff" + lines.replace("\n", "\r\n")))
    assert found.modality == "video"
    assert as_read(found) == [("clips/my clip 2", 3, 16), ("clips/a\tb", 0, 12), ("plain", 0, 5)]
    assert [row.line for row in found.rows] == [1, 2, 5]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clips/a 16 3", ("clips/a", 3, 16)),
        ("clips/a 16 fear", ("clips/a", 6, 16)),
        ("clips/a 16 -1", ("clips/a", None, 16)),
        ("clips/a 16", ("clips/a", None, 16)),
        ("clips/my clip 16", ("clips/my clip", None, 16)),
        ("clips/my clip", ("clips/my clip", None, None)),
        ("take 2 smiling", ("take 2 smiling", None, None)),
        ("take 2 27 -1", ("take 2", None, 27)),
    ],
)
def test_without_required_labels_a_line_is_the_longest_form_it_fits(tmp_path: Path, line: str, expected) -> None:
    assert as_read(labelled(given(tmp_path, "list.txt", line), require_labels=False)) == [expected]


def test_a_label_outside_the_map_is_an_error_even_where_labels_are_not_required(tmp_path: Path) -> None:
    assert "'7'" in error_of(given(tmp_path, "list.txt", "a 16 7\n"), require_labels=False).message


# --- where the paths are --------------------------------------------------------------------------------------------


def test_relative_paths_start_from_the_folder_that_holds_most_of_them(tmp_path: Path, monkeypatch) -> None:
    root, beside, current = (tmp_path / name for name in ("root", "beside", "current"))
    for folder in (root, beside, current):
        folder.mkdir()
    monkeypatch.chdir(current)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    path = given(beside, "list.csv", "path,label\n" + "".join(f"{name},0\n" for name in names))

    def sources(root: Path | None) -> set[Path]:
        return {row.source.absolute().parent for row in labelled(path, root=root).rows}

    assert sources(root) == {root}, "nothing exists anywhere: the root that was asked for"
    assert sources(None) == {beside}
    given(current, "a.jpg", b"x")
    assert sources(None) == {current}
    assert sources(root) == {current}
    for name in names[:2]:
        given(root, name, b"x")
    assert sources(root) == {root}, "one folder for all rows of a file"
    assert sources(None) == {current}


@pytest.mark.skipif("os.name == 'nt'")
@pytest.mark.parametrize(
    ("written", "location"),
    [
        (r"clips\00001", "clips/00001"),
        (r"clips\\sub\\00001", "clips/sub/00001"),
        (r"D:\DFEW\00001", "D:/DFEW/00001"),
        (r"D:\\DFEW\\00001", "D:/DFEW/00001"),
        (r"\\server\share\00001", "//server/share/00001"),
        ("/data/00001", "/data/00001"),
    ],
)
def test_windows_paths_are_read_as_what_they_mean(tmp_path: Path, written: str, location: str) -> None:
    (row,) = labelled(given(tmp_path, "list.txt", f"{written} 16 0")).rows
    assert row.path_as_written == written
    absolute = location.startswith("/") or ":" in location
    assert row.source == (Path(location) if absolute else tmp_path / location)


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_all_wrong_rows_are_reported_with_the_first_twenty_and_a_total(tmp_path: Path) -> None:
    lines = [f"clip{i} 16 {label}" for i, label in enumerate(["0"] * 3 + ["7", "boredom", "-2", "1.5"] + ["9"] * 30)]
    lines[1] = "clip1 sixteen 0"
    lines[2] = "justonefield"
    path = given(tmp_path, "list.txt", "\n".join(lines))
    message = error_of(path).message
    assert "has 36 wrong rows" in message
    assert f"{path}:2: " in message
    assert "'justonefield'" in message
    assert f"{path}:5: clip4: label 'boredom' is not in label map 'dfew'" in message
    assert f"{path}:21: " in message
    assert f"{path}:22: " not in message
    assert "16 more" in message
    assert "0 happy" in error_of(path).hint


def test_scan_returns_the_wrong_rows_beside_the_good_ones(tmp_path: Path) -> None:
    path = given(tmp_path, "list.csv", "path,label\na.jpg,0\nb.jpg,99\n,3\nc.jpg,²\nd.jpg,1\n")
    found = pathfile.scan(path, root=None, label_map=dfew)
    assert [row.path_as_written for row in found.rows] == ["a.jpg", "d.jpg"]
    assert [(p.line, p.path) for p in found.problems] == [(3, "b.jpg"), (4, ""), (5, "c.jpg")]


def test_without_a_label_map_labels_are_indices_and_a_name_asks_for_the_map(tmp_path: Path) -> None:
    found = labelled(given(tmp_path, "indices.csv", "path,label\na.jpg,0\nb.jpg,42\n"), label_map=None)
    assert [row.label for row in found.rows] == [0, 42]
    assert "--label-map" in error_of(given(tmp_path, "names.csv", "path,label\na.jpg,happy\n"), label_map=None).hint
    assert "negative" in error_of(given(tmp_path, "minus.csv", "path,label\na.jpg,-3\n"), label_map=None).message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", "", "is empty"),
        ("list.txt", "\n  \n", "is empty"),
        ("list.csv", "filePath,expression\n", "no rows"),
        ("list.csv", "a.jpg,0\nb.jpg,1\n", "no path column; its first line is 'a.jpg,0'"),
        ("list.json", "{}", "not a path file"),
        ("list.csv", b"path,label\nd\xe9j\xe0.jpg,1\n", "not UTF-8 but perhaps CP1252 or GB18030: byte 0xe9 in line 2"),
        ("list.txt", "clips/a 16 0\n".encode("utf-16"), "UTF-16"),
        ("list.csv", 'path,label\n"a.jpg,0\nb.jpg,1\n', "cannot be read from here on"),
    ],
)
def test_a_file_that_is_no_path_file_says_so(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    assert message in error_of(given(tmp_path, name, content)).message


@pytest.mark.parametrize(
    ("name", "row"), [("a.csv", "filePath,expression\nb\0.jpg,3\nc.jpg,1\n"), ("a.txt", "b\0 5 3\nc 5 1\n")]
)
def test_a_path_with_a_nul_character_is_a_problem_of_its_row(tmp_path: Path, name: str, row: str) -> None:
    (tmp_path / name).write_text(row)
    found = pathfile.scan(tmp_path / name, root=None, label_map=None)
    assert [row.label for row in found.rows] == [1]
    assert ["NUL" in str(problem) for problem in found.problems] == [True]


@pytest.mark.parametrize("header", ["filePath,expression,expression", "path,label,path"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\na.jpg,1,2\n")
    with pytest.raises(DataError, match=r"has 2 columns '(expression|path)'"):
        pathfile.scan(tmp_path / "a.csv", root=None, label_map=None)


def test_a_missing_path_file_says_how_to_make_one(tmp_path: Path) -> None:
    assert "ecstfl prepare" in error_of(tmp_path / "gone.csv").hint
    (tmp_path / "folder.csv").mkdir()
    assert "cannot read" in error_of(tmp_path / "folder.csv").message


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modality", "rows"),
    [
        ("l.csv", "img", [PathRow("a, b.jpg", 3), PathRow('say "hi".jpg', 0), PathRow("c.jpg")]),
        ("l.txt", "video", [PathRow("my clip", 3, 16), PathRow("take 2", None, 27), PathRow("a\tb", 0, 5)]),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, name: str, modality, rows: list[PathRow]) -> None:
    pathfile.write(tmp_path / "new" / name, rows, modality)
    found = labelled(tmp_path / "new" / name, require_labels=False)
    assert as_read(found) == [(row.path, row.label, row.n_frames) for row in rows]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("l.csv", PathRow("a", 1, 5)),
        ("l.txt", PathRow("a", 1)),
        ("l.txt", PathRow("a\nb", 1, 5)),
        ("l.txt", PathRow("", 1, 5)),
    ],
    ids=["images for clips", "no count", "line break", "no folder"],
)
def test_what_a_path_file_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, row: PathRow
) -> None:
    with pytest.raises(DataError):
        pathfile.write(tmp_path / name, [row], "video")
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_real_data_is_read_to_its_published_counts(real_data) -> None:
    found = labelled(real_data("ictfaces") / "train.txt")
    assert [sum(row.label == k for row in found.rows) for k in range(7)] == [145, 110, 155, 130, 90, 14, 56]
    assert all(row.source.is_dir() for row in found.rows)
