"""`export --format onnx_int8`: what becomes an integer, what stays, and how near the result is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from ecstfl_cli.components.exporters.onnx import OnnxModel
from ecstfl_cli.components.exporters.onnx_int8 import OnnxInt8Exporter
from ecstfl_cli.components.frame_model import FrameModel, InferenceGraph
from ecstfl_cli.engine.inference.recogniser import Recogniser
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights.checkpoint import load_native
from ecstfl_cli.engine.weights.export import ExportResult, compare, export
from ecstfl_cli.engine.weights.export_metadata import export_metadata
from ecstfl_cli.engine.weights.fitting import build_network
from ecstfl_cli.engine.weights.model_source import shipped_model
from ecstfl_cli.errors import DeviceError, ExportError
from ecstfl_cli.pathfile import read_table
from tests.small_model import save_small_model


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures (n, 32, 32, 3) uint8 that differ in colour and in structure."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BILINEAR)) for c in coarse])


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> ExportResult:
    """An export of a small network for stills, beside its checkpoint `m.safetensors`."""
    folder = tmp_path_factory.mktemp("int8")
    names = [f"{i}.png" for i in range(96)]
    for name, picture in zip(names, pictures(96), strict=True):
        Image.fromarray(picture).save(folder / name)
    (folder / "faces.csv").write_text("\n".join(["filePath", *names]))
    model = save_small_model(folder / "m.safetensors", "img", backbone="grid_cnn")
    return export(model, format="onnx_int8", samples=[folder / "faces.csv"], tolerance=0.1, reporter=Reporter())


def convolutions(path: Path) -> list[bool]:
    """Of each convolution of a file, in order, whether its weights are integers."""
    graph = onnx.load(path).graph
    integer = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [node.input[1] in integer for node in graph.node if node.op_type == "Conv"]


def test_the_file_has_its_own_name_and_says_what_its_checkpoint_says(quantised):
    assert quantised.path.name == "m.int8.onnx"
    checkpoint = load_native(quantised.path.with_name("m.safetensors"))
    assert OnnxModel(quantised.path).metadata == {**export_metadata(checkpoint), "precision": "int8"}
    onnx.checker.check_model(onnx.load(quantised.path))
    assert not any(tensor.external_data for tensor in onnx.load(quantised.path).graph.initializer)


def test_all_but_the_convolution_on_the_pixels_is_in_integers_and_the_file_is_smaller(quantised):
    assert convolutions(quantised.path) == [False, True, True, True]
    # An integer is a quarter of a float; the classifier and the first convolution stay.
    weights = sum(p.numel() for p in build_network(load_native(quantised.path.with_name("m.safetensors"))).parameters())
    assert quantised.size < 2 * weights


def test_it_predicts_as_its_checkpoint_does_whatever_opens_it(quantised):
    frames = pictures(64, seed=1)
    ours = Recogniser(quantised.path.with_name("m.safetensors"), device="cpu").probs(frames)
    int8 = Recogniser(quantised.path)
    assert int8.model.describe().endswith("ONNX Runtime on cpu, int8")
    with pytest.raises(DeviceError, match="on the CPU and in int8"):
        Recogniser(quantised.path, precision="fp32")
    theirs = int8.probs(frames)
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.9
    difference = np.abs(ours - theirs)
    assert difference.mean() < 0.05
    # Two unequal numbers for a difference of nothing would be one and the same file in fp32.
    assert difference.max() > 1e-4


def test_every_size_of_batch_gives_the_same(quantised):
    frames, model = pictures(5, seed=2), OnnxModel(quantised.path)
    singly = np.concatenate([model.logits(frames[i : i + 1]) for i in range(5)])
    # A last bit may round to another integer.
    np.testing.assert_allclose(model.logits(frames), singly, atol=1e-2 * np.abs(singly).max())


def test_gates_on_a_single_position_stay_in_fp32(tmp_path):
    """Squeeze-and-excitation, in each of the five blocks of compact_resnet."""
    checkpoint = load_native(save_small_model(tmp_path / "m.safetensors", "img", backbone="compact_resnet"))
    graph = InferenceGraph(FrameModel(build_network(checkpoint), checkpoint.input)).eval()
    OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    assert convolutions(tmp_path / "m.onnx").count(False) == 1 + 5 * 2
    assert convolutions(tmp_path / "m.onnx").count(True) == 5 * 2 + 3


def largest_weights(path: Path) -> list[int]:
    """Of each convolution of a file in integers, in order, the greatest size of a weight."""
    graph = onnx.load(path).graph
    weights = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    integer = {node.output[0]: weights.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"}
    found = [integer.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    return [int(np.abs(w.astype(int)).max()) for w in found if w is not None]


def test_weights_have_seven_bits_and_those_of_depthwise_convolutions_eight(tmp_path):
    """MobileNet v1: a convolution on the pixels, then 13 times one for each channel and one on single positions."""
    checkpoint = load_native(
        save_small_model(tmp_path / "m.safetensors", "img", backbone="timm/mobilenetv1_100", temporal_head=None)
    )
    graph = InferenceGraph(FrameModel(build_network(checkpoint), checkpoint.input)).eval()
    OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    found = largest_weights(tmp_path / "m.onnx")
    # The last ones see a single position, and stay in fp32.
    assert len(found) >= 20
    assert set(found[::2]) == {127}
    assert set(found[1::2]) == {64}


def sums(path: Path) -> list[bool]:
    """Of each sum of a file, in order, whether all that it adds are integers."""
    graph = onnx.load(path).graph
    integer = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [integer.issuperset(node.input) for node in graph.node if node.op_type == "Add"]


def test_the_sums_of_residual_blocks_are_in_integers(tmp_path):
    """Five blocks of compact_resnet; the first one's other summand is the convolution on the pixels."""
    checkpoint = load_native(save_small_model(tmp_path / "m.safetensors", "img", backbone="compact_resnet"))
    graph = InferenceGraph(FrameModel(build_network(checkpoint), checkpoint.input)).eval()
    OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    assert sums(tmp_path / "m.onnx").count(True) == 5


