"""Tables of rows: what grows, is joined and converted says the same everywhere, and nothing is half-written."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pandas as pd
import pytest

from ecstfl_cli.errors import EcstflError, OutputError
from ecstfl_cli.media.row_tables import RowTable, convert_table, join_tables

COLUMNS = ["source", "frame", "time", "face", "expression", "prob_happy"]


def row(source: str = "a.mp4", frame: int = 0, prob: float = 0.25) -> dict:
    return dict(zip(COLUMNS, [source, frame, frame / 25, 0, "happy", prob], strict=True))


def write(path: Path, *rows: dict) -> Path:
    with RowTable(path, COLUMNS) as table:
        table.write(rows)
    return path


def test_rows_can_be_read_while_they_come_and_the_file_appears_when_all_have(tmp_path: Path) -> None:
    with RowTable(tmp_path / "rows.csv", COLUMNS) as table:
        table.write([row(frame=0), row(frame=1)])
        (partial,) = tmp_path.iterdir()
        assert partial.name != "rows.csv"
        assert len(pd.read_csv(partial)) == 2
        table.write([row(frame=2)])
    assert pd.read_csv(tmp_path / "rows.csv")["frame"].tolist() == [0, 1, 2]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dict contains fields"), RowTable(tmp_path / "rows.csv", COLUMNS) as table:
        table.write([row(), {"unknown": 1}])
    assert list(tmp_path.iterdir()) == []


def test_joined_parts_are_what_one_table_would_be(tmp_path: Path) -> None:
    odd = 'a, "b"\nc\udcff.mp4'
    parts = [write(tmp_path / "1.csv", row(odd), row()), write(tmp_path / "2.csv"), write(tmp_path / "3.csv", row())]
    join_tables(parts, COLUMNS, tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_bytes() == write(tmp_path / "one.csv", row(odd), row(), row()).read_bytes()
    assert pd.read_csv(tmp_path / "joined.csv")["source"][0] == 'a, "b"\nc\\udcff.mp4'


def test_json_and_parquet_hold_the_csv_with_types(tmp_path: Path) -> None:
    rows = [row(prob=1.0), row("null", 1, 0.123456), row("", 2)]
    source = write(tmp_path / "rows.csv", *rows)
    convert_table(source, tmp_path / "rows.json")
    convert_table(source, tmp_path / "rows.parquet")
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert table.to_dict("records") == rows
    assert table["frame"].dtype == "int64"
    assert table["prob_happy"].dtype == "float64"


def test_no_rows_are_an_empty_list_and_a_parquet_file_with_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv")
    convert_table(source, tmp_path / "rows.json")
    convert_table(source, tmp_path / "rows.parquet")
    assert json.loads((tmp_path / "rows.json").read_text()) == []
    assert list(pd.read_parquet(tmp_path / "rows.parquet").columns) == COLUMNS


def test_many_rows_are_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("ecstfl_cli.media.row_tables.BLOCK", 4096)
    source = write(tmp_path / "rows.csv", *(row(frame=n) for n in range(1000)))
    convert_table(source, tmp_path / "rows.parquet")
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups > 4
    assert pd.read_parquet(tmp_path / "rows.parquet")["frame"].tolist() == list(range(1000))


def test_a_full_disk_and_an_unknown_ending_are_said(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", *(row(frame=n) for n in range(2000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*joined\.csv: File too large"):
            join_tables([source], COLUMNS, tmp_path / "joined.csv")
        with pytest.raises(OutputError, match=r"cannot write .*rows\.json"):
            convert_table(source, tmp_path / "rows.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    with pytest.raises(EcstflError, match=r"(?s)rows\.xlsx.*\.csv, \.json, \.parquet"):
        convert_table(source, tmp_path / "rows.xlsx")
    with pytest.raises(OutputError, match="cannot write"), RowTable(source / "below.csv", COLUMNS):
        pass
