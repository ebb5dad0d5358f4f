"""Subjects and soft labels travel with path files of both kinds and are read by one function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecstfl_cli import extra_columns, pathfile
from ecstfl_cli.api import Modality, PathRow
from ecstfl_cli.components.label_maps import dfew, fer2013
from ecstfl_cli.errors import DataError
from ecstfl_cli.extra_columns import read_extra_columns

VOTES = [(8, 0, 2, 0, 0, 0, 0), (0,) * 7, (0, 0, 0, 0, 1, 1, 2)]
ROWS = {
    "list.csv": [PathRow(f"{i}, a.png", i, None, f"S{i}" if i else None, votes) for i, votes in enumerate(VOTES)],
    "list.txt": [PathRow(f"{i}, a b", i, 5, f"S{i}" if i else None, votes) for i, votes in enumerate(VOTES)],
}
KINDS: list[tuple[str, Modality]] = [("list.csv", "img"), ("list.txt", "video")]


@pytest.mark.parametrize(("name", "modality"), KINDS)
def test_what_is_written_is_read_back(tmp_path: Path, name: str, modality: Modality) -> None:
    extra_columns.write(tmp_path / name, ROWS[name], modality, dfew.names)
    found = read_extra_columns(tmp_path / name, dfew)
    listed = pathfile.read(tmp_path / name, root=None, label_map=dfew)
    assert [found.row[row.path_as_written] for row in listed.rows] == [0, 1, 2]
    assert [row.label for row in listed.rows] == [0, 1, 2]
    assert found.subjects == ["", "S1", "S2"]
    assert found.soft_labels is not None
    assert found.soft_labels.dtype == np.float32
    expected = [[0.8, 0, 0.2, 0, 0, 0, 0], [np.nan] * 7, [0, 0, 0, 0, 0.25, 0.25, 0.5]]
    np.testing.assert_allclose(found.soft_labels, expected, atol=1e-6)


@pytest.mark.parametrize(("name", "modality"), KINDS)
def test_a_file_without_extra_columns_has_none(tmp_path: Path, name: str, modality: Modality) -> None:
    plain = [PathRow(row.path, row.label, row.n_frames) for row in ROWS[name]]
    extra_columns.write(tmp_path / name, plain, modality, dfew.names)
    found = read_extra_columns(tmp_path / name, dfew)
    assert (found.subjects, found.soft_labels) == (None, None)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_columns_of_votes_are_found_by_name_in_any_order_and_spelling(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    names = "Neutral,Surprised,sadness,HAPPY,fear,disgust,anger"
    path.write_text(f"path,age,{names},label\na.png,30,1,0,0,9,0,0,0,3\n")
    found = read_extra_columns(path, fer2013)
    assert found.soft_labels is not None
    np.testing.assert_allclose(found.soft_labels, [[0, 0, 0, 0.9, 0, 0, 0.1]], atol=1e-6)
    assert read_extra_columns(path).soft_labels is None
    path.write_text("path,happy,sad,label\na.png,1,0,3\n")
    assert read_extra_columns(path, fer2013).soft_labels is None, "not every class has a column"


@pytest.mark.parametrize("cell", ["-1", "many", "nan"])
def test_what_is_no_share_of_votes_is_an_error_with_its_line(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "own.csv"
    row = "a.png,0,1,0,0,0,0,0,0\n"
    path.write_text(f"path,label,{','.join(dfew.names)}\n{row}{row.replace(',1,', f',{cell},')}")
    with pytest.raises(DataError, match=r"own.csv:3: soft labels must be numbers"):
        read_extra_columns(path, dfew)


def test_two_columns_of_one_class_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"path,label,{','.join(dfew.names)},Happiness\na.png,0,1,0,0,0,0,0,0,5\n")
    with pytest.raises(DataError, match="two columns of the class 'happy'"):
        read_extra_columns(path, dfew)


def test_lists_in_a_data_root_keep_theirs(cli: Callable, tiny_images: Callable, tmp_path: Path) -> None:
    data = tiny_images(classes=2, per_class=1)
    shares = ",".join("0.75" if name == "sad" else "0.25" if name == "fear" else "0" for name in dfew.names)
    rows = [
        f"images/train_{name}_0.jpg,{dfew.index(name)},{subject}"
        for name, subject in (("happy", "ann"), ("sad", "bob"))
    ]
    lines = [f"path,label,subject,{','.join(dfew.names)}", f"{rows[0]}{',' * len(dfew)}", f"{rows[1]},{shares}"]
    data.train.write_text("\n".join(lines) + "\n")
    out = tmp_path / "annotation"
    result = cli("prepare", "--data-root", data.root, "--label-map", "dfew", "--name", "own", "--out", out)
    assert result.exit_code == 0, result.stderr
    found = read_extra_columns(out / "own_train.csv", dfew)
    assert found.subjects == ["ann", "bob"]
    assert found.soft_labels is not None
    assert np.isnan(found.soft_labels[0]).all()
    assert found.soft_labels[1].tolist() == [0, 0.75, 0, 0, 0, 0, 0.25]


def test_votes_that_are_not_of_the_label_map_are_refused(tmp_path: Path) -> None:
    rows = [PathRow("a.png", 0, soft_label=(1, 2))]
    with pytest.raises(DataError, match=r"a\.png has 2 votes, where the label map has 7 classes"):
        extra_columns.write(tmp_path / "list.csv", rows, "img", dfew.names)
    assert not (tmp_path / "list.csv").exists()
