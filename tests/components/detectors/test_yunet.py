"""YuNet: fetched with a checksum, decoded in its own coordinates. The graph here has the released one's outputs, and
finds what is bright: a cell's score is the mean brightness of its 8x8 pixels."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ecstfl_cli.components.detectors.yunet import SHA256, YuNet
from ecstfl_cli.engine.reporter import Reporter
from ecstfl_cli.engine.weights import catalogue
from ecstfl_cli.errors import CheckpointError


def bright_cells(path: Path, size: int | None, batch: int | None = 1) -> Path:
    """Boxes are 32 pixels about a bright cell of stride 8; the left eye is a cell to the left and up, the right one to
    the right and up. The other strides never find anything. `size` is the input's side, None where it is free."""
    nodes, outputs, constants = [], [], []

    def constant(name: str, values: object, kind: type = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.array(values, dtype=kind), name))
        return name

    nodes.append(helper.make_node("ReduceMean", ["input"], ["grey"], axes=[1]))
    nodes.append(helper.make_node("Div", ["grey", constant("full", 255)], ["scaled"]))
    flat = constant("flat", [0 if batch is None else batch, -1, 1], np.int64)
    for stride in (8, 16, 32):
        shape = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["scaled"], [f"pooled_{stride}"], **shape))
        nodes.append(helper.make_node("Reshape", [f"pooled_{stride}", flat], [f"cells_{stride}"]))
        factor = constant(f"factor_{stride}", 1 if stride == 8 else 0)
        nodes.append(helper.make_node("Mul", [f"cells_{stride}", factor], [f"cls_{stride}"]))
        nodes.append(helper.make_node("Identity", [f"cls_{stride}"], [f"obj_{stride}"]))
        nodes.append(helper.make_node("Mul", [f"cells_{stride}", constant(f"none_{stride}", 0)], [f"zero_{stride}"]))
        values = {"bbox": [0.5, 0.5, np.log(4), np.log(4)], "kps": [-0.5, -0.5, 1.5, -0.5, 0.5, 0.5, 0, 1, 1, 1]}
        for kind, numbers in values.items():
            name = constant(f"{kind}_value_{stride}", [[numbers]])
            nodes.append(helper.make_node("Add", [f"zero_{stride}", name], [f"{kind}_{stride}"]))
        for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs.append(helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [batch, None, width]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
    graph = helper.make_graph(nodes, "bright", [given], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def with_square(height: int, width: int, left: int, top: int, side: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side] = 255
    return image


@pytest.mark.parametrize(("size", "batch"), [(160, 1), (None, None)])
def test_boxes_and_landmarks_are_in_the_pictures_pixels(tmp_path: Path, size: int | None, batch: int | None) -> None:
    detector = YuNet(weights=bright_cells(tmp_path / "m.onnx", size, batch), sha256=None, threads=1)
    images = [with_square(160, 160, 80, 40, 8), np.zeros((160, 160, 3), np.uint8), with_square(160, 160, 16, 96, 8)]
    found = detector.detect(images)
    assert [len(faces) for faces in found] == [1, 0, 1]
    face = found[0][0]
    assert face.score == pytest.approx(1.0)
    assert face.box == pytest.approx((68, 28, 100, 60))  # 32 about (84, 44)
    assert face.landmarks is not None
    assert face.landmarks[0] == pytest.approx((76, 36))
    assert face.landmarks[1] == pytest.approx((92, 36))


def test_pictures_of_other_sizes_are_fitted_into_the_graphs(tmp_path: Path) -> None:
    detector = YuNet(weights=bright_cells(tmp_path / "m.onnx", 160), sha256=None, threads=1)
    (face,) = detector.detect([with_square(240, 320, 160, 80, 16)])[0]  # halved, the square of the test above
    assert face.box == pytest.approx((136, 56, 200, 120), abs=2)
    assert len(detector.detect([with_square(240, 320, 160, 80, 16), with_square(30, 40, 8, 8, 8)])) == 2


def test_missing_weights_say_how_to_fetch_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="ecstfl checkpoints download yunet"):
        YuNet()


def test_other_content_than_the_released_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=SHA256):
        YuNet(weights=bright_cells(tmp_path / "m.onnx", 160))


def test_a_graph_without_its_outputs_is_refused(tmp_path: Path) -> None:
    path = bright_cells(tmp_path / "m.onnx", 160)
    model = onnx.load(path)
    model.graph.output.pop()
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="lacks the outputs kps_32"):
        YuNet(weights=path, sha256=None)


@pytest.fixture
def served() -> Iterator[dict[str, bytes]]:
    """A server that answers every request with `content`; its address is `url`."""
    state: dict[str, bytes] = {"content": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(state["content"])))
            self.end_headers()
            self.wfile.write(state["content"])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state["url"] = f"http://127.0.0.1:{running.server_port}/".encode()
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        running.shutdown()


def test_the_catalogues_checksum_is_the_detectors_and_a_download_with_another_is_not_kept(
    served: dict[str, bytes], tmp_path: Path
) -> None:
    assert catalogue.find("yunet").sha256 == SHA256
    served["content"] = bright_cells(tmp_path / "m.onnx", 160).read_bytes()
    with pytest.raises(CheckpointError, match=SHA256):
        catalogue.download("yunet", tmp_path / "to", Reporter(), served["url"].decode())
    assert not [path for path in (tmp_path / "to").iterdir() if path.suffix == ".onnx"]


def test_what_is_downloaded_is_what_the_detector_loads(
    served: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served["content"] = bright_cells(tmp_path / "m.onnx", 160).read_bytes()
    digest = hashlib.sha256(served["content"]).hexdigest()
    # The released file cannot be fetched here; this one takes its place in the catalogue.
    monkeypatch.setitem(catalogue._document()["detectors"][0], "sha256", digest)
    monkeypatch.chdir(tmp_path)
    catalogue.download("yunet", catalogue.FOLDER, Reporter(), served["url"].decode())
    assert len(YuNet(sha256=digest).detect([with_square(160, 160, 80, 40, 8)])[0]) == 1
