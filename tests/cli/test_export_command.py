import json
from pathlib import Path

import pytest

from tests.small_model import save_small_model


@pytest.fixture
def model(tmp_path) -> Path:
    return save_small_model(tmp_path / "m.safetensors", "img")


def test_it_says_what_was_written_how_far_it_is_off_and_what_comes_next(cli, tmp_path, model):
    result = cli("export", model, "--format", "onnx", "--out", "model.onnx", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    size = (tmp_path / "model.onnx").stat().st_size / 1e6
    assert f"model.onnx ({size:.1f} MB)" in result.stdout
    assert "frames uint8 (B, 32, 32, 3)" in result.stdout
    assert "probs float32 (B, 7): happy, sad, neutral, angry, surprise, disgust, fear" in result.stdout
    assert "tolerance 1e-04; same class for 8 of 8 samples" in result.stdout
    assert "ecstfl infer INPUT --model model.onnx" in result.stdout


def test_json_is_all_there_is_on_stdout(cli, tmp_path, model):
    printed = json.loads(cli("export", model, "--json", "--tolerance", "1e-3", cwd=tmp_path).stdout)
    assert printed["path"] == str(tmp_path / "m.onnx")
    assert printed["comparison"]["difference"] <= printed["tolerance"] == 1e-3


def test_a_difference_above_the_tolerance_fails_the_command(cli, tmp_path, model):
    result = cli("export", model, "--tolerance", "0", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "more than the tolerance 0" in result.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_an_unknown_format_suggests_the_right_one(cli, model):
    result = cli("export", model, "--format", "onx")
    assert result.exit_code == 1
    assert "Did you mean 'onnx'?" in result.stderr
