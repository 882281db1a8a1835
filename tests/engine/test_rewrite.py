"""Test that rewrites give the same results with fewer multiplications."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seseg_trt.errors import UsageError
from tests.conftest import DATA

pytestmark = pytest.mark.engine

FIXTURE = DATA / "fixture.onnx"


@pytest.fixture(scope="module")
def fixture() -> Any:
    import onnx

    return onnx.load(str(FIXTURE))


@pytest.fixture(scope="module")
def inputs() -> list[Any]:
    from engine.build_images import network_inputs, shipped_images

    return list(network_inputs([e for e in shipped_images() if not e.name.startswith("scene")], 256))


def _largest_difference(one: Any, other: Any, inputs: list[Any]) -> float:
    from engine.calibration import float_session

    first, second = float_session(one, ["p"]), float_session(other, ["p"])
    return max(float(np.abs(first(image[None])[0] - second(image[None])[0]).max()) for image in inputs)


@pytest.mark.parametrize(("name", "left"), [("convolve-before-upsampling", 1), ("convolve-all-before-upsampling", 0)])
def test_convolving_before_upsampling_is_exact_and_saves_its_share(name: str, left: int, fixture: Any, inputs: list[Any]) -> None:
    import onnx

    from engine.rewrite import count_macs, rewrite

    rewritten = rewrite(fixture, [name])
    onnx.checker.check_model(rewritten, full_check=True)
    operators = [node.op_type for node in rewritten.graph.node]
    assert operators.count("ConvTranspose") == 5 - left and operators.count("Resize") == operators.count("Concat") == left
    assert _largest_difference(fixture, rewritten, inputs) <= 1e-5
    # 3 x 3 products become 2 x 2 for the upsampled tensor: (input channels, output channels, side of the output)
    upsampled = [(256, 16, 16), (16, 14, 32), (14, 12, 64), (12, 10, 128), (10, 8, 256)]
    saved = sum(5 * into * out * side * side for into, out, side in upsampled[left:])
    assert count_macs(fixture) - count_macs(rewritten) == saved


def test_the_model_given_is_left_as_it_is(fixture: Any) -> None:
    from engine.rewrite import REWRITES, rewrite

    before = fixture.SerializeToString(deterministic=True)
    rewrite(fixture, list(REWRITES))
    assert fixture.SerializeToString(deterministic=True) == before


def test_a_convolution_of_another_kind_is_left_alone() -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from engine.rewrite import convolve_before_upsampling

    weight = numpy_helper.from_array(np.ones((1, 2, 3, 3), np.float32), "w")
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    for pads, mode in (([0, 0, 0, 0], "floor"), ([1, 1, 1, 1], "ceil")):
        nodes = [
            helper.make_node(
                "Resize", ["x", "", "scales"], ["up"], "up", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode=mode
            ),
            helper.make_node("Conv", ["up", "w"], ["y"], "conv", kernel_shape=[3, 3], pads=pads),
        ]
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, None, None]) for name, channels in (("x", 2), ("y", 1))
        ]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight, scales])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        onnx.checker.check_model(model)
        assert [n.op_type for n in convolve_before_upsampling(model, 1).graph.node] == ["Resize", "Conv"]


def test_pads_go_into_the_convolution() -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from engine.rewrite import fold_pads

    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64), "pads"),
    ]
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], "pad"),
        helper.make_node("Conv", ["padded", "w"], ["y"], "conv", kernel_shape=[3, 3]),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 10, 8]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], constants), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    folded = fold_pads(model)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    x = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (model, folded)
    )
    np.testing.assert_array_equal(before, after)


def test_the_macs_of_the_full_network_are_the_published_ones() -> None:
    """Count from the description, since making the graph of 73.9 million weights takes minutes."""
    from engine.network import PRESETS, fold_layers, plan_layers

    sizes: dict[str, int] = {}
    macs = 0
    for layer in fold_layers(plan_layers(PRESETS["seresnet152"])).values():
        side = sizes[layer.inputs[0]] if layer.inputs else 256
        if layer.kind == "ZeroPadding2D":
            side += 2 * layer.padding
        elif layer.kind in ("Conv2D", "MaxPooling2D"):
            side = -(-side // layer.stride) if layer.same else (side - layer.kernel) // layer.stride + 1
        elif layer.kind == "UpSampling2D":
            side *= 2
        elif layer.kind == "Squeeze":
            side = 1
        elif layer.kind == "Multiply":
            side = max(sizes[i] for i in layer.inputs)
        sizes[layer.name] = side
        if layer.kind == "Conv2D":
            macs += side * side * layer.channels * layer.in_channels * layer.kernel**2
    assert macs == 20_034_379_776


def test_an_unknown_rewrite_is_refused(fixture: Any) -> None:
    from engine.rewrite import rewrite

    with pytest.raises(UsageError, match="no rewrite 'faster'"):
        rewrite(fixture, ["faster"])
