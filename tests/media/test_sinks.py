import csv
import json

import numpy as np
import pandas as pd
import pytest

from ecstfl_cli.engine.evaluate import Predictions
from ecstfl_cli.errors import EcstflError
from ecstfl_cli.media.sinks import prediction_rows, write_predictions

NAMES = ("happy", "sad", "neutral")
COLUMNS = ["path", "label", "predicted", "predicted_name", "prob_happy", "prob_sad", "prob_neutral"]


@pytest.fixture
def predictions() -> Predictions:
    return Predictions(
        ['clips/a, with "quotes"', "clips/ü"],
        np.array([1, -1]),
        np.array([[0.2, 0.7, 0.1], [0.123456789, 0.3, 0.576543211]], dtype=np.float32),
    )


def test_a_csv_has_one_line_a_sample_and_nothing_where_the_label_is_unknown(tmp_path, predictions):
    write_predictions(predictions, NAMES, tmp_path / "new" / "predictions.csv")
    with (tmp_path / "new" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        header, first, second = csv.reader(file)
    assert header == COLUMNS
    assert first == ['clips/a, with "quotes"', "1", "1", "sad", "0.200000", "0.700000", "0.100000"]
    assert second == ["clips/ü", "", "2", "neutral", "0.123457", "0.300000", "0.576543"]


def test_json_and_parquet_hold_what_the_csv_holds(tmp_path, predictions):
    for ending in ("csv", "json", "parquet"):
        write_predictions(predictions, NAMES, tmp_path / f"predictions.{ending}")
    rows = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert rows == prediction_rows(predictions, NAMES)
    assert rows[1]["label"] is None
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(table.columns) == COLUMNS
    assert table["label"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "predictions.csv"), check_dtype=False)


def test_no_prediction_still_gives_the_columns(tmp_path):
    nothing = Predictions([], np.array([], dtype=np.int64), np.empty((0, 3), dtype=np.float32))
    write_predictions(nothing, NAMES, tmp_path / "predictions.csv")
    assert (tmp_path / "predictions.csv").read_text().strip() == ",".join(COLUMNS)


def test_an_unknown_ending_is_refused_naming_the_known_ones(tmp_path, predictions):
    with pytest.raises(EcstflError, match=r"(?s)predictions\.xlsx.*\.csv, \.json, \.parquet"):
        write_predictions(predictions, NAMES, tmp_path / "predictions.xlsx")


def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(tmp_path, predictions):
    target = tmp_path / "predictions.json"
    write_predictions(predictions, NAMES, target)
    before = target.read_bytes()
    predictions.clip_ids[0] = "\udcff"  # a file name that is not UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_predictions(predictions, NAMES, target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
