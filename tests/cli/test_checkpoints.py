"""`ecstfl checkpoints`: the list, what a file holds, and downloads, as a user sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from ecstfl_cli.api import InputSpec, ModelSpec
from ecstfl_cli.components.backbones import build_model
from ecstfl_cli.engine.weights.checkpoint import save_checkpoint
from ecstfl_cli.labels import label_map_from

Cli = Callable[..., Any]


@pytest.fixture
def native(tmp_path: Path) -> Path:
    spec = ModelSpec("timm/mobilenetv3_small_050", 7)
    path = tmp_path / "mine.safetensors"
    save_checkpoint(
        path,
        build_model(spec, "img"),
        model=spec,
        input=InputSpec("img", 48, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        labels=label_map_from("fer2013"),
        recipe={"name": "fer2013"},
        metrics={"epoch": 3, "val_war": 61.234},
    )
    return path


def test_the_bare_command_lists_the_catalogue(cli: Cli, tmp_path: Path) -> None:
    result = cli("checkpoints", cwd=tmp_path)
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("r3d_ECSTFL_dfew "))
    for cell in ("absent", "torchvision/r3d_18", "DFEW fold 1", "64.08", "dropbox.com"):
        assert cell in row
    assert "CC BY-NC-ND" in result.stdout


def test_the_list_as_json_follows_what_is_on_disk(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "checkpoint_load").mkdir()
    (tmp_path / "checkpoint_load" / "resnet18_rafdb.pth").write_bytes(b"weights")
    rows = {row["name"]: row for row in json.loads(cli("checkpoints", "--json", cwd=tmp_path).stdout)}
    assert (rows["resnet18_rafdb"]["state"], rows["r3d_dfew"]["state"]) == ("present", "absent")
    assert rows["r3d_dfew"]["licence"]
    cli("checkpoints", "download", "resnet18_rafdb", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(cli("checkpoints", "--json", cwd=tmp_path).stdout)}
    assert rows["resnet18_rafdb"]["state"] == "verified"


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, ecstfl_cli.cli.app as a; sys.argv = ['ecstfl', 'checkpoints']\n"
        "try: a.main()\nexcept SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_show_tells_what_a_native_file_holds(cli: Cli, native: Path) -> None:
    result = cli("checkpoints", "show", native)
    assert result.exit_code == 0
    for part in ("timm/mobilenetv3_small_050", "fer2013: 0 angry", "img, 48x48", "0.5, 0.5, 0.5", "val_war 61.23"):
        assert part in result.stdout
    shown = json.loads(cli("checkpoints", "show", native, "--json").stdout)
    assert shown["classes"]["names"][0] == "angry"
    assert shown["input"]["size"] == 48
    assert shown["metrics"] == {"epoch": 3, "val_war": 61.234}


def test_an_ensemble_is_written_and_shown_by_its_members(cli: Cli, native: Path, tmp_path: Path) -> None:
    result = cli("checkpoints", "ensemble", native, native, "--out", "both.safetensors", cwd=tmp_path)
    assert result.exit_code == 0
    assert "ecstfl infer FILES --model both.safetensors" in result.stdout
    shown = cli("checkpoints", "show", "both.safetensors", cwd=tmp_path).stdout
    assert "timm/mobilenetv3_small_050 at 48x48, timm/mobilenetv3_small_050 at 48x48" in shown
    assert "'model'" not in shown
    mean = cli(
        "checkpoints", "average", native, native, "--share", 3, "--share", 1, "--out", "mean.safetensors", cwd=tmp_path
    )
    assert "model.checkpoint=mean.safetensors" in mean.stdout
    alone = cli("checkpoints", "ensemble", native, "--out", "alone.safetensors", cwd=tmp_path)
    assert alone.exit_code == 1
    assert "two models at least" in alone.stderr


def test_show_tells_what_a_foreign_file_holds_and_what_is_left_out(cli: Cli, tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=8)
    torch.save({"epoch": 4, "state_dict": network.state_dict(), "best_acc": 0.5}, tmp_path / "other.pth")
    result = cli("checkpoints", "show", tmp_path / "other.pth")
    assert result.exit_code == 0
    for part in ("torchvision/resnet18", "8, not named in the file", "not used: epoch, best_acc"):
        assert part in result.stdout
    named = cli("checkpoints", "show", tmp_path / "other.pth", "--model-label-map", "ferplus")
    assert "ferplus: 0 neutral" in named.stdout


def test_show_of_a_known_name_that_is_not_here_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    result = cli("checkpoints", "show", "r3d_dfew", cwd=tmp_path)
    assert result.exit_code == 0
    assert "ecstfl checkpoints download r3d_dfew" in result.stdout


def test_show_of_nothing_is_one_message(cli: Cli, tmp_path: Path) -> None:
    result = cli("checkpoints", "show", "nothing", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no checkpoint 'nothing'" in result.stderr


def test_a_file_that_tries_to_run_code_is_one_message(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    result = cli("checkpoints", "show", "evil.pth", cwd=tmp_path)
    assert result.exit_code == 1
    assert "evil.pth tries to run code while being read: it asks for os.system" in result.stderr
    assert not (tmp_path / "canary").exists()


def test_download_by_hand_says_where_to_put_the_file(cli: Cli, tmp_path: Path) -> None:
    result = cli("checkpoints", "download", "resnet18_ECSTFL_rafdb", "--to", "weights", cwd=tmp_path)
    assert result.exit_code == 1
    assert "weights/resnet18_ECSTFL_rafdb.pth" in result.stderr
    assert "50ff" in result.stderr


def test_a_download_prints_the_path_of_the_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "r3d_dfew.pth").write_bytes(b"weights")
    result = cli("checkpoints", "download", "r3d_dfew", "--to", "weights", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (0, "weights/r3d_dfew.pth\n")
    assert "recorded" in result.stderr
