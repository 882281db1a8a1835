"""Clean up the ONNX graph that tf2onnx makes: the same results from fewer and simpler nodes.

tf2onnx leaves traces of TensorFlow: reshapes that change nothing, a mean where ONNX has a pooling, a padding before a
pooling that can pad by itself, names with counters. No step here changes a bit of the result.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME

BATCH = "N"
KERNEL_SUFFIX = "_kernel"
WEIGHT, BIAS = ".weight", ".bias"
OPSET = 18
IR_VERSION = 8  # the lowest that allows opset 18, so that older readers accept the graph

FoldedWeights = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""Kernel [height, width, in, out] and bias [out] of each convolution, by its layer's name."""


def clean_graph(model: Any, weights: FoldedWeights, input_size: int, float_output: bool) -> Any:
    """Return a cleaned copy of a converted graph.

    Args:
        model: an ``onnx.ModelProto`` with the input ``image``, an input for each convolution's kernel, and the outputs ``p`` and
            ``confidence``; it is not changed.
        weights: kernel and bias of each convolution, by its layer's name.
        input_size: the side of the input, in pixels.
        float_output: make ``p`` a graph output as well.
    """
    import onnx

    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    _put_weights_in(graph, weights)
    _drop_idle_reshapes(graph)
    _pool_instead_of_mean(graph)
    _pool_with_padding(graph)
    _resize_without_region(graph)
    _drop_unused_constants(graph)
    _name_plainly(graph)
    nodes, constants = list(graph.node), list(graph.initializer)
    plane = [BATCH, input_size, input_size]
    confidence = onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.UINT8, plane)
    p = onnx.helper.make_tensor_value_info(FLOAT_OUTPUT_NAME, onnx.TensorProto.FLOAT, plane)
    cleaned = onnx.helper.make_graph(
        nodes,
        "seseg",
        [onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, [*plane, 3])],
        [confidence, p] if float_output else [confidence],
        initializer=sorted(constants, key=lambda c: c.name),
        value_info=[] if float_output else [p],  # so that a tool can make p an output without shape inference
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(cleaned, opset_imports=opsets, ir_version=IR_VERSION, producer_name="seseg_trt")


def _put_weights_in(graph: Any, weights: FoldedWeights) -> None:
    """Replace the input that stands for each convolution's kernel with the kernel, in ONNX's axis order, and the bias."""
    import onnx

    producers = _producers(graph)
    for node in graph.node:
        if node.op_type == "Conv":
            source = node.input[1]
            while source in producers:  # nodes that transpose the kernel from TensorFlow's axis order
                source = producers[source].input[0]
            name = source.removesuffix(KERNEL_SUFFIX)
            kernel, bias = weights[name]
            node.name = name
            graph.initializer.append(onnx.numpy_helper.from_array(kernel.transpose(3, 2, 0, 1).copy(), name + WEIGHT))
            graph.initializer.append(onnx.numpy_helper.from_array(bias, name + BIAS))
            node.input[1:] = [name + WEIGHT, name + BIAS]
    _drop_dead_nodes(graph)


def _drop_dead_nodes(graph: Any) -> None:
    alive = {OUTPUT_NAME, FLOAT_OUTPUT_NAME}
    for node in reversed(graph.node):  # nodes are in topological order
        if alive.intersection(node.output):
            alive.update(node.input)
    for node in [n for n in graph.node if not alive.intersection(n.output)]:
        graph.node.remove(node)


def _producers(graph: Any) -> dict[str, Any]:
    return {output: node for node in graph.node for output in node.output}


def _constants(graph: Any) -> dict[str, Any]:
    return {c.name: c for c in graph.initializer}


def _values(graph: Any, name: str) -> list[int]:
    import onnx

    return [int(v) for v in onnx.numpy_helper.to_array(_constants(graph)[name]).reshape(-1)]


def _bypass(graph: Any, nodes: Iterable[Any]) -> None:
    """Remove nodes that return their first input unchanged."""
    source = {}
    for node in nodes:
        source[node.output[0]] = node.input[0]
        graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            while name in source:
                name = source[name]
            node.input[i] = name


