"""Exporting to ONNX, and running the result in ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecstfl_cli.errors import ExportError

INPUT = "frames"
OUTPUTS = ["logits", "probs"]
# Where a file keeps in what it computes, if that is not fp32.
PRECISION = "precision"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class OnnxExporter:
    """One self-contained `.onnx` file: uint8 `frames` to `logits` and `probs`, the batch size free."""

    suffix = ".onnx"

    def export(self, graph: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
        """Write `graph` to `path`; `example` holds at least two samples, so that no size of the batch is built in.

        Raises ExportError where the network cannot be exported, with the exporter's reason, or a package is missing.
        """
        require_packages()
        import onnx

        with quietly():
            try:
                program = torch.onnx.export(
                    graph.eval(),
                    (example,),
                    dynamo=True,
                    verbose=False,
                    input_names=[INPUT],
                    output_names=OUTPUTS,
                    dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                    external_data=False,
                )
            except Exception as error:
                raise ExportError(
                    f"this network cannot be exported to ONNX: {in_a_line(error)}",
                    "Choose another backbone, or use the checkpoint as it is: ecstfl infer --model FILE",
                ) from error
        assert program is not None
        model = program.model_proto
        strip_trace(model)
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.save(model, str(path))

    def run(self, path: Path, frames: Any) -> Any:
        """Logits (B, K) of uint8 frames (a numpy array) by ONNX Runtime on the CPU."""
        return OnnxModel(path).logits(frames)


class OnnxModel:
    """An `.onnx` file opened in ONNX Runtime on the CPU; `metadata` are the strings stored with it.

    `precision` is fp32 or int8. It computes in as many threads as PyTorch does when it is opened. Raises ExportError
    where the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        require_packages("onnxruntime")
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        # Below errors it reports what its optimiser does, line by line, on stderr.
        options.log_severity_level = 3
        # Left to itself it takes a thread for each core, in each of several processes, and ties each to its core, where
        # those of face detection are tied to, too.
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"{path} cannot be opened in ONNX Runtime: {error}", "Export it again.") from error
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.precision = self.metadata.get(PRECISION, "fp32")

    def logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits (B, K) of uint8 frames, (B, T, H, W, 3) or (B, H, W, 3)."""
        return self.session.run([OUTPUTS[0]], {INPUT: frames})[0]


def require_packages(*packages: str) -> None:
    """Raise ExportError where a package that ONNX needs, by default any, is not installed."""
    missing = [package for package in packages or PACKAGES if find_spec(package) is None]
    if missing:
        raise ExportError(
            f"ONNX needs packages that are not installed: {', '.join(missing)}",
            'Install them: pip install "ecstfl[export]"',
        )


def in_a_line(error: Exception) -> str:
    """What went wrong in a library, without the pages that some of them write."""
    reason = str(error).strip().splitlines()
    return f"{type(error).__name__}: {reason[0] if reason else ''}"


def strip_trace(model: Any) -> None:
    """Leave out where each node comes from in the source: file paths of the machine that exported it."""
    graphs = [model.graph, *model.functions]
    for holder in graphs:
        holder.ClearField("metadata_props")
        for part in (*holder.node, *holder.value_info):
            part.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The exporter's warnings are about its own insides; what it prints goes to stderr, stdout is for results."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
