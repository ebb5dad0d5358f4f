import json
import re
from pathlib import Path

import pytest
from PIL import Image

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


def test_an_int8_model_takes_samples_and_says_what_it_was_compared_on(cli, tmp_path):
    for i in range(70):
        Image.new("RGB", (32, 32), (3 * i, 255 - 3 * i, 7 * i % 256)).save(tmp_path / f"{i}.png")
    (tmp_path / "faces.csv").write_text("filePath\n" + "".join(f"{i}.png\n" for i in range(70)))
    model = save_small_model(tmp_path / "m.safetensors", "img", backbone="grid_cnn")
    options = ("--format", "onnx_int8", "--tolerance", "0.3")
    result = cli("export", model, *options, "--samples", "faces.csv", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "m.int8.onnx" in result.stdout
    assert re.search(r"same class for \d+ of 35 samples of faces.csv, at most 30.0% may have another", result.stdout)
    refused = cli("export", model, *options, cwd=tmp_path)
    assert refused.exit_code == 1
    assert "Name a path file with --samples" in refused.stderr
