import json
from pathlib import Path

import pandas as pd
import pytest

from tests.small_model import save_small_model


@pytest.fixture
def model(tmp_path) -> Path:
    return save_small_model(tmp_path / "clips.safetensors")


def test_the_table_shows_predictions_classes_scores_and_files(cli, tmp_path, tiny_clips, model):
    data = tiny_clips(classes=3, per_class=2)
    result = cli("infer", data.test, "--model", model, "--label-map", "dfew", "--out", "o", "-j", "0", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    table = pd.read_csv(tmp_path / "o" / "predictions.csv")
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["path", "predicted", "probability", "label"]
    for line, row in zip(lines[1:7], table.itertuples(), strict=True):
        assert line.split()[:2] == [row.path, row.predicted_name]
    recalls = {line.split()[0]: line.split()[-1] for line in lines if line.split()[:1] in (["happy"], ["fear"])}
    assert recalls == {"happy": f"{metrics['per_class']['happy']['recall']:.2f}", "fear": "-"}
    assert f"WAR {metrics['war']:.2f}  UAR {metrics['uar']:.2f}" in result.stdout
    for name in ("predictions.csv", "metrics.json", "confusion.png"):
        assert f"wrote o/{name}" in lines
    assert "clips.safetensors: timm/test_resnet, clips 4x32x32, 7 classes, PyTorch on cpu" in result.stderr


def test_a_long_table_is_cut_and_says_where_the_rest_is(cli, tmp_path, tiny_clips, model):
    clips = tiny_clips(classes=6, per_class=2, frames=1).root / "clips"
    result = cli("infer", clips, "--model-name", model, "--batch_size", "8", "-j", "0", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("clips/t") == 20
    assert "… and 4 more, in runs/infer/" in result.stdout


def test_json_on_stdout_is_all_there_is_and_is_also_written(cli, tmp_path, tiny_clips, model):
    data = tiny_clips(classes=2, per_class=1)
    flags = ("--json", "--parquet", "--out", "o", "--type", "video", "--device", "cpu", "-j", "0")
    result = cli("infer", data.test, "--model", model, *flags, cwd=tmp_path)
    printed = json.loads(result.stdout)
    assert printed["model"]["source"] == str(model)
    assert printed["inputs"] == [str(data.test)]
    assert printed["out"] == "o"
    assert printed["metrics"]["war"] == json.loads((tmp_path / "o" / "metrics.json").read_text())["war"]
    assert printed["predictions"] == json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert len(pd.read_parquet(tmp_path / "o" / "predictions.parquet")) == 2


def test_what_cannot_be_used_is_one_message_on_stderr_and_exit_code_1(cli, tmp_path, model):
    result = cli("infer", "nothing.txt", "--model", model, cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing.txt: no such file" in result.stderr
    result = cli("infer", cwd=tmp_path / "..")
    assert result.exit_code == 1
    assert "no input was named" in result.stderr


def test_wrong_usage_is_exit_code_2(cli, model):
    assert cli("infer", "x.txt", "--model", model, "--type", "audio").exit_code == 2
    assert cli("infer", "x.txt", "--model", model, "-b", "0").exit_code == 2
