"""On a sample of frames a face is looked for, at a size that the detector can work with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.engine.check.findings import Finding
from ecstfl_cli.engine.check.run import check
from ecstfl_cli.engine.reporter import Reporter


def faces_of(file: Path, n: int) -> Finding:
    report = check([file], out=file.parent / "out", faces=n, reporter=Reporter())
    return next(finding for finding in report.findings if finding.check == "faces")


def listed(folder: Path, pictures: list[Image.Image]) -> Path:
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    file = folder / "train.csv"
    file.write_text("path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(len(pictures))))
    return file


def test_pictures_without_a_face_are_counted_and_named(real_data: Callable, tmp_path: Path) -> None:
    face = Image.open(real_data("media") / "single_face.jpg").convert("RGB")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    finding = faces_of(listed(tmp_path, [face, Image.fromarray(noise)]), 10)
    assert (finding.verdict, finding.summary) == ("note", "1 of 2 frames of a sample without a face (50.0%)")
    assert [Path(item["path"]).name for item in finding.items] == ["1.png"]


def test_faces_that_fill_a_tiny_picture_are_found(real_data: Callable, tmp_path: Path) -> None:
    folder = real_data("fer2013") / "images"
    pictures = [Image.open(path).convert("RGB") for path in sorted(folder.glob("PublicTest_happy_00[3-9]*.jpg"))[:12]]
    assert pictures
    assert pictures[0].size == (48, 48)
    finding = faces_of(listed(tmp_path, pictures), 12)
    assert finding.summary == f"0 of {len(pictures)} frames of a sample without a face (0.0%)"


@pytest.mark.parametrize(("n", "looked_at"), [(0, None), (3, 3), (100, 8)])
def test_so_many_frames_are_looked_at(tmp_path: Path, n: int, looked_at: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3)).astype(np.uint8)
    finding = faces_of(listed(tmp_path, [Image.fromarray(pixels) for pixels in noise]), n)
    if looked_at is None:
        assert (finding.verdict, finding.summary) == ("skipped", "not looked for")
    else:
        assert f" of {looked_at} frames of a sample" in finding.summary


def test_without_the_detectors_weights_faces_are_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecstfl_cli.components.detectors.centerface.WEIGHTS", tmp_path / "gone.onnx")
    finding = faces_of(listed(tmp_path, [Image.new("RGB", (40, 40), "grey")]), 1)
    assert finding.verdict == "skipped"
    assert finding.summary.startswith("no face detector: ")
    assert "gone.onnx" in finding.summary
