"""The example plugin, installed from its own folder as a user would, is used by its own recipe end to end."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ecstfl_cli.registry import GROUPS

EXAMPLE = Path(__file__).resolve().parents[1] / "plugins" / "ecstfl-example"


def run(*command: str | Path, plugins: Path | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of this Python, with what `plugins` holds installed."""
    path = [str(plugins or ""), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def _has_build_backend() -> bool:
    """Whether this environment can build the example itself; otherwise pip fetches its build backend."""
    if importlib.util.find_spec("setuptools") is None:
        return False
    return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example distribution is installed into, and nothing else."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip to install the example with")
    folder = tmp_path_factory.mktemp("example")
    # A build writes beside the sources: build a copy, so that the checkout stays as it is.
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    source = shutil.copytree(EXAMPLE, folder / "ecstfl-example", ignore=ignored)
    isolation = ["--no-build-isolation"] if _has_build_backend() else []
    done = run("-m", "pip", "install", "--no-deps", *isolation, "--target", folder / "site", source, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def clips(tiny_clips: Callable) -> Path:
    """A folder with clips and the path files that the recipe names; labels are written as emotions."""
    data = tiny_clips(classes=5, per_class=5, frames=8)
    (data.root / "annotation").mkdir()
    for split, path in (("train", data.train), ("test", data.test)):
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        named = [f"{folder} {n} {data.classes[int(label)]}\n" for folder, n, label in rows]
        kept = [line for line in named if not line.endswith("neutral\n")]
        (data.root / "annotation" / f"megc_{split}.txt").write_text("".join(kept), encoding="utf-8")
    return data.root


def test_its_components_are_listed_and_load(installed: Path, tmp_path: Path) -> None:
    done = run("-m", "ecstfl_cli", "plugins", "--check", "--json", plugins=installed, cwd=tmp_path)
    states = [s for s in json.loads(done.stdout) if s["distribution"] == "ecstfl-example"]
    assert {(s["group"], s["name"], s["version"], s["state"]) for s in states} == {
        ("backbones", "slim_c3d", "0.1.0", "ok"),
        ("losses", "supcon", "0.1.0", "ok"),
        ("label_maps", "megc", "0.1.0", "ok"),
    }
    assert done.returncode == 0


def test_its_recipe_trains_with_all_three_components(installed: Path, clips: Path) -> None:
    smaller = ("train.epochs=2", "train.batch_size=4", "train.workers=0", "train.device=cpu", "input.size=24")
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = run("-m", "ecstfl_cli", "finetune", EXAMPLE / "recipe.yaml", *settings, plugins=installed, cwd=clips)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (clips / "runs" / "megc_slim").iterdir()
    results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= results["last"]["test"]["war"] <= 100
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as table:
        epochs = list(csv.DictReader(table))
    assert len(epochs) == 2
    assert all(float(epoch["loss_supcon"]) > 0 for epoch in epochs)
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as table:
        predicted = list(csv.DictReader(table))
    assert len(predicted) == 20
    assert {row["predicted_name"] for row in predicted} <= {"negative", "positive", "surprise"}


def test_without_the_plugin_its_recipe_says_what_is_missing(clips: Path) -> None:
    done = run("-m", "ecstfl_cli", "finetune", EXAMPLE / "recipe.yaml", cwd=clips)
    assert done.returncode == 1
    assert "unknown label map 'megc'" in done.stderr
    assert "ecstfl plugins" in done.stderr
    assert not list((clips / "runs").rglob("*.safetensors"))


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    test = shutil.copy(EXAMPLE / "test_ecstfl_example.py", tmp_path)
    done = run("-m", "pytest", "-p", "no:cacheprovider", test, plugins=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_imports_nothing_of_ecstfl_but_the_api() -> None:
    source = (EXAMPLE / "ecstfl_example.py").read_text(encoding="utf-8")
    assert set(re.findall(r"ecstfl_cli[\w.]*", source)) == {"ecstfl_cli.api"}


def test_the_guide_names_every_group() -> None:
    guide = (EXAMPLE.parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\| `ecstfl\.(\w+)` \|", guide)) == set(GROUPS)
