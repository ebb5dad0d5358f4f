"""The shipped detector: its weights are in the package and take batches of any size."""

import numpy as np
import onnx
import onnxruntime
import pytest

from ecstfl_cli.components.detectors.centerface import WEIGHTS, CenterFace
from ecstfl_cli.components.detectors.onnx_detector import suppress
from ecstfl_cli.errors import DeviceError


def test_the_weights_are_a_valid_model_with_a_licence_beside_it() -> None:
    model = onnx.load(WEIGHTS)
    onnx.checker.check_model(model)
    assert (
        model.ir_version == 3
    )  # From 4 on, weights among the inputs are no constants, and ONNX Runtime is half as fast.
    assert "Permission is hereby granted" in WEIGHTS.with_name("centerface.LICENSE").read_text()


def test_images_of_two_sizes_in_a_batch_and_one_by_one_have_the_same_faces() -> None:
    images = [
        np.random.default_rng(i).integers(0, 256, size, np.uint8)
        for i, size in enumerate([(40, 72, 3), (64, 33, 3)] * 2)
    ]
    detector = CenterFace(threads=1, min_score=0.01)
    together = detector.detect(images)
    assert any(together)
    for faces, image in zip(together, images, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_allclose([face.box for face in faces], [face.box for face in alone], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_gpu_without_its_runtime_is_an_error_that_names_the_package(device: str) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has it")
    with pytest.raises(DeviceError, match="onnxruntime-gpu"):
        CenterFace(device=device)


@pytest.mark.parametrize("device", ["abacus", "cuda:x", "mps"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=f"cannot be detected on '{device}'.*\n.*Allowed: auto, cpu, gpu"):
        CenterFace(device=device)


@pytest.mark.parametrize(
    ("available", "device", "providers"),
    [
        (["CUDAExecutionProvider"], "auto", [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]),
        (["CUDAExecutionProvider"], "auto:1", [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]),
        (["CUDAExecutionProvider"], "gpu", [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]),
        (["CUDAExecutionProvider"], "cpu", ["CPUExecutionProvider"]),
        ([], "auto:1", ["CPUExecutionProvider"]),
    ],
)
def test_the_gpu_is_taken_where_it_is_wanted_and_there(
    monkeypatch: pytest.MonkeyPatch, available: list[str], device: str, providers: list
) -> None:
    asked = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, providers: asked.append(providers))
    CenterFace(device=device)
    assert asked == [providers]


def test_of_overlapping_boxes_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [2, 0, 12, 10]], dtype=np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.3, 0.8], dtype=np.float32), 0.3) == [1, 2]