class Shifted(nn.Module):
    """Adds a constant to feature maps, and tokens made of them to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.arange(8.0).reshape(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = (x.relu() + self.shift).flatten(2)
        return (tokens + tokens.relu() * 2).mean(dim=2)


def test_sums_with_constants_and_of_anything_but_feature_maps_stay_in_fp32(tmp_path):
    torch.manual_seed(0)
    graph = Chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), Shifted()).eval()
    OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    assert convolutions(tmp_path / "m.onnx") == [False, True]
    assert sums(tmp_path / "m.onnx") == [False, False]


class Chain(nn.Module):
    """Layers as a network of frames (B, …, H, W, 3) in [0, 1], channels first, to logits."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = 20 * self.net(frames.movedim(-1, 1) / 255).flatten(1)
        return logits, logits.softmax(dim=1)


def test_convolutions_over_time_are_quantised_too(tmp_path):
    torch.manual_seed(0)
    graph = Chain(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 7, 3, 2), nn.AdaptiveAvgPool3d(1)).eval()
    clips = pictures(32 * 8).reshape(32, 8, 32, 32, 3)
    OnnxInt8Exporter().export(graph, torch.from_numpy(clips[:16]), tmp_path / "m.onnx", {})
    assert convolutions(tmp_path / "m.onnx") == [False, True]
    found = compare(graph, OnnxInt8Exporter(), tmp_path / "m.onnx", [clips[16:]])
    assert found.probs_difference < 0.05


def test_a_network_without_convolutions_to_quantise_is_refused(tmp_path):
    """As transformers are: what sees the pixels is all they have."""
    graph = Chain(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 7)).eval()
    with pytest.raises(ExportError, match=r"(?s)no convolutions that int8 makes faster.*--format onnx"):
        OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    assert not (tmp_path / "m.onnx").exists()


def test_it_prints_nothing(tmp_path, capfd):
    checkpoint = load_native(save_small_model(tmp_path / "m.safetensors", "img", backbone="grid_cnn"))
    graph = InferenceGraph(FrameModel(build_network(checkpoint), checkpoint.input)).eval()
    OnnxInt8Exporter().export(graph, torch.from_numpy(pictures(16)), tmp_path / "m.onnx", {})
    assert capfd.readouterr() == ("", "")


def test_the_model_that_ships_keeps_its_classes_on_real_faces(real_data, tmp_path):
    folder = real_data("fer2013")
    training = [folder / field.path for field in read_table(folder / "train.csv").fields[::90]]
    (tmp_path / "train.csv").write_text("\n".join(["filePath", *map(str, training)]))
    result = export(
        shipped_model(), format="onnx_int8", samples=[tmp_path / "train.csv"], out=tmp_path, reporter=Reporter()
    )
    assert result.comparison.same_class >= 0.92 * result.comparison.samples
    validation = [folder / field.path for field in read_table(folder / "val.csv").fields[::9]]
    faces = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in validation])
    ours, theirs = (Recogniser(path, device="cpu").probs(faces) for path in (shipped_model(), result.path))
    assert len(faces) > 350
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.92
    assert np.abs(ours - theirs).mean() < 0.02
