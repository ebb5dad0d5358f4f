"""Exporting to ONNX with convolutions in 8-bit integers, for CPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ecstfl_cli.components.exporters.onnx import (
    INPUT,
    PRECISION,
    OnnxExporter,
    in_a_line,
    quietly,
    require_packages,
    strip_trace,
)
from ecstfl_cli.errors import ExportError

# Samples in which the ranges of values are looked for at a time.
_BATCH = 16
# What stands between convolutions in residual networks.
_BETWEEN = ("Add", "AveragePool")


class OnnxInt8Exporter(OnnxExporter):
    """An `.onnx` file of the same inputs and outputs, its convolutions in int8 (Jacob et al., CVPR 2018).

    Weights have a scale for each output channel, and 7 bits, in depthwise convolutions 8; activations have a scale for
    each tensor, from the least and the greatest value that the samples give it. What adds feature maps or averages
    neighbours in them is in int8, too, so that a residual block needs no fp32. The convolutions on the pixels stay in
    fp32, where a network has hardly any arithmetic and loses most, and so do those on a single position
    (squeeze-and-excitation), where it has next to none.
    """

    suffix = ".int8.onnx"
    needs_samples = True

    def export(self, graph: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
        """Write `graph` to `path`; `example` are the samples that the ranges of activations come from.

        Raises ExportError where the network cannot be exported or has no convolution to quantise.
        """
        require_packages()
        import onnx

        with tempfile.TemporaryDirectory() as scratch:
            plain, quantised = Path(scratch, "plain.onnx"), Path(scratch, "quantised.onnx")
            super().export(graph, example[:2], plain, {})
            try:
                with quietly():
                    _quantise(plain, quantised, example.numpy())
            except Exception as error:
                raise ExportError(
                    f"this network cannot be quantised: {in_a_line(error)}", "Use --format onnx."
                ) from error
            model = onnx.load(quantised)
        if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            raise ExportError(
                "this network has no convolutions that int8 makes faster",
                "Use --format onnx, which is for any network.",
            )
        strip_trace(model)
        onnx.helper.set_model_props(model, {**metadata, PRECISION: "int8"})
        onnx.save(model, str(path))


def _quantise(plain: Path, quantised: Path, samples: np.ndarray) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = plain.with_name("folded.onnx")
    quant_pre_process(plain, folded, skip_symbolic_shape=True)
    model = onnx.load(folded)
    quantize_static(
        folded,
        quantised,
        _reader(samples),
        quant_format=QuantFormat.QDQ,
        # A ReLU is a matter of the range that its convolution is quantised to, and costs nothing then.
        op_types_to_quantize=["Conv", "Relu", "Clip", *_BETWEEN],
        nodes_to_exclude=_in_fp32(model),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights of 7 bits: sums of two products fit into 16, so that CPUs without VNNI compute the same. Depthwise
        # convolutions, which lose most by it, have no such sums.
        reduce_range=True,
        extra_options={
            "TensorQuantOverrides": {
                name: [{"quant_type": QuantType.QInt8, "axis": 0, "reduce_range": False}]
                for name in _depthwise_weights(model)
            }
        },
    )


def _depthwise_weights(model: Any) -> list[str]:
    """Names of the weights (C, 1, ...) of convolutions with a group for each channel."""
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    return [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group" and attribute.i > 1 and shapes.get(node.input[1], [])[:2] == [attribute.i, 1]
    ]


def _reader(samples: np.ndarray) -> Any:
    """What ONNX Runtime asks for inputs, batch by batch, until it is given None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({INPUT: samples[i : i + _BATCH]} for i in range(0, len(samples), _BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    return Reader()


def _in_fp32(model: Any) -> list[str]:
    """Names of the nodes that stay as they are.

    Convolutions with no other one before them, or of a single position; sums and averages that are of anything but
    feature maps of the other ones.
    """
    from onnx.shape_inference import infer_shapes

    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in infer_shapes(model, data_prop=True).graph.value_info
    }
    constants = {value.name for value in model.graph.initializer}
    kept: list[str] = []
    after: set[str] = set()
    quantised: set[str] = set()
    for node in model.graph.node:
        convolved = any(name in after for name in node.input)
        shape = shapes.get(node.output[0], [])
        if node.op_type == "Conv":
            if not convolved or (shape[2:] and set(shape[2:]) == {1}):
                kept.append(node.name)
            else:
                quantised.update(node.output)
        elif node.op_type in _BETWEEN:
            is_of_maps = len(shape) >= 4 and not constants.intersection(node.input)
            if not is_of_maps or not quantised.intersection(node.input):
                kept.append(node.name)
        if quantised.intersection(node.input):
            quantised.update(node.output)
        if convolved or node.op_type == "Conv":
            after.update(node.output)
    return kept
