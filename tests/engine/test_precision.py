"""Test the precisions of the fixture's graph: their content, that runtimes accept them, and how their masks agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seseg_trt.errors import GateError, ModelError, UsageError
from tests.conftest import DATA

pytestmark = pytest.mark.engine

PRECISIONS = ("fp16", "int8", "int8-u8", "int8-fp16", "fp8")


@pytest.fixture(scope="module")
def fixture() -> Any:
    import onnx

    return onnx.load(str(DATA / "fixture.onnx"))


@pytest.fixture(scope="module")
def inputs() -> list[Any]:
    from engine.build_images import network_inputs, shipped_images

    return list(network_inputs(shipped_images()[:12], 256))


@pytest.fixture(scope="module")
def calibration(fixture: Any, inputs: list[Any]) -> Any:
    from engine.calibration import calibrate
    from engine.qdq import points_of

    return calibrate(fixture, list(dict.fromkeys(point.tensor for point in points_of(fixture))), iter(inputs))


@pytest.fixture(scope="module")
def graphs(fixture: Any, calibration: Any) -> dict[str, Any]:
    from engine.precision import to_fp8, to_fp16, to_int8

    return {
        "fp16": to_fp16(fixture),
        "int8": to_int8(fixture, calibration),
        "int8-u8": to_int8(fixture, calibration, activations="u8"),
        "int8-fp16": to_int8(fixture, calibration, rest="fp16"),
        "fp8": to_fp8(fixture, calibration),
    }


def _mean_error(backend: Any, fixture: Any, inputs: list[Any]) -> float:
    """Return the mean difference in p between a backend's maps and the FP32 graph's."""
    from engine.calibration import float_session

    exact = float_session(fixture, ["p"])
    return float(np.mean([np.abs(backend.infer(image[None])[0] / 255.0 - exact(image[None])[0][0]).mean() for image in inputs[:4]]))


def _metadata(model: Any) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_graph_is_whole_and_says_what_it_is(name: str, graphs: dict[str, Any], fixture: Any, tmp_path: Path) -> None:
    import onnx

    from seseg_trt.models.artifact import load_artifact

    onnx.checker.check_model(graphs[name], full_check=True)
    onnx.save(graphs[name], str(tmp_path / "model.onnx"))
    artifact = load_artifact(tmp_path / "model.onnx")
    assert artifact.precision == name.split("-")[0]
    assert artifact.metadata["checkpoint_sha256"] == _metadata(fixture)["seseg.checkpoint_sha256"]


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_end_of_the_graph_stays_in_fp32(name: str, graphs: dict[str, Any]) -> None:
    import onnx

    from engine.precision import end_of

    model = graphs[name]
    constants = {c.name: c.data_type for c in model.graph.initializer}
    end = end_of(model)
    assert [node.op_type for node in end] == ["Sigmoid", "Squeeze", "Mul", "Floor", "Cast"]
    assert constants[end[2].input[1]] == onnx.TensorProto.FLOAT
    producer = next(node for node in model.graph.node if end[0].input[0] in node.output)
    halved = onnx.TensorProto.FLOAT16 in constants.values()
    assert (producer.op_type == "Cast") == halved


def test_fp16_masks_are_those_of_fp32(graphs: dict[str, Any], fixture: Any, keras224: Path) -> None:
    """Compare on the fixture's own inputs in ONNX Runtime, which rounds each tensor as the graph says."""
    from engine.calibration import float_session

    images = np.load(keras224 / "reference.npz")
    exact, rounded = float_session(fixture, ["p"]), float_session(graphs["fp16"], ["p"])
    both = either = 0
    for name in images.files:
        image = images[name]
        if image.dtype != np.uint8 or image.shape[-3:] != (256, 256, 3):
            continue
        one, other = (run(image.reshape(1, 256, 256, 3))[0] > 0.5 for run in (exact, rounded))
        both, either = both + int((one & other).sum()), either + int((one | other).sum())
    assert either > 10_000
    assert both / either >= 0.999


