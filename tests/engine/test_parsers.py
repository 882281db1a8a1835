"""Test that TensorRT's parsers, which are stricter than the ONNX standard, accept the graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.rtx]


def parse(content: bytes) -> tuple[Any, list[str]]:
    """Parse a graph with TensorRT for RTX; return the objects to keep alive (the network first) and the errors."""
    import tensorrt_rtx_bindings as trt

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.messages.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        logger.messages += [parser.get_error(i).desc() for i in range(parser.num_errors)] or ["no reason given"]
    return (network, parser, builder, logger), logger.messages


def test_the_graph_is_accepted(exported: Any) -> None:
    (network, *_), errors = parse(exported.path.read_bytes())
    assert errors == []
    assert [network.get_input(i).name for i in range(network.num_inputs)] == ["image"]
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["confidence"]
    assert tuple(network.get_input(0).shape) == (-1, 256, 256, 3)
    assert tuple(network.get_output(0).shape) == (-1, 256, 256)


def test_the_graph_that_ships_is_accepted() -> None:
    import seseg_trt

    demo = Path(seseg_trt.__file__).parent / "data" / "demo.onnx"
    assert parse(demo.read_bytes())[1] == []


def test_the_form_that_the_converter_would_have_written_is_not(exported: Any) -> None:
    import onnx

    model = onnx.load(str(exported.path))
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Resize" else ():
            if attribute.name == "coordinate_transformation_mode":
                attribute.s = b"tf_half_pixel_for_nn"
    assert parse(model.SerializeToString())[1]
