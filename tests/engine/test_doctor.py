"""`ecstfl doctor`: what it finds on this machine, and what it says of faults that are made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ecstfl_cli.engine import doctor
from ecstfl_cli.engine.doctor import CHECKS, Finding, examine
from ecstfl_cli.engine.weights import catalogue
from ecstfl_cli.resources import shipped


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Finding]]:
    """Findings of one subject."""

    def look(subject: str) -> list[Finding]:
        monkeypatch.setattr(doctor, "CHECKS", {subject: CHECKS[subject]})
        return list(examine())

    return look


def test_this_machine_is_well(cli) -> None:
    result = cli("doctor", "--json")
    findings = json.loads(result.stdout)
    assert result.exit_code == 0, [found for found in findings if found["state"] == "broken"]
    assert list(dict.fromkeys(found["subject"] for found in findings)) == list(CHECKS)


def test_what_is_broken_is_said_with_what_to_do(cli, monkeypatch) -> None:
    def check():
        yield Finding("ok", "fine")
        yield Finding("broken", "gone", "Fetch it.")
        raise OSError("and\nmore")

    monkeypatch.setattr(doctor, "CHECKS", {"this": check, "that": lambda: [Finding("note", "slow", "Wait.")]})
    result = cli("doctor")
    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ok", "this", "fine"],
        ["broken", "this", "gone"],
        ["Fetch", "it."],
        ["broken", "this", "OSError:", "and"],
        ["note", "that", "slow"],
        ["Wait."],
        ["2", "broken"],
    ]


def test_libraries_that_are_missing_too_old_or_do_not_import(one, monkeypatch) -> None:
    there, importing = metadata.version, doctor.importlib.import_module

    def version(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "av" else there(name)

    def load(name: str):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return importing(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    found = {finding.found: finding for finding in one("libraries")}
    assert {finding.state for finding in found.values()} == {"broken"}
    texts = sorted(found)
    assert texts[0].startswith("av is 0.1, where >=")
    assert texts[1] == "timm is not installed"
    assert texts[2] == "torchvision does not import: RuntimeError: operator torchvision::nms does not exist"
    assert "of one build" in found[texts[2]].advice


def test_an_extra_that_is_not_installed_is_optional(one, monkeypatch) -> None:
    there = metadata.version

    def version(name: str) -> str:
        if name == "onnx":
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    export = next(finding for finding in one("extras") if finding.found.startswith("export"))
    assert (export.state, export.found) == ("note", "export: onnx is not installed")
    assert export.advice.endswith('pip install "ecstfl[export]"')


def test_a_program_that_is_not_installed(one, monkeypatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert [finding.state for finding in one("libraries")] == ["broken"]


def test_a_plugin_that_does_not_load_is_named(one, fake_distribution) -> None:
    fake_distribution("bad-plug", {"losses": {"shaky": "shaky_mod:loss"}}, {"shaky_mod.py": "1 / 0\n"}, version="3.2")
    first, *_, last = one("components")
    assert first.state == "broken"
    assert first.found.startswith("losses shaky: ")
    assert "bad-plug 3.2" in first.advice
    assert last.found.endswith("with those of bad-plug")


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script")
def test_a_driver_that_torch_cannot_use(one, monkeypatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = one("gpu")
    assert found.state == "broken"
    assert found.found.startswith(f"GPU 0: Tesla T4, which torch {torch.__version__}, built for CUDA 13.0,")
    assert "nvidia-smi" in found.advice
    for hidden, state in (("-1", "note"), ("", "note"), ("1", "broken"), ("0,1", "broken")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert [found.state for found in one("gpu")] == [state]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert [found.state for found in one("gpu")] == ["note"], "a torch for CPUs may be meant"
    # A machine for logging in has the tool, and no card.
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert [(found.state, found.found) for found in one("gpu")] == [("ok", "none; models run on the CPU")]


def test_a_gpu_that_torch_sees_and_cannot_compute_on(one, monkeypatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine's GPU works")
    about = SimpleNamespace(name="Old Card", total_memory=2_000_000_000, major=3, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    (found,) = one("gpu")
    assert found.state == "broken"
    assert found.found.startswith("cuda:0 Old Card, 2 GB, 3.5: ")


def test_little_room(one, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    space = SimpleNamespace(total=64_000_000, free=1_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: space)
    free, shared = one("disk")
    assert free.state == shared.state == "note"
    assert "64 MB" in shared.found
    assert "--shm-size" in shared.advice
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "cannot be written to" in one("disk")[0].found


def test_weights_that_are_damaged_or_gone(one, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (shipped_one, *_) = catalogue.entries()
    monkeypatch.setattr(catalogue, "entries", lambda: [shipped_one])
    monkeypatch.setattr(catalogue, "detectors", lambda: [])
    (found,) = one("weights")
    assert (found.state, found.found) == ("ok", f"{shipped_one.name} (default, verified)")
    folder = tmp_path / "checkpoint_load"
    folder.mkdir()
    whole = (shipped("checkpoint_load") / shipped_one.file).read_bytes()
    (folder / shipped_one.file).write_bytes(whole[:-1])
    damaged, _ = one("weights")
    assert (damaged.state, shipped_one.file in damaged.found) == ("broken", True)
    shutil.rmtree(folder)
    monkeypatch.setattr(catalogue, "shipped", lambda _: tmp_path / "nowhere")
    gone, _ = one("weights")
    assert (gone.state, "missing" in gone.found) == ("broken", True)


def test_an_av_without_codecs(one, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_has_codec", lambda name, _: name in ("h264", "mpeg4"))
    (found,) = one("video")
    assert found.state == "note"
    assert "HEVC, VP9, AV1" in found.found
    monkeypatch.setattr(doctor, "_has_codec", lambda _, mode: mode == "r")
    (found,) = one("video")
    assert "no encoder for --annotate" in found.found


def test_probabilities_that_are_none(one, monkeypatch) -> None:
    class Broken:
        def __init__(self, **settings: object) -> None:
            pass

        def images(self, _: object) -> list[SimpleNamespace]:
            return [SimpleNamespace(probs=(float("nan"),) * 7)]

    monkeypatch.setattr("ecstfl_cli.engine.inference.recogniser.Recogniser", Broken)
    (found,) = one("recognition")
    assert found.state == "broken"