@pytest.mark.parametrize("name", ["int8", "int8-u8"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_cpu_runtimes_take_int8(name: str, backend: Any, graphs: dict[str, Any], fixture: Any, inputs: list[Any], tmp_path: Path) -> None:
    import onnx

    from seseg_trt.backends.select import create_backend
    from seseg_trt.models.artifact import load_artifact

    onnx.save(graphs[name], str(tmp_path / "model.onnx"))
    ready = create_backend(load_artifact(tmp_path / "model.onnx"), backend=backend, device="cpu", threads=1)
    assert 0 < _mean_error(ready, fixture, inputs) < 0.05
    ready.close()


@pytest.mark.parametrize("name", PRECISIONS)
def test_signed_activations_run_in_fp32_where_openvino_would_shift_them(
    name: str, graphs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from seseg_trt.backends import openvino
    from seseg_trt.models.artifact import load_artifact

    onnx.save(graphs[name], str(tmp_path / "model.onnx"))
    artifact = load_artifact(tmp_path / "model.onnx")
    for features, in_fp32 in ((frozenset(), name == "int8"), (openvino.SIGNED_CONVOLUTIONS, False)):
        monkeypatch.setattr(openvino, "_cpu_features", lambda features=features: features)
        if name == "int8-fp16" and not features:
            with pytest.raises(ModelError, match="wrong masks"):
                openvino.OpenVINOBackend(artifact, threads=1)
            continue
        backend = openvino.OpenVINOBackend(artifact, threads=1)
        assert ("no signed 8-bit convolutions" in backend.description) == in_fp32
        backend.close()


@pytest.mark.parametrize("name", ["int8-fp16", "fp8"])
def test_what_gets_wrong_masks_from_a_runtime_is_refused_there(
    name: str, graphs: dict[str, Any], fixture: Any, inputs: list[Any], tmp_path: Path
) -> None:
    import onnx

    from seseg_trt.backends.select import create_backend
    from seseg_trt.models.artifact import load_artifact

    onnx.save(graphs[name], str(tmp_path / "model.onnx"))
    artifact = load_artifact(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="wrong masks") as refused:
        create_backend(artifact, backend="onnxruntime", device="cpu")
    assert "--backend openvino" in str(refused.value)
    try:
        ready = create_backend(artifact, backend="openvino", device="cpu", threads=1)
    except ModelError as error:
        assert name == "int8-fp16" and "no signed 8-bit convolutions" in str(error)
    else:
        assert _mean_error(ready, fixture, inputs) < 0.05
        ready.close()


def test_weights_have_a_step_a_channel_and_biases_none(graphs: dict[str, Any], fixture: Any) -> None:
    from onnx import numpy_helper

    from engine.qdq import points_of

    there = {c.name: numpy_helper.to_array(c) for c in graphs["int8"].graph.initializer}
    weights = {c.name: numpy_helper.to_array(c) for c in fixture.graph.initializer}
    for point in points_of(fixture):
        weight, stored, steps = weights[point.weight], there[f"{point.weight}.quantised"], there[f"{point.weight}.scale"]
        assert stored.dtype == np.int8 and steps.shape == (weight.shape[0],)
        assert not there[f"{point.weight}.zero"].any()
        error = np.abs(stored * steps[:, None, None, None] - weight)
        assert (error <= 0.5001 * steps[:, None, None, None]).all()
    assert there["stem_conv.bias"].dtype == np.float32
    assert next(o.version for o in graphs["int8"].opset_import) >= 19


def test_kept_layers_keep_their_weights_and_are_named(fixture: Any, calibration: Any) -> None:
    from engine.precision import to_int8

    model = to_int8(fixture, calibration, keep=["stem_conv"])
    assert any(c.name == "stem_conv.weight" for c in model.graph.initializer)
    assert json.loads(_metadata(model)["seseg.kept_layers"]) == ["stem_conv"]
    assert _metadata(model)["seseg.calibration_images"] == "12"


def test_the_calibration_s_hash_is_of_the_images_and_not_their_order(fixture: Any, inputs: list[Any]) -> None:
    from engine.calibration import calibrate

    names = ["stem_relu"]
    first = calibrate(fixture, names, inputs[:3])
    assert calibrate(fixture, names, inputs[2::-1]).sha256 == first.sha256
    assert calibrate(fixture, names, inputs[:2]).sha256 != first.sha256
    with pytest.raises(UsageError, match="no image to calibrate on"):
        calibrate(fixture, names, [])


def test_the_best_range_clips_a_tail_and_keeps_a_bulk() -> None:
    from engine.calibration import Seen, best_range

    bulk = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    with_tail = np.append(bulk, np.float32(40))
    assert best_range(Seen(float(bulk.min()), 40.0, with_tail), -127, 127) < 30
    even = np.linspace(-1, 1, 10_001, dtype=np.float32)
    assert best_range(Seen(-1.0, 1.0, even), -127, 127) > 0.95
    assert best_range(Seen(0.0, 0.0, np.zeros(5, np.float32)), -127, 127) == 1.0


def test_a_weight_that_fp16_can_t_hold_is_refused(fixture: Any) -> None:
    import onnx
    from onnx import numpy_helper

    from engine.precision import to_fp16

    model = onnx.ModelProto()
    model.CopyFrom(fixture)
    bias = next(c for c in model.graph.initializer if c.name == "stem_conv.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(bias), 1e5), "stem_conv.bias"))
    with pytest.raises(ModelError, match=r"stem_conv\.bias"):
        to_fp16(model)


class _Verdict:
    def __init__(self, good: bool) -> None:
        self.good = good

    def __str__(self) -> str:
        return "IoU 0.123"


def test_the_search_keeps_the_most_sensitive_layers_first(fixture: Any, calibration: Any, inputs: list[Any]) -> None:
    from engine.precision import Quantisation
    from engine.qdq import points_of
    from engine.sensitive import quantise_within_gate, sensitivity

    how = Quantisation("int8")
    kept: list[list[str]] = []

    def score(model: Any) -> _Verdict:
        kept.append(json.loads(_metadata(model)["seseg.kept_layers"]))
        return _Verdict(len(kept[-1]) >= 2)

    model, tries = quantise_within_gate(fixture, calibration, how, score, inputs[:1])
    order = sensitivity(fixture, calibration, how, inputs[:1])
    assert kept == [[], order[:1], sorted(order[:2])]
    assert [list(t.kept) for t in tries] == kept
    assert json.loads(_metadata(model)["seseg.kept_layers"]) == sorted(order[:2])
    assert sorted(order) == sorted(point.name for point in points_of(fixture))


def test_a_gate_that_can_t_be_met_fails_with_numbers_and_layers(
    fixture: Any, calibration: Any, inputs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import sensitive
    from engine.precision import Quantisation
    from engine.qdq import points_of

    names = [point.name for point in points_of(fixture)]
    monkeypatch.setattr(sensitive, "sensitivity", lambda *_: names)
    with pytest.raises(GateError, match=r"0 layers kept: IoU 0\.123(.|\n)*kept last: .*stem_conv"):
        sensitive.quantise_within_gate(fixture, calibration, Quantisation("int8"), lambda _: _Verdict(False), inputs[:1])


@pytest.mark.rtx
@pytest.mark.parametrize("name", [n for n in PRECISIONS if n != "int8-u8"])
def test_tensorrt_for_rtx_builds_every_precision(name: str, graphs: dict[str, Any], tmp_path: Path) -> None:
    import onnx

    from seseg_trt.backends.tensorrt_build import build_plan
    from seseg_trt.models.plan_identity import BuildOptions

    onnx.save(graphs[name], str(tmp_path / "model.onnx"))
    target = "sm89"  # the oldest with FP8
    identity = build_plan(tmp_path / "model.onnx", tmp_path / "model.plan", BuildOptions("rtx", (target,), ((1, 2, 4),)))
    assert identity.plan_bytes > 0 and identity.precision == name.split("-")[0]