def _drop_idle_reshapes(graph: Any) -> None:
    """Remove reshapes of [N, C, 1, 1] to the same shape; tf2onnx makes them of transposes around the squeeze."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)]))
    shapes = {}
    for value in inferred.graph.value_info:
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    idle = []
    for node in graph.node:
        if node.op_type == "Identity":
            idle.append(node)
        elif node.op_type == "Reshape" and node.input[1] in _constants(graph):
            target, before = _values(graph, node.input[1]), shapes.get(node.input[0], [])
            if len(before) == 4 and target[1:] == before[1:] and target[0] in (-1, 0) and before[2:] == [1, 1]:
                idle.append(node)
    _bypass(graph, idle)


def _pool_instead_of_mean(graph: Any) -> None:
    """Replace the mean over height and width with GlobalAveragePool, which every runtime fuses."""
    for node in graph.node:
        if node.op_type == "ReduceMean":
            attributes = {a.name: a.i for a in node.attribute}
            if attributes.get("keepdims", 1) == 1 and _values(graph, node.input[1]) == [2, 3]:
                node.op_type = "GlobalAveragePool"
                del node.input[1:]
                del node.attribute[:]


def _pool_with_padding(graph: Any) -> None:
    """Move the padding before a MaxPool into the MaxPool.

    MaxPool pads with minus infinity and Keras with zero. After a ReLU no value is below zero, so the maxima are the same.
    """
    import onnx

    producers = _producers(graph)
    idle = []
    for node in graph.node:
        pad = producers.get(node.input[0]) if node.op_type == "MaxPool" else None
        if pad is None or pad.op_type != "Pad" or producers[pad.input[0]].op_type != "Relu":
            continue
        pads = _values(graph, pad.input[1])
        value = _values(graph, pad.input[2]) if len(pad.input) > 2 and pad.input[2] else [0]
        own = {a.name for a in node.attribute} & {"pads", "auto_pad"}
        kernel = next(a.ints for a in node.attribute if a.name == "kernel_shape")
        outer = [pads[i] for i in (0, 1, 4, 5)]
        if value == [0] and not any(outer) and not own and all(pads[i] < k for i, k in zip((2, 3, 6, 7), [*kernel] * 2, strict=True)):
            node.attribute.append(onnx.helper.make_attribute("pads", [pads[i] for i in (2, 3, 6, 7)]))
            idle.append(pad)
    _bypass(graph, idle)


def _resize_without_region(graph: Any) -> None:
    """Drop the region of interest of each Resize: an empty tensor that only the mode ``tf_crop_and_resize`` reads."""
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[1] = ""


def _drop_unused_constants(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [c for c in graph.initializer if c.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _name_plainly(graph: Any) -> None:
    """Name each node after its layer (``stem_conv``), and each constant that is not a weight after its node (``squeeze.input1``).

    The converter numbers its names with a counter that runs through the whole process, so without this the names in a process's second
    graph would differ from those in its first.
    """
    renamed: dict[str, str] = {}
    taken: set[str] = {INPUT_NAME, FLOAT_OUTPUT_NAME, OUTPUT_NAME}
    constants = _constants(graph)
    resizes = itertools.count()
    for node in graph.node:
        name = _unique(_layer_of(node, resizes), taken)
        node.name = name
        for output in node.output:
            renamed[output] = output if output in (FLOAT_OUTPUT_NAME, OUTPUT_NAME) else name
        for i, constant in enumerate(node.input):
            if constant in constants and not constant.endswith((WEIGHT, BIAS)):
                renamed.setdefault(constant, f"{name}.input{i}")
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for constant in graph.initializer:
        constant.name = renamed.get(constant.name, constant.name)


def _layer_of(node: Any, resizes: Iterator[int]) -> str:
    """Return the name of the layer that a node comes from, by its TensorFlow scope; without one, a name by its operator."""
    if node.op_type == "Transpose":
        return "input_transpose"
    if node.op_type == "Resize":
        return f"decoder_stage{next(resizes)}_upsample"
    scope = str(node.name.split("/")[0])
    if scope == "output":
        return f"output_{node.op_type.lower()}"
    known = re.fullmatch(r"(stem|stage\d|decoder_stage\d|final|sigmoid|input)(_\w+)?", scope)
    return scope if known else str(node.op_type).lower()


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def float_output_in_memory(model: Any) -> Any:
    """Return a copy of a model with ``p`` among its outputs."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if all(output.name != FLOAT_OUTPUT_NAME for output in copy.graph.output):
        shape = [d.dim_param or d.dim_value for d in copy.graph.output[0].type.tensor_type.shape.dim]
        copy.graph.output.append(onnx.helper.make_tensor_value_info(FLOAT_OUTPUT_NAME, onnx.TensorProto.FLOAT, shape))
    return copy
