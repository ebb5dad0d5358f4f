"""What several test files share: small data sets on disk, fake distributions, the command line, real data at hand."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


# --- real data ------------------------------------------------------------------------------------------------------


@functools.cache
def _unpacked(tools: Path) -> Path:
    """The folder that the data's own tool unpacks into; what is there already is kept."""
    cache = Path(os.environ.get("ECSTFL_DATA_DIR", "~/.cache/ecstfl-data")).expanduser() / "data"
    subprocess.run([str(tools / "unpack-data"), str(cache)], check=True, capture_output=True)
    return cache


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data(name)` is the folder of `fer2013`, `ictfaces`, `muxspace` or `media`; skips the test without it."""

    def locate(name: str) -> Path:
        chosen = os.environ.get("ECSTFL_TEST_DATA")
        beside = REPOSITORY.parent / "shared"
        if chosen and (Path(chosen) / name).is_dir():
            return Path(chosen) / name
        if name == "media" and (beside / "data" / "media").is_dir():
            return beside / "data" / "media"
        if (beside / "data" / f"{name}.tar").is_file():
            return _unpacked(beside / "tools") / name
        pytest.skip(f"real data {name!r} is not here; set ECSTFL_TEST_DATA to the folder that holds {name}/")

    return locate


# --- what takes long -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of runs in this process are a single pixel but in tests marked `pictures`.

    To draw them takes three times as long as the few steps of training that tests need.
    """
    if request.node.get_closest_marker("pictures"):
        return

    def save(_figure: object, path: Path) -> None:
        Image.new("L", (1, 1)).save(path)

    monkeypatch.setattr("ecstfl_cli.report.plots._save", save)


# --- small data -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TinyData:
    """A data set on disk: `train` and `test` are path files, their paths relative to `root`, which holds them."""

    root: Path
    train: Path
    test: Path
    classes: tuple[str, ...]


def _write_image(path: Path, label: int, classes: int, size: int, seed: int) -> None:
    """Noise around one colour a class, so that a model can learn it in a few steps."""
    import colorsys

    import numpy as np

    colour = np.array(colorsys.hsv_to_rgb(label / classes, 0.8, 0.8)) * 255
    noise = np.random.default_rng(seed).normal(0, 30, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path, quality=90)


@pytest.fixture
def tiny_images(tmp_path: Path) -> Callable[..., TinyData]:
    """`tiny_images(classes=3, per_class=4, size=24)`: JPEGs with `train.csv`, `test.csv`; labels are DFEW indices."""

    def make(classes: int = 3, per_class: int = 4, size: int = 24, folder: str = "tiny_images") -> TinyData:
        root = tmp_path / folder
        for split, offset in (("train", 0), ("test", 10_000)):
            lines = ["filePath,expression"]
            for label in range(classes):
                for i in range(per_class):
                    relative = f"images/{split}_{DFEW[label]}_{i}.jpg"
                    _write_image(root / relative, label, classes, size, offset + label * 100 + i)
                    lines.append(f"{relative},{label}")
            (root / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return TinyData(root, root / "train.csv", root / "test.csv", DFEW[:classes])

    return make


@pytest.fixture
def tiny_clips(tmp_path: Path) -> Callable[..., TinyData]:
    """`tiny_clips(classes=3, per_class=3, frames=12, size=24)`: folders `1.jpg … 12.jpg`, `train.txt`, `test.txt`.

    Labels are DFEW indices; the frame names are not zero-padded, as in the wild.
    """

    def make(
        classes: int = 3, per_class: int = 3, frames: int = 12, size: int = 24, folder: str = "tiny_clips"
    ) -> TinyData:
        root = tmp_path / folder
        for split, offset in (("train", 0), ("test", 100_000)):
            lines = []
            for label in range(classes):
                for i in range(per_class):
                    relative = f"clips/{split}_{DFEW[label]}_{i}"
                    for t in range(frames):
                        seed = offset + (label * 100 + i) * 100 + t
                        _write_image(root / relative / f"{t + 1}.jpg", label, classes, size, seed)
                    lines.append(f"{relative} {frames} {label}")
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return TinyData(root, root / "train.txt", root / "test.txt", DFEW[:classes])

    return make


# --- fake distributions ---------------------------------------------------------------------------------------------


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`fake_distribution(name, entry_points, modules)` installs a distribution on `sys.path` and returns its folder.

    `entry_points` maps a group without its `ecstfl.` to `{entry-point name: target}`; `modules` maps a path such as
    `plug.py` to its source. Pass the returned folder as PYTHONPATH to a subprocess.
    """
    made: list[Path] = []

    def make(
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
        metadata: bool = True,
    ) -> Path:
        site = tmp_path / f"site_{len(made)}"
        # importlib.metadata overlooks a dist-info folder whose name part has hyphens.
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        if metadata:
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
            )
        sections = [
            f"[ecstfl.{group}]\n" + "".join(f"{key} = {target}\n" for key, target in targets.items())
            for group, targets in entry_points.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(sections), encoding="utf-8")
        for relative, source in (modules or {}).items():
            path = site / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        made.append(site)
        monkeypatch.syspath_prepend(str(site))
        return site

    yield make
    for module_name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and any(Path(origin).is_relative_to(site) for site in made):
            del sys.modules[module_name]


# --- the command line -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CliResult:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CliResult]:
    """`cli("infer", "a.jpg", cwd=tmp_path)` runs the command line in this process, as `main()` does for a user.

    A bug raises here with its traceback; an expected failure is exit code 1 and a message in `stderr`.
    """

    def run(*args: str | Path, cwd: Path | None = None) -> CliResult:
        from ecstfl_cli.cli.app import main

        stdout, stderr = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["ecstfl", *map(str, args)])
            if cwd is not None:
                patch.chdir(cwd)
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                try:
                    main()
                    code: object = 0
                except SystemExit as stop:
                    code = stop.code
        exit_code = code if isinstance(code, int) else 0 if code is None else 1
        return CliResult(exit_code, stdout.getvalue(), stderr.getvalue())

    return run
