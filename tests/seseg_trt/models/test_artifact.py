"""Test reading the metadata of model files, and the errors for other files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from seseg_trt import CheckpointError, ModelError
from seseg_trt.models.artifact import load_artifact
from tests.conftest import DATA

FIXTURE_GRAPH = DATA / "fixture.onnx"


def save_graph(path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Path:
    node = helper.make_node("Identity", [inputs[0].name], [outputs[0].name])
    onnx.save(helper.make_model(helper.make_graph([node], "g", inputs, outputs)), path)
    return path


def value(name: str, kind: int, *dims: object) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def test_the_fixture_s_graph_tells_what_it_is() -> None:
    artifact = load_artifact(FIXTURE_GRAPH)
    assert artifact.kind == "onnx" and artifact.precision == "fp32" and artifact.input_size == 256
    assert artifact.sha256 == hashlib.sha256(FIXTURE_GRAPH.read_bytes()).hexdigest()
    assert artifact.metadata["resample"] == "nearest"
    assert "seresnet" in artifact.network and artifact.network in str(artifact)


def test_a_checkpoint_is_answered_with_the_command_that_makes_a_graph(keras224: Path) -> None:
    checkpoint = keras224 / "checkpoint.hdf5"
    with pytest.raises(ModelError, match="Keras checkpoint") as caught:
        load_artifact(checkpoint)
    assert f"python build_engine.py --checkpoint {checkpoint} --out" in caught.value.hint
    assert "make engine" in caught.value.hint and "checkout" in caught.value.hint
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no model file"), (b"", "is empty"), (b"not a graph at all", "not an ONNX graph|not a graph of this network")],
)
def test_what_is_no_graph_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        load_artifact(path)
    assert str(path) in caught.value.message and caught.value.hint


def test_a_folder_is_no_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        load_artifact(tmp_path)


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    data = FIXTURE_GRAPH.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        load_artifact(path)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([value("image", TensorProto.FLOAT, "N", 256, 256, 3)], [value("confidence", TensorProto.UINT8, "N", 256, 256)]),
        ([value("image", TensorProto.UINT8, "N", 256, 128, 3)], [value("confidence", TensorProto.UINT8, "N", 256, 256)]),
        ([value("image", TensorProto.UINT8, "N", 3, 256, 256)], [value("confidence", TensorProto.UINT8, "N", 256, 256)]),
        ([value("picture", TensorProto.UINT8, "N", 256, 256, 3)], [value("confidence", TensorProto.UINT8, "N", 256, 256)]),
        ([value("image", TensorProto.UINT8, "N", 256, 256, 3)], [value("mask", TensorProto.UINT8, "N", 256, 256)]),
        ([value("image", TensorProto.UINT8, "N", 256, 256, 3)], [value("confidence", TensorProto.FLOAT, "N", 256, 256)]),
    ],
)
def test_a_foreign_graph_is_refused_with_what_it_has(
    tmp_path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> None:
    path = save_graph(tmp_path / "m.onnx", inputs, outputs)
    with pytest.raises(ModelError, match="not a graph of this network") as caught:
        load_artifact(path)
    assert inputs[0].name in caught.value.message and "uint8" in caught.value.hint
