"""Networks small enough for a test, in real graphs and in plain functions; and sets of images for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seseg_trt.quality.verify import Subject

SIDE = 32


def write_graph(path: Path, weights: Sequence[float] = (0.25, 0.0, 0.0), bias: float = -31.875, *, quantised: bool = False) -> Path:
    """Write an ONNX graph of one layer: p = sigmoid(weights . RGB + bias) for each pixel. By default it marks where red is over 127.5."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Mul", ["p", "full"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["floor"]),
        helper.make_node("Cast", ["floor"], ["confidence"], to=TensorProto.UINT8),
    ]
    initializers = [
        helper.make_tensor("weights", TensorProto.FLOAT, [3], list(weights)),
        helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
        helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
    ]
    if quantised:
        nodes[1:1] = [
            helper.make_node("QuantizeLinear", ["pixels", "one", "zero"], ["quantised"]),
            helper.make_node("DequantizeLinear", ["quantised", "one", "zero"], ["restored"]),
        ]
        nodes[3].input[0] = "restored"
        initializers += [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", SIDE, SIDE])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def alter_one_weight(path: Path) -> None:
    """Change one number of a graph, as little as a float can change."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    weights = next(i for i in model.graph.initializer if i.name == "weights")
    values = numpy_helper.to_array(weights).copy()
    values[1] = np.nextafter(values[1], np.float32(1))
    weights.CopyFrom(numpy_helper.from_array(values, "weights"))
    onnx.save(model, path)


def subject(marks: object, name: str = "network", *, floats: bool = True, side: int = SIDE) -> Subject:
    """Return a subject whose p is what ``marks`` (a function of uint8 [N, S, S, 3]) gives."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        p = np.asarray(marks(images), np.float32)  # type: ignore[operator]
        maps = np.floor(np.nan_to_num(p) * 255).astype(np.uint8)
        return maps, p if floats else None

    return Subject(name, f"sha of {name}", side, f"{name} in NumPy", run)


def red(images: np.ndarray) -> np.ndarray:
    """p = red / 255."""
    return images[..., 0].astype(np.float32) / 255


def save_blob(path: Path, seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Save a PNG that is red (255, not 0) in one rectangle, and return where, bool [H, W]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top = rng.integers(0, width // 2 + 1), rng.integers(0, height // 2 + 1)
    marks = np.zeros((height, width), bool)
    marks[top : top + (height + 1) // 2, left : left + (width + 1) // 2] = True
    image[..., 0] = marks * 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return marks
