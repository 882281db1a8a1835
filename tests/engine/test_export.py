"""Test that an exported graph is Keras's network in few simple nodes, and that it is not written if it differs."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.compare import MIN_IOU, MIN_SHARE, procedural_images
from seseg_trt.errors import ModelError
from seseg_trt.models.artifact import KEYS, load_artifact

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def graph(exported: Any) -> Any:
    import onnx

    model = onnx.load(str(exported.path))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: Any, images: Any, outputs: list[str]) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(outputs, {"image": images}))


class TestTheGraph:
    def test_its_signature(self, graph: Any) -> None:
        def describe(value: Any) -> tuple[str, int, list[Any]]:
            kind = value.type.tensor_type
            return value.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]

        assert [describe(v) for v in graph.graph.input] == [("image", 2, ["N", 256, 256, 3])]
        assert [describe(v) for v in graph.graph.output] == [("confidence", 2, ["N", 256, 256])]
        assert [describe(v) for v in graph.graph.value_info] == [("p", 1, ["N", 256, 256])]
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]

    def test_its_nodes_are_the_network_and_no_more(self, graph: Any) -> None:
        counts = Counter(node.op_type for node in graph.graph.node)
        assert counts == {
            "Conv": 46,
            "Relu": 35,
            "Sigmoid": 7,
            "Mul": 7,  # six SE gates, and the product with 255
            "GlobalAveragePool": 6,
            "Add": 6,
            "Resize": 5,
            "Concat": 4,
            "Cast": 2,
            "MaxPool": 1,
            "Transpose": 1,  # of the input; no others
            "Squeeze": 1,
            "Floor": 1,
        }

    def test_upsampling_is_in_the_form_that_tensorrt_takes(self, graph: Any) -> None:
        for node in graph.graph.node:
            if node.op_type == "Resize":
                attributes = {a.name: a.s for a in node.attribute if a.type == 3}
                assert attributes["mode"] == b"nearest"
                assert attributes["coordinate_transformation_mode"] == b"asymmetric"
                assert attributes["nearest_mode"] == b"floor"

    def test_the_confidence_is_floored_before_it_is_cast(self, graph: Any) -> None:
        producer = {output: node for node in graph.graph.node for output in node.output}
        chain, name = [], "confidence"
        while name != "p":
            chain.append(producer[name].op_type)
            name = producer[name].input[0]
        assert chain == ["Cast", "Floor", "Mul"]

    def test_names_are_those_of_the_layers(self, graph: Any) -> None:
        from engine.network import PRESETS, fold_layers, plan_layers

        layers = fold_layers(plan_layers(PRESETS["seresnet20"]))
        named = {node.name: node.op_type for node in graph.graph.node}
        assert len(named) == len(graph.graph.node)
        assert {n for n, op in named.items() if op == "Conv"} == {n for n, v in layers.items() if v.kind == "Conv2D"}
        assert {n for n, op in named.items() if op == "Relu"} <= {n for n, v in layers.items() if v.kind == "Activation"}

    def test_its_metadata(self, exported: Any, graph: Any) -> None:
        metadata = {p.key: p.value for p in graph.metadata_props}
        assert set(metadata) == set(KEYS)
        assert set(json.loads(metadata["seseg.versions"])) == {"tensorflow", "keras", "tf2onnx", "onnx", "opset"}
        artifact = load_artifact(exported.path)
        assert (artifact.network, artifact.input_size, artifact.precision) == ("u-seresnet20", 256, "fp32")
        assert artifact.metadata["checkpoint_sha256"] == "0" * 64
        assert artifact.metadata["resample"] == "nearest"
        assert not artifact.has_float_output


class TestItsNumbers:
    def test_against_the_original_stack(self, graph: Any, keras224: Path) -> None:
        from engine.graph import float_output_in_memory

        with np.load(keras224 / "reference.npz") as reference:
            names = [name.removesuffix("__pred") for name in reference if name.endswith("__pred")]
            images = np.stack([reference[f"{name}__input256"] for name in names])
            expected = np.stack([reference[f"{name}__pred"] for name in names])
        p, confidence = run(float_output_in_memory(graph), images, ["p", "confidence"])
        assert p.shape == confidence.shape == (8, 256, 256)
        difference = np.abs(p - expected)
        assert difference.max() < 3e-5  # measured: 5.4e-6
        assert (difference <= 1e-3).mean() >= 0.999
        original = (expected * 255).astype(np.uint8)
        assert (np.abs(confidence.astype(int) - original) <= 1).mean() >= 0.999
        ours, theirs = confidence > 127.5, original > 127.5
        assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.9999

    def test_p_is_what_the_map_is_made_of(self, graph: Any) -> None:
        from engine.graph import float_output_in_memory

        p, confidence = run(float_output_in_memory(graph), procedural_images(256), ["p", "confidence"])
        assert np.array_equal(confidence, (p * np.float32(255)).astype(np.uint8))

    def test_a_batch_gives_what_its_images_give(self, graph: Any) -> None:
        images = procedural_images(256)[:3]
        together = run(graph, images, ["confidence"])[0]
        apart = np.concatenate([run(graph, image[None], ["confidence"])[0] for image in images])
        assert np.abs(together.astype(int) - apart).max() <= 1

    def test_openvino_agrees(self, exported: Any, graph: Any) -> None:
        import openvino

        images = procedural_images(256)
        compiled = openvino.Core().compile_model(str(exported.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        theirs = compiled(images)["confidence"]
        ours = run(graph, images, ["confidence"])[0]
        assert np.abs(theirs.astype(int) - ours).max() <= 1


class TestOneCheckpointOneGraph:
    def test_all_three_fixture_checkpoints_give_the_same_bytes(self, keras224: Path, exported: Any, tmp_path: Path) -> None:
        from engine.checkpoint import load_checkpoint
        from engine.export import export_onnx

        for name in ("checkpoint_tversion.hdf5", "weights.h5"):  # `exported` is from checkpoint.hdf5
            model, _ = load_checkpoint(keras224 / name)
            path = export_onnx(model, tmp_path / f"{name}.onnx", checkpoint_sha256="0" * 64).path
            assert path.read_bytes() == exported.path.read_bytes(), name

    def test_float_output_adds_an_output_and_nothing_else(self, keras_model: Any, graph: Any) -> None:
        from engine.export import make_graph

        wide = make_graph(keras_model, float_output=True)
        assert [o.name for o in wide.graph.output] == ["confidence", "p"]
        assert list(wide.graph.node) == list(graph.graph.node)
        assert list(wide.graph.initializer) == list(graph.graph.initializer)


class TestRefusals:
    @pytest.fixture
    def refused(self, keras_model: Any, tmp_path: Path) -> Any:
        """Return a function that exports to a path, checks that nothing is written, and returns the error."""
        from engine.export import export_onnx

        def export() -> ModelError:
            path, images = tmp_path / "out" / "model.onnx", procedural_images(256)[:2]
            with pytest.raises(ModelError) as caught:
                export_onnx(keras_model, path, checkpoint_sha256="0" * 64, check_images=images)
            assert not list(tmp_path.rglob("*.onnx*"))
            return caught.value

        return export

    @pytest.fixture
    def change(self, graph: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function that makes the converter return a faulty graph."""
        import onnx

        from engine import export

        def install(edit: Any) -> None:
            def changed(*_: Any, **__: Any) -> Any:
                model = onnx.ModelProto()
                model.CopyFrom(graph)
                edit(model.graph)
                return model

            monkeypatch.setattr(export, "make_graph", changed)

        return install

    def test_one_weight_that_differs(self, refused: Any, change: Any) -> None:
        import onnx

        def edit(graph: Any) -> None:
            bias = next(c for c in graph.initializer if c.name == "final_conv.bias")
            bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.05), bias.name))

        change(edit)
        error = refused()
        assert "disagrees with Keras (max |dp| 0.01" in error.message
        assert f"{MIN_SHARE:.1%}" in error.hint
        assert str(MIN_IOU) in error.hint

    def test_another_upsampling(self, refused: Any, change: Any) -> None:
        def edit(graph: Any) -> None:
            resize = next(node for node in graph.node if node.op_type == "Resize")
            next(a for a in resize.attribute if a.name == "nearest_mode").s = b"ceil"

        change(edit)
        assert "disagrees with Keras" in refused().message

    def test_a_map_that_is_not_p_truncated(self, refused: Any, change: Any) -> None:
        def edit(graph: Any) -> None:
            next(node for node in graph.node if node.op_type == "Floor").op_type = "Ceil"

        change(edit)
        assert "not its float output times 255, truncated" in refused().message

    def test_values_that_are_no_confidence(self, refused: Any, change: Any) -> None:
        def edit(graph: Any) -> None:
            next(node for node in graph.node if node.name == "sigmoid").op_type = "Identity"

        change(edit)
        assert "the graph gives values that are not confidences" in refused().message

    def test_a_folder_that_can_not_be_made(self, tmp_path: Path) -> None:
        from engine import export

        (tmp_path / "out").write_text("a file")
        with pytest.raises(ModelError, match="can't be written"):
            export._write(tmp_path / "out" / "model.onnx", b"x")

    def test_a_disk_that_fills_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from engine import export

        (tmp_path / "model.onnx").write_bytes(b"the one before")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ModelError, match="No space left"):
            export._write(tmp_path / "model.onnx", b"x" * 100)
        assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
        assert (tmp_path / "model.onnx").read_bytes() == b"the one before"


def test_the_images_of_the_comparison_are_the_same_in_every_run() -> None:
    images = procedural_images(64)
    assert images.shape == (6, 64, 64, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, procedural_images(64))
    assert len({image.tobytes() for image in images}) == 6
