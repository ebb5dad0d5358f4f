"""Start-up: help and listings import none of the heavy libraries, whatever is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    *("torch", "torchvision", "timm", "pandas", "numpy", "matplotlib", "accelerate"),
    *("onnx", "onnxruntime", "pyarrow", "PIL", "yaml", "safetensors"),
]
# Typer itself uses pydantic to read the values of options, so only what has none to read is free of it.
FREE_OF_PYDANTIC = ["--help", "--version"]

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


@pytest.mark.parametrize("words", [["plugins"], ["plugins", "--json"]])
def test_listing_components_is_light(words: list[str]) -> None:
    ((_, code, output, heavy),) = loaded_by([words])
    assert heavy == []
    assert code in (0, None)
    assert "ec_stfl" in output


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
