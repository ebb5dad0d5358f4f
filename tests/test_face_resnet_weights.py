"""recipes/face_resnet_weights.py: dlib's network out of a TensorFlow.js package, and what it computes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from ecstfl_cli.components.backbones.face_resnet import FaceResNet

SCRIPT = Path(__file__).parents[1] / "recipes" / "face_resnet_weights.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("face_resnet_weights", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path: Path, script: ModuleType) -> tuple[Path, dict[str, np.ndarray]]:
    """A package laid out as the published one: 8-bit numbers with scale and offset, but for one block's filters."""
    rng = np.random.default_rng(0)
    shapes = {"conv32_down": [(7, 7, 3, 32)]}
    before = 32
    for name in script.BLOCKS:
        width = int(name.split("_")[0])
        shapes[f"conv{name}/conv1"], shapes[f"conv{name}/conv2"] = [(3, 3, before, width)], [(3, 3, width, width)]
        before = width
    weights, content, values = [], b"", {}
    for name, (filters,) in shapes.items():
        for part, shape in {
            "conv/filters": filters,
            "scale/weights": filters[-1:],
            "scale/biases": filters[-1:],
        }.items():
            entry = {"name": f"{name}/{part}", "shape": list(shape), "dtype": "float32"}
            if name == "conv64_1/conv1":
                numbers = rng.normal(0, 0.1, shape).astype(np.float32)
                values[entry["name"]] = numbers
            else:
                numbers = rng.integers(0, 256, shape, dtype=np.uint8)
                entry["quantization"] = {"dtype": "uint8", "scale": 0.0008, "min": -0.1}
                values[entry["name"]] = numbers * 0.0008 - 0.1
            weights.append(entry)
            content += numbers.tobytes()
    (tmp_path / "model.bin").write_bytes(content)
    (tmp_path / script.MANIFEST).write_text(json.dumps([{"paths": ["model.bin"], "weights": weights}]))
    return tmp_path, values


def test_numbers_are_read_with_their_scale_and_offset(script: ModuleType, package: tuple) -> None:
    folder, values = package
    found = script.stored(folder)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_allclose(found[name].numpy(), value, atol=1e-6)


def test_batch_normalisation_computes_what_scale_and_offset_did(script: ModuleType, package: tuple) -> None:
    folder, values = package
    network = script.network_of(script.stored(folder))
    faces = torch.randn(8, 3, 96, 96)
    script.normalise(network, faces)
    filters = torch.tensor(values["conv32_down/conv/filters"]).float().permute(3, 2, 0, 1)
    scale, offset = (torch.tensor(values[f"conv32_down/scale/{part}"]).float() for part in ("weights", "biases"))
    convolved = F.conv2d(faces, filters / 4, stride=2, padding=3)
    expected = F.relu(convolved * scale[:, None, None] + offset[:, None, None])
    torch.testing.assert_close(network.stem[:3](faces), expected, atol=1e-5, rtol=1e-4)
    # In training, where a batch is normalised by itself, these faces come out as in evaluation.
    before = network.forward_features(faces)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    torch.testing.assert_close(network.forward_features(faces), before, atol=1e-3, rtol=1e-3)


def test_the_script_writes_weights_that_finetuning_starts_from(
    script: ModuleType, package: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        Image.fromarray(np.full((48, 48), 80 * n, np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "train.csv").write_text("filePath,expression\n0.png,0\n1.png,1\n2.png,2\n")
    out = tmp_path / "face_resnet.pth"
    monkeypatch.setattr("sys.argv", ["", str(package[0]), str(tmp_path / "train.csv"), str(out)])
    script.main()
    network = FaceResNet(7)
    missing, unexpected = network.load_state_dict(torch.load(out, weights_only=True), strict=False)
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])


def test_the_network_keeps_small_crops_and_skips_blocks_in_training_only() -> None:
    network = FaceResNet(7, dropout=0.0, drop_path=0.9).eval()
    faces = torch.randn(2, 3, 72, 72)
    features = network.forward_features(faces)
    assert features.shape == (2, network.num_features)
    assert network.forward_head(features).shape == (2, 7)
    assert torch.equal(network.forward_features(faces), features)
    for block in network.blocks:
        block.train()
        block.body.eval()
    assert not torch.equal(network.forward_features(faces), features)
