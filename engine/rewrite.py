"""Rewrite the graph exactly: the same function with fewer multiplications or simpler nodes. Each rewrite returns a changed copy.

Exact means that in real numbers the result is the same; in FP32 it differs by rounding alone (|dp| of at most 1e-5). The recipe chooses
the rewrites; docs/precision.md has the measurements for each backend.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from seseg_trt.errors import UsageError

PRODUCTS = ("Conv", "ConvTranspose")
LEAST_SIDE = 16
"""Pixels. On maps of 8 x 8 the rewrite saved no time in OpenVINO (median) and caused most of the rounding: docs/precision.md."""


def rewrite(model: Any, names: tuple[str, ...] | list[str]) -> Any:
    """Return a copy of a model with rewrites applied.

    Args:
        model: an ``onnx.ModelProto``.
        names: names in :data:`REWRITES`, applied in this order; without any the model itself is returned.

    Raises:
        UsageError: there is no rewrite of a name.
    """
    for name in names:
        if name not in REWRITES:
            raise UsageError(f"there is no rewrite {name!r}", f"choose from {', '.join(REWRITES)}")
    for name in names:
        model = REWRITES[name](model)
    return model


def fold_pads(model: Any) -> Any:
    """Fold zero padding into the convolutions that follow it, by onnxscript's ``fuse_pad_into_conv`` rule."""
    import onnx_ir
    from onnxscript.rewriter import rewrite as apply_rules
    from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule, normalize_pad_format_conv_rule

    held = onnx_ir.serde.deserialize_model(model)
    apply_rules(held, pattern_rewrite_rules=[normalize_pad_format_conv_rule, fuse_pad_into_conv_rule])
    return onnx_ir.serde.serialize_model(held)


def convolve_before_upsampling(model: Any, least_side: int = LEAST_SIDE) -> Any:
    """Replace each 3x3 convolution after a nearest x2 upsampling with a transposed 4x4 convolution of stride 2 before it.

    In an upsampled map, rows 2i and 2i + 1 are copies of low-resolution row i, so two of the three taps of the kernel always meet the
    same pixel and can be added in advance: each output then takes 2 x 2 products in place of 3 x 3. If the upsampled tensor is first
    concatenated with a skip connection, the kernel is split between the two and the results are added. Source of the idea: Aitken et
    al., "Checkerboard artifact free sub-pixel convolution", https://arxiv.org/abs/1707.02937.

    Args:
        model: an ``onnx.ModelProto``; it is not changed.
        least_side: maps whose height before the upsampling is less than this, in pixels, are not rewritten.
    """
    shapes = tensor_shapes(model)
    copy = _copy(model)
    graph = copy.graph
    uses = Counter(name for node in graph.node for name in node.input)
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[Any] = []
    gone: set[str] = set()
    for node in graph.node:
        made = _split(copy, node, producers, uses, shapes, least_side) if _is_plain_3x3(copy, node) else None
        if made is None:
            nodes.append(node)
            continue
        fresh, replaced = made
        nodes += fresh
        gone |= replaced
    kept = [node for node in nodes if node.name not in gone]
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)
    return copy


REWRITES: dict[str, Callable[[Any], Any]] = {
    "fold-pads": fold_pads,
    "convolve-before-upsampling": convolve_before_upsampling,
    "convolve-all-before-upsampling": functools.partial(convolve_before_upsampling, least_side=1),
}
"""The rewrites that a recipe can name."""


