import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from PIL import Image

from ecstfl_cli.components.exporters.onnx import OnnxExporter
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.export import export
from ecstfl_cli.engine.weights.model_source import shipped_model
from ecstfl_cli.errors import CheckpointError, DeviceError
from ecstfl_cli.labels import label_map_from
from tests.small_model import quick_infer, save_small_model


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(*inputs, **options)` infers in `tmp_path`, without worker processes, on the CPU."""
    monkeypatch.chdir(tmp_path)
    return quick_infer


def listed(path: Path, modality: str = "img") -> Path:
    """A path file of an image, or of all images or folders of frames in a folder."""
    images = sorted(path.rglob("*.*g")) if path.is_dir() else [path]
    file = Path("listed.csv" if modality == "img" else "listed.txt")
    if modality == "img":
        file.write_text("\n".join(["path", *(str(image.absolute()) for image in images)]) + "\n")
    else:
        frames = Counter(image.parent.absolute() for image in images)
        file.write_text("".join(f"{folder} {n} -1\n" for folder, n in frames.items()))
    return file


class RecorderMeter:
    """What the reference release pickles beside its weights."""

    def __init__(self) -> None:
        self.epoch_losses = np.zeros((3, 2), dtype=np.float32)


def save_released(path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "RecorderMeter", RecorderMeter, raising=False)
    monkeypatch.setattr(RecorderMeter, "__module__", "__main__")
    path.parent.mkdir(exist_ok=True)
    content = {
        "epoch": 3,
        "state_dict": network.state_dict(),
        "best_acc": torch.tensor(64.0),
        "recorder": RecorderMeter(),
    }
    torch.save(content, path)


def reference_input(files: list[Path], size: int) -> torch.Tensor:
    """Frames (T, 3, H, W) as the reference release feeds them: resized without regard to aspect, in [0, 1]."""
    images = [Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for file in files]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def test_a_released_image_checkpoint_predicts_as_plain_torchvision_does(run, tiny_images, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7).eval()
    save_released(tmp_path / "checkpoint_load" / "resnet18_ECSTFL_rafdb.pth", network, monkeypatch)
    folder = tiny_images(classes=2, per_class=1).root / "images"
    result = run(listed(folder), model="resnet18_ECSTFL_rafdb")
    with torch.inference_mode():
        expected = network(reference_input(sorted(folder.iterdir()), 224)).softmax(dim=1)
    np.testing.assert_allclose(result.predictions.probs, expected, atol=1e-5)
    assert result.model.labels == label_map_from("dfew")


def test_a_released_clip_checkpoint_predicts_as_plain_torchvision_does(run, tiny_clips, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = torchvision.models.video.r3d_18(num_classes=7).eval()
    save_released(tmp_path / "checkpoint_load" / "r3d_ECSTFL_dfew.pth", network, monkeypatch)
    folder = tiny_clips(frames=20).root / "clips" / "test_sad_0"
    result = run(listed(folder, "video"), model="r3d_ECSTFL_dfew")
    tick = (20 - 1) / 8
    frames = [int(tick / 2 + tick * k) + d for k in range(8) for d in range(2)]
    clip = reference_input([folder / f"{i + 1}.jpg" for i in frames], 112).transpose(0, 1)[None]
    with torch.inference_mode():
        np.testing.assert_allclose(result.predictions.probs, network(clip).softmax(dim=1), atol=1e-5)


@pytest.mark.parametrize("modality", ["video", "img"])
def test_an_exported_model_predicts_as_its_checkpoint_does(run, tiny_clips, tmp_path, modality):
    checkpoint = save_small_model(tmp_path / "m.safetensors", modality, temporal_head="gru")
    exported = export(checkpoint, reporter=Reporter()).path
    folder = tiny_clips(per_class=1).root / "clips"
    torch_result, onnx_result = (
        run(listed(folder, modality), model=model, batch_size=4) for model in (checkpoint, exported)
    )
    assert onnx_result.model.runtime == "ONNX Runtime"
    assert onnx_result.predictions.clip_ids == torch_result.predictions.clip_ids
    np.testing.assert_allclose(onnx_result.predictions.probs, torch_result.predictions.probs, atol=1e-4)
    with pytest.raises(DeviceError, match="on the CPU"):
        run(listed(folder, modality), model=exported, device="cuda")


@pytest.mark.parametrize("modality", ["video", "img"])
def test_flip_gives_the_mean_over_samples_and_their_mirror_images(run, tiny_clips, tmp_path, modality):
    checkpoint = save_small_model(tmp_path / "m.safetensors", modality)
    exported = export(checkpoint, reporter=Reporter()).path
    folder = tiny_clips(per_class=1).root / "clips"
    plain = run(listed(folder, modality), model=checkpoint)
    flipped = run(listed(folder, modality), model=checkpoint, flip=True)
    assert "and mirrored" in flipped.model.describe()
    for path in folder.rglob("*.jpg"):  # Kept whole: JPEG would write mirrored pixels a little differently.
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_suffix(".png"))
    mirrored_folder = tmp_path / "mirrored"
    for path in sorted(folder.rglob("*.png")):
        target = mirrored_folder / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    mirrored = run(listed(mirrored_folder, modality), model=checkpoint)
    expected = (plain.predictions.probs + mirrored.predictions.probs) / 2
    assert np.abs(plain.predictions.probs - mirrored.predictions.probs).max() > 0.01
    np.testing.assert_allclose(flipped.predictions.probs, expected, atol=1e-4)
    np.testing.assert_allclose(
        run(listed(folder, modality), model=exported, flip=True).predictions.probs, expected, atol=1e-3
    )


def test_an_onnx_file_of_somebody_else_or_none_at_all_is_a_clear_error(run, tmp_path):
    class Plain(torch.nn.Module):
        def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return frames.float().mean(dim=(1, 2)), frames.float().sum(dim=(1, 2))

    OnnxExporter().export(
        Plain(), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), tmp_path / "theirs.onnx", {"author": "x"}
    )
    assert onnx.load(tmp_path / "theirs.onnx").metadata_props[0].key == "author"
    with pytest.raises(CheckpointError, match=r"(?s)was not exported by ecstfl.*ecstfl export CHECKPOINT"):
        run(listed(Path("a.jpg")), model="theirs.onnx")
    with pytest.raises(CheckpointError, match=r"(?s)there is no file their.onnx.*Did you mean 'theirs.onnx'"):
        run(listed(Path("a.jpg")), model="their.onnx")


def finished_run(folder: Path, modality: str, when: int, seed: int = 0, finished: bool = True) -> Path:
    best = save_small_model(folder / "best.safetensors", modality, seed=seed)
    if finished:
        (folder / "metrics.json").write_text("{}")
        os.utime(folder / "metrics.json", (when, when))
    return best


def test_without_a_model_the_newest_finished_run_that_fits_is_taken_and_said(run, tiny_clips, tmp_path):
    finished_run(tmp_path / "runs/demo/1", "video", when=100)
    newest = finished_run(tmp_path / "runs/demo/0", "video", when=300)
    finished_run(tmp_path / "runs/demo/3", "video", when=400, finished=False)
    stills = finished_run(tmp_path / "runs/fer/1", "img", when=200)
    data = tiny_clips(per_class=1)
    reporter = Reporter()
    result = run(data.test, reporter=reporter)
    assert Path(result.model.source).samefile(newest)
    assert any("runs/demo/0" in note and "none was named" in note for note in reporter.notes)
    assert Path(run(listed(data.root / "clips/test_sad_0/1.jpg")).model.source).samefile(stills)
    assert Path(run(listed(data.root / "clips/test_sad_0"), modality="img").model.source).samefile(stills)


def test_without_a_run_a_checkpoint_of_the_folder_is_taken_and_else_it_says_what_to_do(run, tiny_clips, tmp_path):
    data = tiny_clips(per_class=1)
    with pytest.raises(CheckpointError, match=r"(?s)no model was named.*--model.*ecstfl finetune recipes"):
        run(data.test)
    checkpoint = save_small_model(tmp_path / "checkpoint_load" / "mine.safetensors")
    assert Path(run(data.test).model.source).samefile(checkpoint)
    # What ships is for images, and a person's own file comes before it.
    assert Path(run(listed(data.root / "clips/test_sad_0/1.jpg")).model.source).samefile(shipped_model())
    copied = tmp_path / "checkpoint_load" / shipped_model().name
    shutil.copy(shipped_model(), copied)
    assert Path(run(listed(data.root / "clips/test_sad_0/1.jpg")).model.source).samefile(copied)
    own = save_small_model(tmp_path / "checkpoint_load" / "my_stills.safetensors", "img")
    assert Path(run(listed(data.root / "clips/test_sad_0/1.jpg")).model.source).samefile(own)
