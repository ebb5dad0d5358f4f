"""recipes/face_mobilenet_weights.py: a MobileNet out of a TensorFlow.js package, and what it computes."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

SCRIPT = Path(__file__).parents[1] / "recipes" / "face_mobilenet_weights.py"
WIDTHS = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("face_mobilenet_weights", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> tuple[Path, dict[str, np.ndarray]]:
    """A package laid out as the published one: 32-bit numbers, scales of 1x1 convolutions in their filters."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    shapes = {"conv1/convolution/merged_input": (3, 3, 3, 32), "conv1_bn/batchnorm_1/sub": (32,)}
    for number, (before, width) in enumerate(itertools.pairwise(WIDTHS), 1):
        shapes[f"conv_dw_{number}/depthwise_kernel"] = (3, 3, before, 1)
        shapes[f"conv_dw_{number}_bn/batchnorm_1/mul"] = (before,)
        shapes[f"conv_dw_{number}_bn/batchnorm_1/sub"] = (before,)
        shapes[f"conv_pw_{number}/convolution/merged_input"] = (1, 1, before, width)
        shapes[f"conv_pw_{number}_bn/batchnorm_1/sub"] = (width,)
    values = {}
    for name, shape in shapes.items():
        scale = (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) == 4 and shape[-1] > 1 else 0.5
        values[name] = rng.normal(0, scale, shape).astype(np.float32)
    weights = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in values.items()]
    (folder / "model.bin").write_bytes(b"".join(value.tobytes() for value in values.values()))
    manifest = {"weightsManifest": [{"paths": ["model.bin"], "weights": weights}]}
    (folder / script.MODEL).write_text(json.dumps(manifest), encoding="utf-8")
    return folder, values


def test_numbers_are_read_by_name(script: ModuleType, package: tuple) -> None:
    folder, values = package
    found = script.stored(folder)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name].numpy(), value)


def test_batch_normalisation_computes_what_scales_and_offsets_did(script: ModuleType, package: tuple) -> None:
    folder, values = package
    network = script.network_of(script.stored(folder))
    faces = torch.randn(8, 3, 64, 64) * 60

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(values[name])

    x = F.conv2d(faces, tensor("conv1/convolution/merged_input").permute(3, 2, 0, 1), stride=2, padding=1)
    x = F.relu6(x + tensor("conv1_bn/batchnorm_1/sub")[:, None, None])
    x = F.conv2d(x, tensor("conv_dw_1/depthwise_kernel").permute(2, 3, 0, 1), padding=1, groups=32)
    x = (
        x * tensor("conv_dw_1_bn/batchnorm_1/mul")[:, None, None]
        + tensor("conv_dw_1_bn/batchnorm_1/sub")[:, None, None]
    )
    x = F.conv2d(F.relu6(x), tensor("conv_pw_1/convolution/merged_input").permute(3, 2, 0, 1))
    expected = F.relu6(x + tensor("conv_pw_1_bn/batchnorm_1/sub")[:, None, None])

    def first_stage() -> torch.Tensor:
        return network.blocks[0](network.bn1(network.conv_stem(faces)))

    with torch.no_grad():
        torch.testing.assert_close(first_stage(), expected, atol=1e-4, rtol=1e-4)
        script.normalise(network, faces)
        torch.testing.assert_close(first_stage(), expected, atol=1e-4, rtol=1e-4)
        # In training, where a batch is normalised by itself, these faces come out as in evaluation.
        trained, evaluated = network.train().forward_features(faces), network.eval().forward_features(faces)
        torch.testing.assert_close(trained, evaluated, atol=2e-2, rtol=1e-2)


def test_the_script_writes_weights_that_finetuning_starts_from(
    script: ModuleType, package: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecstfl_cli.engine.reporter import Reporter
    from ecstfl_cli.engine.weights.opening import open_checkpoint
    from ecstfl_cli.labels import label_map_from

    for n in range(3):
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (48, 48), np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "train.csv").write_text("filePath,expression\n0.png,0\n1.png,1\n2.png,2\n", encoding="utf-8")
    out = tmp_path / "face_mobilenet.pth"
    monkeypatch.setattr("sys.argv", ["", str(package[0]), str(tmp_path / "train.csv"), str(out)])
    script.main()
    found = open_checkpoint(out, backbone="timm/mobilenetv1_100", label_map=label_map_from("dfew"), reporter=Reporter())
    assert found.model.backbone == "timm/mobilenetv1_100"
