"""Start-up: help and listings import none of the heavy libraries, and `infer` no more than it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ecstfl_cli.api import Modality
from ecstfl_cli.cli.console import SafeConsole
from tests.small_model import SIZE, save_small_model

HEAVY = [
    *("torch", "torchvision", "timm", "pandas", "numpy", "matplotlib", "accelerate"),
    *("onnx", "onnxruntime", "pyarrow", "PIL", "yaml", "safetensors"),
]
# Typer itself uses pydantic to read the values of options, so only what has none to read is free of it.
FREE_OF_PYDANTIC = ["--help", "--version"]

# What takes longer to import than a small network takes to predict.
NEEDLESS_TO_INFER = [
    *("torchvision", "timm", "pandas", "pyarrow", "matplotlib", "accelerate", "scipy", "sklearn"),
    *("onnx", "onnxruntime", "sympy", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp"),
]

# Runs command lines one after the other in one process and tells, for each, which heavy libraries are loaded by then.
PROGRAM = """
import contextlib, io, json, sys
heavy, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])
from ecstfl_cli.cli.app import app, main
import typer
def help_lines(command, words):
    yield [*words, "--help"]
    for name, child in getattr(command, "commands", {}).items():
        yield from help_lines(child, [*words, name])
found = []
for words in lines or help_lines(typer.main.get_command(app), []):
    sys.argv = ["ecstfl", *words]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    found.append([" ".join(words), code, output.getvalue(), [name for name in heavy if name in sys.modules]])
print(json.dumps(found))
"""


def loaded_by(lines: list[list[str]], heavy: list[str] = HEAVY) -> list[list]:
    """[words, exit code, output, heavy modules loaded by then] of each command line; no lines: all of `--help`."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(heavy), json.dumps(lines)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_every_help_is_light_and_complete() -> None:
    found = loaded_by([])
    assert {"--help", "prepare --help", "finetune --help", "infer --help", "export --help", "plugins --help"} <= {
        words for words, *_ in found
    }
    for words, code, output, heavy in found:
        assert (words, heavy) == (words, [])
        assert code in (0, None)
        assert "Usage: " in output


@pytest.mark.parametrize("words", FREE_OF_PYDANTIC)
def test_no_module_of_the_command_line_imports_pydantic(words: str) -> None:
    ((*_, heavy),) = loaded_by([[words]], [*HEAVY, "pydantic"])
    assert heavy == []


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["plugins"], "ec_stfl"),
        (["plugins", "--json"], "ec_stfl"),
        (["labels"], "rafdb"),
        (["labels", "compare", "mafw", "dfew"], "0 happy"),
    ],
)
def test_listing_components_is_light(words: list[str], shown: str) -> None:
    ((_, code, output, heavy),) = loaded_by([words])
    assert heavy == []
    assert code in (0, None)
    assert shown in output


def test_listing_twenty_plugins_imports_none_of_them(fake_distribution, monkeypatch: pytest.MonkeyPatch) -> None:
    sites: list[Path] = []
    for i in range(20):
        source = "import torch\n\nclass Loss(torch.nn.Module):\n    pairwise = False\n"
        sites.append(
            fake_distribution(f"plug-{i}", {"losses": {f"loss_{i}": f"plug_{i}:Loss"}}, {f"plug_{i}.py": source})
        )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sites)), prepend=os.pathsep)
    modules = [*HEAVY, *(f"plug_{i}" for i in range(20))]
    ((_, _, output, heavy),) = loaded_by([["plugins", "--json", "--group", "losses"]], modules)
    listed = {s["name"]: s["state"] for s in json.loads(output)}
    assert {listed[f"loss_{i}"] for i in range(20)} == {"ok"}
    assert heavy == []


@pytest.mark.parametrize(("backbone", "modality"), [("grid_cnn", "img"), ("motion_grid_cnn", "video")])
def test_infer_imports_what_its_model_needs_and_no_more(backbone: str, modality: Modality, tmp_path: Path) -> None:
    ((_, code, output, heavy),) = loaded_by([infer_line(backbone, modality, tmp_path)], NEEDLESS_TO_INFER)
    assert code in (0, None), output
    assert (tmp_path / "out" / "predictions.csv").is_file()
    assert set(heavy) <= loaded_by_torch()


def test_threads_of_torch_hardly_spin_while_they_wait(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ecstfl_cli", *infer_line("grid_cnn", "img", tmp_path)]
    told = subprocess.run(
        line, env={**os.environ, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    ).stderr
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", told)
    if found is None:
        pytest.skip("this build of torch does not use GNU's OpenMP")
    assert int(found[1]) <= 10_000, "300,000 if nothing is set"


def infer_line(backbone: str, modality: Modality, folder: Path) -> list[str]:
    """The words of `ecstfl infer` on one image or clip with a small checkpoint, both in `folder`."""
    model = save_small_model(folder / "model.safetensors", modality, backbone=backbone, temporal_head=None)
    clip = folder / "clip"
    clip.mkdir()
    Image.new("RGB", (SIZE, SIZE), "grey").save(clip / "1.png")
    source = clip if modality == "video" else clip / "1.png"
    return ["infer", str(source), "--model", str(model), "--out", str(folder / "out"), "--device", "cpu"]


def loaded_by_torch() -> set[str]:
    """What torch imports by itself, which differs between its versions."""
    program = "import json, sys, torch; print(json.dumps(list(sys.modules)))"
    return set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["labels"], ["recipes", "--json"]])
def test_a_full_disk_is_one_message(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ecstfl_cli", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot write: No space left on device",
        "Free some space, or write elsewhere, and run it again.",
    ]


def test_control_characters_in_names_are_shown_and_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    SafeConsole(soft_wrap=True).print("esc\x1b[31mred\r.mp4", markup=False)
    assert capsys.readouterr().out == "esc\\x1b[31mred\\x0d.mp4\n"
