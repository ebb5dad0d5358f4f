"""What tests of `infer` on pictures and videos share: a small model, and looking with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecstfl_cli.engine.inference.infer_media import Compute, MediaSettings, infer_media
from ecstfl_cli.engine.inference.media_result import MediaResult
from ecstfl_cli.engine.reporter import Reporter
from tests.looking import Look
from tests.small_model import save_small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "stills.safetensors", "img")


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Look:
    """`look(*inputs, out=…, …)` looks in `tmp_path`, at pictures that are faces, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*inputs: str, workers: int = 0, **options: Any) -> MediaResult:
        keys = ("out", "resume", "shard", "stdin", "null", "on_live", "modality", "reporter")
        how = {key: options.pop(key) for key in keys if key in options}
        settings = MediaSettings(**{"inputs": inputs, "model": str(model), "faces": False, **options})
        compute = Compute(device="cpu", workers=workers)
        return infer_media(settings, compute=compute, **{"reporter": Reporter(), "out": Path("o"), **how})

    return run