def _split(
    model: Any, conv: Any, producers: dict[str, Any], uses: Counter[str], shapes: dict[str, tuple[int, ...]], least_side: int
) -> tuple[list[Any], set[str]] | None:
    """Return the nodes that replace a convolution, and the names of the nodes that become unused; None if it can't be rewritten."""
    from onnx import helper, numpy_helper

    source = producers.get(conv.input[0])
    concat = source if source is not None and source.op_type == "Concat" and uses[source.output[0]] == 1 else None
    parts = list(concat.input) if concat is not None else [conv.input[0]]
    upsampled = [i for i, part in enumerate(parts) if _is_double_nearest(model, producers.get(part)) and uses[part] == 1]
    if len(upsampled) != 1 or len(parts) > 2 or (concat is not None and _attribute(concat, "axis") != 1):
        return None
    resize = producers[parts[upsampled[0]]]
    if least_side > 1 and shapes.get(resize.input[0], (0, 0, 0))[2] < least_side:
        return None
    kernel = _constant(model, conv.input[1])
    skip = parts[1 - upsampled[0]] if len(parts) == 2 else None
    width = kernel.shape[1] if skip is None else _upsampled_channels(shapes, parts, upsampled[0], kernel.shape[1])
    if width is None:
        return None
    first = slice(0, width) if upsampled[0] == 0 else slice(kernel.shape[1] - width, kernel.shape[1])
    rest = slice(width, None) if upsampled[0] == 0 else slice(0, kernel.shape[1] - width)
    name, bias = conv.name, list(conv.input[2:3])
    weight = f"{name}_low.weight"
    model.graph.initializer.append(numpy_helper.from_array(_transposed_kernel(kernel[:, first]), weight))
    low = conv.output[0] if skip is None else f"{name}_low"
    attributes = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    inputs = [resize.input[0], weight, *bias]
    nodes = [helper.make_node("ConvTranspose", inputs, [low], name=f"{name}_low", **attributes)]
    if skip is not None:
        weight = f"{name}_skip.weight"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel[:, rest]), weight))
        nodes += [
            helper.make_node("Conv", [skip, weight], [f"{name}_skip"], name=f"{name}_skip", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Add", [low, f"{name}_skip"], [conv.output[0]], name=f"{name}_sum"),
        ]
    return nodes, {resize.name} | ({concat.name} if concat is not None else set())


def _transposed_kernel(kernel: Any) -> Any:
    """Turn a kernel [out, in, 3, 3] into the kernel [in, out, 4, 4] of a transposed convolution of stride 2 and padding 1.

    Output row 2i takes input rows i - 1 and i by taps 3 and 1; row 2i + 1 takes rows i and i + 1 by taps 2 and 0. Sums are in float64.
    """
    sums = np.zeros((4, 3))
    sums[3, 0] = 1
    sums[1, 1:] = 1
    sums[2, :2] = 1
    sums[0, 2] = 1
    return np.einsum("yk,oikl,xl->ioyx", sums, kernel.astype(np.float64), sums).astype(np.float32)


def _is_plain_3x3(model: Any, node: Any) -> bool:
    if node.op_type != "Conv" or not any(c.name == node.input[1] for c in model.graph.initializer):
        return False
    wanted = (("strides", [1, 1]), ("pads", [1, 1, 1, 1]), ("dilations", [1, 1]), ("group", 1))
    defaults = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    plain = all((_attribute(node, name) or defaults[name]) == value for name, value in wanted)
    return plain and _constant(model, node.input[1]).shape[2:] == (3, 3) and _attribute(node, "auto_pad") in (None, b"NOTSET")


def _is_double_nearest(model: Any, node: Any) -> bool:
    if node is None or node.op_type != "Resize" or len(node.input) != 3:
        return False
    how = [_attribute(node, name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode")]
    return how == [b"nearest", b"asymmetric", b"floor"] and _constant(model, node.input[2]).tolist() == [1, 1, 2, 2]


def _upsampled_channels(shapes: dict[str, tuple[int, ...]], parts: list[str], index: int, channels: int) -> int | None:
    """Return how many channels of a concatenated tensor are the upsampled one's; None if shape inference can't tell."""
    known = [shapes.get(part, (0, 0))[1] for part in parts]
    if known[index]:
        return known[index]
    return channels - known[1 - index] if known[1 - index] else None


def count_macs(model: Any) -> int:
    """Count the multiply-accumulate operations (MACs) of all convolutions of a graph for one image.

    Args:
        model: an ``onnx.ModelProto``; its weights may be quantised.

    Raises:
        ValueError: a shape can't be inferred.
    """
    shapes = tensor_shapes(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    macs = 0
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        name = node.input[1]
        while name in producers:  # a quantised weight passes through a DequantizeLinear
            name = producers[name].input[0]
        moving = shapes.get(node.output[0] if node.op_type == "Conv" else node.input[0], ())
        if not moving or 0 in moving[1:]:
            raise ValueError(f"the shape at {node.name} is not known")
        macs += math.prod(moving[1:]) * math.prod(shapes[name][1:])
    return macs


def tensor_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Infer the shapes of a graph's tensors for a batch of one; an unknown dimension is 0."""
    import onnx

    copy = _copy(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del copy.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(copy).graph
    shapes = {c.name: tuple(c.dims) for c in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes


def _copy(model: Any) -> Any:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _constant(model: Any, name: str) -> Any:
    import onnx

    return onnx.numpy_helper.to_array(next(c for c in model.graph.initializer if c.name == name))


def _attribute(node: Any, name: str) -> Any:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return None


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [c for c in graph.initializer if c.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
