"""Count the work of an ONNX graph for one image: multiply-accumulate operations, parameters, bytes moved."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Counted:
    """The work of a graph for one image.

    Attributes:
        macs: multiply-accumulate operations of convolutions and matrix products.
        parameters: numbers in the graph's initializers, without scalars.
        bytes_moved: the bytes that go through memory if no layer is fused with the next: the weights, and the input and the output of
            each convolution and matrix product, at four bytes a number (one if the graph is quantised).
    """

    macs: int
    parameters: int
    bytes_moved: int


@functools.lru_cache(maxsize=8)
def count(path: Path) -> Counted:
    """Count the work of an ONNX graph for a batch of one.

    Raises:
        ValueError: the shape of a tensor can't be inferred.
    """
    import onnx

    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        if dimension.dim_param:
            dimension.ClearField("dim_param")
            dimension.dim_value = 1
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    produced = {output: node for node in graph.node for output in node.output}
    width = 1 if any(node.op_type == "QuantizeLinear" for node in graph.node) else 4
    macs = moved = 0
    for node in graph.node:
        if node.op_type not in PRODUCTS:
            continue
        source, weight, result = shapes[node.input[0]], _weight_shape(node, shapes, produced), shapes[node.output[0]]
        if 0 in result or not result:
            raise ValueError(f"the shape of {node.output[0]} in {path.name} is not known")
        macs += _macs(node, weight, source, result)
        moved += width * (math.prod(weight) + math.prod(source) + math.prod(result))
    parameters = sum(math.prod(i.dims) for i in graph.initializer if i.dims)
    return Counted(macs, parameters, moved)


def _weight_shape(node: Any, shapes: dict[str, tuple[int, ...]], produced: dict[str, Any]) -> tuple[int, ...]:
    name = node.input[1]
    while name not in shapes or (name in produced and produced[name].op_type == "DequantizeLinear"):
        name = produced[name].input[0]
    return shapes[name]


def _macs(node: Any, weight: tuple[int, ...], source: tuple[int, ...], result: tuple[int, ...]) -> int:
    if node.op_type == "Conv":  # weight: [out, in / groups, kh, kw]
        return math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight: [in, out / groups, kh, kw]
        return math.prod(source) * math.prod(weight[1:])
    return math.prod(result) * source[-1]


def count_macs(path: Path) -> int:
    """Return the multiply-accumulate operations of an ONNX graph for one image."""
    return count(path).macs
