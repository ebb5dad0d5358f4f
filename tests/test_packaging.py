"""A built wheel, used from another folder, has everything that the checkout has."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, built from a copy of the checkout's tracked files."""
    out = tmp_path_factory.mktemp("wheel")
    build = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    if build.returncode and "hatchling" in build.stderr and "No matching distribution" in build.stderr:
        pytest.skip("building a wheel needs hatchling from the package index, which cannot be reached")
    assert build.returncode == 0, build.stderr
    site = out / "site"
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def ecstfl(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ecstfl_cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_recipes_and_catalogue_are_package_data(installed: Path, tmp_path: Path) -> None:
    shipped = {path.name for path in (installed / "ecstfl_cli" / "recipes").iterdir()}
    assert shipped >= {path.name for path in (REPOSITORY / "recipes").glob("*.yaml")}
    recipes = ecstfl(installed, tmp_path, "recipes")
    assert "ictfaces" in recipes.stdout
    shown = ecstfl(installed, tmp_path, "recipes", "show", "dfew")
    assert shown.returncode == 0, shown.stderr
    assert "torchvision/r3d_18" in shown.stdout
    assert "r3d_ECSTFL_dfew" in ecstfl(installed, tmp_path, "checkpoints").stdout


def test_a_recipe_is_found_by_its_path_in_the_checkout_too(installed: Path, tmp_path: Path) -> None:
    result = ecstfl(installed, tmp_path, "finetune", "recipes/dfew.yaml")
    assert result.returncode == 1
    assert "annotation/dfew_fold1_train.txt" in result.stderr
    assert "ecstfl prepare" in result.stderr


def test_no_weights_from_the_build_folder_are_in_the_wheel(installed: Path) -> None:
    assert not [path for path in installed.rglob("*") if path.suffix in (".pth", ".pt", ".part")]


def test_what_the_report_is_made_of_is_in_the_wheel(installed: Path) -> None:
    assert {path.name for path in installed.rglob("page.*")} == {"page.css", "page.js"}
