"""Exporters that need real samples: which they are shown, which are compared, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.export import export
from ecstfl_cli.errors import DataError, ExportError
from tests.small_model import save_small_model

# Keeps what it was shown and what it was asked for, and computes with the network itself, WRONG times of 10 wrongly.
SEER = """
import torch

SHOWN, ASKED, WRONG = [], [], 0

class Seer:
    suffix = ".seen.bin"
    needs_samples = True

    def export(self, graph, example, path, metadata):
        SHOWN.append(example.numpy().copy())
        self.graph = graph
        path.write_bytes(b"seen")

    def run(self, path, frames):
        ASKED.append(frames.copy())
        with torch.inference_mode():
            logits = self.graph(torch.from_numpy(frames))[0].numpy()
        wrong = torch.arange(len(frames)).numpy() % 10 < WRONG
        logits[wrong] = -logits[wrong]
        return logits
"""


@pytest.fixture
def seer(fake_distribution):
    """The module of an exporter `seer` that needs samples."""
    fake_distribution("seer", {"exporters": {"seer": "seer_mod:Seer"}}, {"seer_mod.py": SEER})
    import seer_mod

    return seer_mod


@pytest.fixture
def model(tmp_path) -> Path:
    return save_small_model(tmp_path / "m.safetensors", "img", backbone="grid_cnn")


def write_images(folder: Path, n: int, first: int = 0) -> list[str]:
    """`n` files of one colour each, no two alike, and their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i}.png" for i in range(first, first + n)]
    for i, name in enumerate(names, start=first):
        Image.new("RGB", (32, 32), (i % 256, i // 256, 7)).save(folder / name)
    return names


def write_list(path: Path, rows: Sequence[str], header: str = "filePath") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def numbers(batches: Sequence[np.ndarray]) -> list[int]:
    """Which of the images of `write_images` these are."""
    return [int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for batch in batches for image in batch]


def test_it_is_shown_some_at_random_and_compared_on_others_the_same_every_time(seer, model, tmp_path):
    samples = write_list(tmp_path / "faces.csv", write_images(tmp_path, 600))
    result = export(model, format="seer", samples=[samples], reporter=Reporter())
    assert result.path == tmp_path / "m.seen.bin"
    shown, compared = numbers(seer.SHOWN), numbers(seer.ASKED)
    assert (len(shown), len(compared)) == (result.shown, result.comparison.samples) == (128, 384)
    assert len({*shown, *compared}) == 512
    assert shown != sorted(shown)
    assert max(shown) > 500  # not the beginning of the list
    export(model, format="seer", samples=[samples], out=tmp_path / "again.bin", reporter=Reporter())
    np.testing.assert_array_equal(seer.SHOWN[0], seer.SHOWN[1])


def test_of_few_it_is_shown_half_and_what_two_lists_name_counts_once(seer, model, tmp_path):
    names = write_images(tmp_path, 80)
    lists = [write_list(tmp_path / "a.csv", names[:60]), write_list(tmp_path / "b.csv", names[20:])]
    result = export(model, format="seer", samples=lists, reporter=Reporter())
    assert (result.shown, result.comparison.samples) == (40, 40)
    assert sorted(numbers(seer.SHOWN) + numbers(seer.ASKED)) == list(range(80))


@pytest.mark.usefixtures("seer")
def test_labels_are_not_asked_for_and_relative_paths_start_from_the_data_root(model, tmp_path):
    rows = [f"{name},no class that anybody knows" for name in write_images(tmp_path / "data", 64)]
    (tmp_path / "lists").mkdir()
    samples = write_list(tmp_path / "lists" / "faces.csv", rows, header="filePath,expression")
    result = export(model, format="seer", samples=[samples], data_root=tmp_path / "data", reporter=Reporter())
    assert result.comparison.same_class == 32


@pytest.mark.usefixtures("seer")
def test_samples_that_cannot_be_read_are_named_and_left_out(model, tmp_path):
    names = write_images(tmp_path, 70)
    (tmp_path / names[3]).write_bytes(b"no image")
    (tmp_path / names[5]).unlink()
    samples = write_list(tmp_path / "faces.csv", names)
    reporter = Reporter()
    result = export(model, format="seer", samples=[samples], reporter=reporter)
    assert result.shown + result.comparison.samples == 68
    (warning,) = reporter.warnings
    assert "2 images cannot be read and are left out" in warning
    assert f"faces.csv:5: cannot read image {tmp_path / names[3]}" in warning
    assert f"faces.csv:7: cannot read image {tmp_path / names[5]}" in warning


def test_too_few_samples_are_refused_with_what_is_wrong_with_the_others(seer, model, tmp_path):
    names = write_images(tmp_path, 64)
    (tmp_path / names[0]).unlink()
    samples = write_list(tmp_path / "faces.csv", names)
    with pytest.raises(DataError, match=r"(?s)63 images of .*faces\.csv can be used, at least 64.*0\.png.*--data-root"):
        export(model, format="seer", samples=[samples], reporter=Reporter())
    assert seer.SHOWN == []


@pytest.mark.usefixtures("seer")
def test_a_list_of_what_the_model_does_not_take_is_refused(model, tmp_path):
    (tmp_path / "clips.txt").write_text("clip 3 0\n")
    with pytest.raises(DataError, match=r"(?s)lists clips, but the model takes images.*\.csv"):
        export(model, format="seer", samples=[tmp_path / "clips.txt"], reporter=Reporter())


def test_a_model_for_clips_sees_clips(seer, tmp_path):
    model = save_small_model(tmp_path / "m.safetensors", "video", backbone="motion_grid_cnn", temporal_head=None)
    write_images(tmp_path / "0", 5)
    for i in range(1, 70):
        shutil.copytree(tmp_path / "0", tmp_path / str(i))
    (tmp_path / "clips.txt").write_text("".join(f"{i} 5 0\n" for i in range(70)))
    result = export(model, format="seer", samples=[tmp_path / "clips.txt"], reporter=Reporter())
    assert seer.SHOWN[0].shape == (35, 4, 32, 32, 3)
    assert result.comparison.same_class == 35


def test_too_many_changed_classes_fail_the_export_and_leave_nothing(seer, model, tmp_path, monkeypatch):
    samples = write_list(tmp_path / "faces.csv", write_images(tmp_path, 64))
    monkeypatch.setattr(seer, "WRONG", 3)
    with pytest.raises(ExportError, match=r"(?s)another than PyTorch's for 11 of 32 .*\(34\.4%\).*tolerance 6\.0%"):
        export(model, format="seer", samples=[samples], reporter=Reporter())
    assert not list(tmp_path.glob("*.bin"))
    result = export(model, format="seer", samples=[samples], tolerance=0.35, reporter=Reporter())
    assert result.comparison.same_class == 21
    assert result.comparison.probs_difference > result.comparison.mean_probs_difference > 0


@pytest.mark.usefixtures("seer")
def test_a_format_that_needs_samples_says_so_and_one_that_does_not_refuses_them(model, tmp_path):
    with pytest.raises(ExportError, match=r"(?s)seer needs real samples.*--samples"):
        export(model, format="seer", reporter=Reporter())
    with pytest.raises(ExportError, match="--samples has no use with --format onnx"):
        export(model, samples=[tmp_path / "faces.csv"], reporter=Reporter())
    with pytest.raises(ExportError, match="--data-root"):
        export(model, data_root=tmp_path, reporter=Reporter())
    assert [path.name for path in tmp_path.glob("m.*")] == ["m.safetensors"]
