"""Convert the FP32 graph to FP16, INT8 or FP8; each result is one file for every runtime.

The precision is in the graph: TensorRT 11 and the other runtimes take it from there. In every precision the image stays uint8 and the
end of the graph (Sigmoid, times 255, Floor, Cast) stays FP32: FP16 has a significand of 11 bits, so 255 p would often be truncated to
another level.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from seseg_trt.errors import ModelError
from seseg_trt.models.artifact import FLOAT_OUTPUT_NAME, KEY_PREFIX

from .calibration import Calibration
from .qdq import Activations, insert_pairs, points_of

Rest = Literal["fp32", "fp16"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a graph is quantised to 8 bits.

    Attributes:
        precision: of the quantised convolutions, ``int8`` or ``fp8``.
        activations: see :func:`engine.qdq.insert_pairs`; ``f8`` only with ``fp8``.
        rest: the precision of everything that is not quantised.
        keep: the names of convolutions that are not quantised.
    """

    precision: Literal["int8", "fp8"]
    activations: Activations = "s8"
    rest: Rest = "fp32"
    keep: tuple[str, ...] = ()


def to_fp16(model: Any) -> Any:
    """Return the graph in FP16, except for its end.

    Args:
        model: an ``onnx.ModelProto`` in FP32, as :mod:`engine.export` makes it; it is not changed.

    Raises:
        ModelError: a weight is too large for FP16.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    largest = max((float(np.abs(w).max()), name) for name, w in _float_constants(copy).items() if w.size)
    if largest[0] > float(np.finfo(np.float16).max):
        raise ModelError(f"the constant {largest[1]} holds {largest[0]:.3g}, which is too large for FP16", "keep the graph in FP32")
    end = end_of(copy)
    logits = end[0].input[0]
    body = [node for node in copy.graph.node if node.name not in {node.name for node in end}]
    constants = _constants_of(copy, end)
    outputs = list(copy.graph.output)
    # The converter rounds the tensors between the nodes that it leaves in FP32 to FP16 and back, so it is run without the end.
    _replace(copy.graph.node, body)
    _replace(copy.graph.output, [onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None)])
    converted = convert_float_to_float16(copy)
    widened = onnx.helper.make_node("Cast", [logits], [f"{logits}.fp32"], name=f"{logits}.fp32", to=onnx.TensorProto.FLOAT)
    end[0].input[0] = widened.output[0]
    converted.graph.node.extend([widened, *end])
    _replace(converted.graph.output, outputs)
    _replace(converted.graph.value_info, model.graph.value_info)
    there = {c.name for c in converted.graph.initializer} - {c.name for c in constants}
    _replace(converted.graph.initializer, [*(c for c in converted.graph.initializer if c.name in there), *constants])
    return describe(converted, {"precision": "fp16"})


def quantise(model: Any, calibration: Calibration, how: Quantisation) -> Any:
    """Return the graph with its convolutions in INT8 or FP8.

    Args:
        model: an ``onnx.ModelProto`` in FP32; it is not changed.
        calibration: the statistics of the tensors of :func:`engine.qdq.points_of`, measured on this graph.
        how: what to quantise.
    """
    points = [point for point in points_of(model) if point.name not in how.keep]
    weights = _float_constants(model)
    base = to_fp16(model) if how.rest == "fp16" else model
    quantised = insert_pairs(base, weights, points, calibration, "f8" if how.precision == "fp8" else how.activations)
    return describe(
        quantised,
        {
            "precision": how.precision,
            "calibration_images": str(calibration.images),
            "calibration_sha256": calibration.sha256,
            "activations": "f8" if how.precision == "fp8" else how.activations,
            "rest": how.rest,
            "kept_layers": json.dumps(sorted(how.keep)),
        },
    )


def to_int8(
    model: Any, calibration: Calibration, *, activations: Activations = "s8", rest: Rest = "fp32", keep: Collection[str] = ()
) -> Any:
    """Return the graph with INT8 convolutions; see :func:`quantise`."""
    return quantise(model, calibration, Quantisation("int8", activations, rest, tuple(keep)))


def to_fp8(model: Any, calibration: Calibration, *, rest: Rest = "fp16", keep: Collection[str] = ()) -> Any:
    """Return the graph with FP8 (E4M3) convolutions, for GPUs with FP8 (Ada, Hopper, Blackwell); see :func:`quantise`."""
    return quantise(model, calibration, Quantisation("fp8", "f8", rest, tuple(keep)))


def end_of(model: Any) -> list[Any]:
    """Return copies of the nodes from the last Sigmoid to the outputs, in graph order.

    Raises:
        ModelError: the graph does not end like those of :mod:`engine.export`.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    node = producers[FLOAT_OUTPUT_NAME]
    names = {node.name}
    while node.op_type != "Sigmoid":
        node = producers[node.input[0]]
        names.add(node.name)
    after = {FLOAT_OUTPUT_NAME}
    for node in model.graph.node:
        if after & set(node.input):
            names.add(node.name)
            after |= set(node.output)
    end = [type(node).FromString(node.SerializeToString()) for node in model.graph.node if node.name in names]
    if end[0].op_type != "Sigmoid":
        raise ModelError(f"the graph's end begins with {end[0].op_type}, not with a Sigmoid", "give a graph that build_engine.py made")
    return end


def describe(model: Any, properties: dict[str, str]) -> Any:
    """Set entries of a graph's metadata in place, under the prefix :data:`KEY_PREFIX`, and return the graph."""
    from onnx import helper

    there = {p.key: p.value for p in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, {**there, **{KEY_PREFIX + key: value for key, value in properties.items()}})
    return model


def _constants_of(model: Any, nodes: list[Any]) -> list[Any]:
    names = {name for node in nodes for name in node.input}
    return [type(c).FromString(c.SerializeToString()) for c in model.graph.initializer if c.name in names]


def _replace(field: Any, items: Any) -> None:
    """Replace the items of a repeated field of a protobuf message."""
    items = list(items)
    del field[:]
    field.extend(items)


def _float_constants(model: Any) -> dict[str, Any]:
    from onnx import TensorProto, numpy_helper

    return {c.name: numpy_helper.to_array(c) for c in model.graph.initializer if c.data_type == TensorProto.FLOAT}
