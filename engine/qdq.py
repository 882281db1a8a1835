"""Quantise convolutions in ONNX's QDQ form: QuantizeLinear and DequantizeLinear pairs before the chosen convolutions, and nowhere else.

TensorRT, TensorRT for RTX, OpenVINO and ONNX Runtime all read this form and fuse the pairs into 8-bit kernels. Weights have a scale for
each output channel, activations one for the tensor. Biases are not quantised, since TensorRT's parsers refuse quantised biases. The
operations between convolutions (squeeze-and-excitation, residual sums, the head) keep the graph's own type.

Why not ONNX Runtime's ``quantize_static``: it does not write FP8 in this form, puts pairs between a convolution and its ReLU by default,
and calibrates by the extremes alone unless it can hold every tensor of every image in memory.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .calibration import Calibration, Seen, best_range

Activations = Literal["s8", "u8", "f8"]
Floats = npt.NDArray[np.float32]

OPSET = 19  # the first whose QuantizeLinear takes FP16 and gives FP8
IR_VERSION = 9  # the first that allows this opset
FP8_MOST = 448.0  # the largest number of E4M3
LEAST_STEP = {np.dtype(np.float32): 1e-30, np.dtype(np.float16): 6.2e-5}  # FP16's smallest normal number: smaller scales lose bits
HEAD = "final_conv"


@dataclasses.dataclass(frozen=True)
class Point:
    """A convolution that can be quantised.

    Attributes:
        name: of the node.
        tensor: the name of its input tensor.
        weight: the name of its weight.
        axis: the weight's axis of output channels.
    """

    name: str
    tensor: str
    weight: str
    axis: int


def points_of(model: Any) -> list[Point]:
    """Return the convolutions that can be quantised, in graph order.

    Left out are the last one, which makes the logits, and those of squeeze-and-excitation, which work on one pixel and take no time.
    """
    constants = {c.name for c in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.name == HEAD or re.search(r"_se_conv\d$", node.name):
            continue
        if node.input[1] in constants:
            found.append(Point(node.name, node.input[0], node.input[1], 0 if node.op_type == "Conv" else 1))
    return found


def raise_opset(model: Any) -> Any:
    """Return a copy of the model at opset :data:`OPSET`; a model of that opset or later is returned itself."""
    import onnx

    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= OPSET:
        return model
    raised = onnx.version_converter.convert_version(model, OPSET)
    raised.ir_version = max(raised.ir_version, IR_VERSION)
    raised.metadata_props.extend(p for p in model.metadata_props if p.key not in {q.key for q in raised.metadata_props})
    return raised


def insert_pairs(
    model: Any,
    weights: Mapping[str, Floats],
    points: Iterable[Point],
    calibration: Calibration,
    activations: Activations,
) -> Any:
    """Return a copy of a graph with quantised convolutions.

    Args:
        model: an ``onnx.ModelProto`` in FP32 or FP16.
        weights: the FP32 weights of the convolutions, by name.
        points: the convolutions to quantise.
        calibration: the statistics of their input tensors.
        activations: the type of the activations. ``s8``: int8, symmetric. ``u8``: uint8 for tensors without negative values, whose
            scale is then half as large; int8 for others; TensorRT has no uint8. ``f8``: FP8 (E4M3). Weights are int8 with the first
            two, FP8 with the last.
    """
    import onnx

    points = list(points)
    graph = raise_opset(model)
    if graph is model:
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
    writer = _Writer(graph, "f8" if activations == "f8" else "s8")
    for point in points:
        # one pair for each tensor, however many convolutions read it
        writer.quantise_tensor(point.tensor, calibration.tensors[point.tensor], activations)
        writer.quantise_weight(point, weights[point.weight])
    writer.finish({point.name: point for point in points})
    return graph


class _Writer:
    """A collector of the nodes and constants that quantisation adds to a graph."""

    def __init__(self, model: Any, weight_type: Literal["s8", "f8"]) -> None:
        self._model = model
        self._weight_type = weight_type
        constants = {c.name: c for c in model.graph.initializer}
        import onnx

        self._types = {name: onnx.helper.tensor_dtype_to_np_dtype(c.data_type) for name, c in constants.items()}
        self._quantised: dict[str, str] = {}
        self._pairs: dict[str, list[Any]] = {}
        self._front: list[Any] = []
        self._float = np.dtype(np.float32)

    def quantise_tensor(self, tensor: str, seen: Seen, how: Activations) -> None:
        """Make the pair of nodes that quantises an activation."""
        from onnx import helper

        if tensor in self._quantised:
            return
        if how == "f8":
            step, zero = seen.largest / FP8_MOST, _fp8(np.zeros(()))
        elif how == "u8" and seen.lowest >= 0:
            step, zero = best_range(seen, 0, 255) / 255, np.zeros((), np.uint8)
        else:
            step, zero = best_range(seen, -127, 127) / 127, np.zeros((), np.int8)
        scale_name, zero_name = f"{tensor}.scale", f"{tensor}.zero"
        dtype = self._dtype_of_weights()
        self._add(np.asarray(max(step, LEAST_STEP[dtype]), dtype), scale_name)
        self._add(zero, zero_name)
        self._pairs[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, scale_name, zero_name], [f"{tensor}.quantised"], name=f"{tensor}.quantise"),
            helper.make_node(
                "DequantizeLinear", [f"{tensor}.quantised", scale_name, zero_name], [f"{tensor}.rounded"], name=f"{tensor}.dequantise"
            ),
        ]
        self._quantised[tensor] = f"{tensor}.rounded"

    def quantise_weight(self, point: Point, weight: Floats) -> None:
        """Replace a weight with an 8-bit one, with a scale for each output channel."""
        from onnx import helper

        name, dtype = point.weight, self._dtype_of_weights()
        if name in self._quantised:
            return
        others = tuple(i for i in range(weight.ndim) if i != point.axis)
        largest = np.abs(weight).max(axis=others)
        most = FP8_MOST if self._weight_type == "f8" else 127.0
        steps = np.maximum(largest / most, LEAST_STEP[dtype]).astype(dtype)
        shape = [-1 if i == point.axis else 1 for i in range(weight.ndim)]
        scaled = weight / steps.astype(np.float32).reshape(shape)
        if self._weight_type == "f8":
            stored, zero = _fp8(np.clip(scaled, -FP8_MOST, FP8_MOST)), _fp8(np.zeros(steps.shape))
        else:
            stored, zero = np.clip(np.rint(scaled), -127, 127).astype(np.int8), np.zeros(steps.shape, np.int8)
        for suffix, value in (("quantised", stored), ("scale", steps), ("zero", zero)):
            self._add(value, f"{name}.{suffix}")
        inputs = [f"{name}.{suffix}" for suffix in ("quantised", "scale", "zero")]
        self._front.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.rounded"], name=f"{name}.dequantise", axis=point.axis))
        self._quantised[name] = f"{name}.rounded"

    def finish(self, points: Mapping[str, Point]) -> None:
        """Insert the nodes and connect the convolutions to them."""
        graph = self._model.graph
        nodes, waiting = list(self._front), dict(self._pairs)
        for node in graph.node:
            point = points.get(node.name)
            if point is not None:
                nodes += waiting.pop(point.tensor, [])
                node.input[0], node.input[1] = self._quantised[point.tensor], self._quantised[point.weight]
            nodes.append(node)
        used = {name for node in nodes for name in node.input}
        constants = [c for c in graph.initializer if c.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)

    def _dtype_of_weights(self) -> Any:
        return np.dtype(np.float16) if np.dtype(np.float16) in self._types.values() else self._float

    def _add(self, value: Any, name: str) -> None:
        from onnx import numpy_helper

        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _fp8(value: Any) -> Any:
    import ml_dtypes

    return np.asarray(value, np.float32).astype(ml_dtypes.float8_e4m3fn)
