"""Test real plans of TensorRT for RTX, which builds without a GPU, and TensorRT's options on a fake of its API."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seseg_trt.backends import tensorrt_api
from seseg_trt.backends.tensorrt_build import build_plan, cached_plan, expected_identity, plan_name
from seseg_trt.cuda import driver
from seseg_trt.cuda.driver import DriverReport
from seseg_trt.cuda.driver import Gpu as GpuInfo
from seseg_trt.errors import DeviceError, ModelError
from seseg_trt.models.artifact import load_artifact
from seseg_trt.models.plan_file import open_plan, read_identity
from seseg_trt.models.plan_identity import BuildOptions, PlanIdentity, check_identity

from ..fake_gpu import Gpu
from ..fake_tensorrt import FLAGS_TF32, make_tensorrt

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "seseg_trt" / "data" / "demo.onnx"
TWO_PROFILES = ((1, 1, 1), (2, 8, 16))


def write_graph(path: Path, *, size: int = 64, channels: int = 4, seed: int = 0) -> Path:
    """Write a two-layer network with this project's inputs and outputs."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.05).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["x0"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x0"], ["x1"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x1", "w1"], ["x2"], pads=[1] * 4),
        helper.make_node("Relu", ["x2"], ["x3"]),
        helper.make_node("Conv", ["x3", "w2"], ["x4"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["x4"], ["x5"]),
        helper.make_node("Squeeze", ["x5", "axis"], ["p"]),
        helper.make_node("Mul", ["p", "most"], ["x6"]),
        helper.make_node("Floor", ["x6"], ["x7"]),
        helper.make_node("Cast", ["x7"], ["confidence"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", size, size])],
        [
            weights("w1", channels, 3, 3, 3),
            weights("w2", 1, channels, 3, 3),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.float32(255), "most"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    save(model, str(path))
    return path


def to_fp16(source: Path, path: Path) -> Path:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, op_block_list=["Sigmoid", "Floor", "Mul"])
    return _save(model, path, "fp16")


def to_int8(source: Path, path: Path, size: int) -> Path:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self._batches = iter([{"image": rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)}] * 2)

        def get_next(self) -> Any:
            return next(self._batches, None)

    quantize_static(
        str(source),
        str(path),
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return _save(onnx.load(str(path)), path, "int8")


def _save(model: Any, path: Path, precision: str) -> Path:
    import onnx

    kept = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, "seseg.precision": precision})
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("graphs") / "small.onnx")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the demonstration network in three precisions."""
    folder = tmp_path_factory.mktemp("demo")
    size = load_artifact(DEMO).input_size
    return {
        "fp32": DEMO,
        "fp16": to_fp16(DEMO, folder / "demo.fp16.onnx"),
        "int8": to_int8(DEMO, folder / "demo.int8.onnx", size),
    }


@pytest.mark.rtx
@pytest.mark.ort
@pytest.mark.parametrize("targets", [("sm86", "sm89", "sm120"), ("sm80",)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_demonstration_network_builds(graphs: dict[str, Path], tmp_path: Path, precision: str, targets: tuple[str, ...]) -> None:
    out = tmp_path / "demo.plan"
    options = BuildOptions(runtime="rtx", targets=targets, profiles=TWO_PROFILES)
    identity = build_plan(graphs[precision], out, options)
    assert read_identity(out) == identity
    assert identity.precision == load_artifact(graphs[precision]).precision
    assert (identity.targets, identity.options, identity.max_batch) == (targets, options, 16)
    assert identity.version == tensorrt_api.load("rtx").__version__
    assert identity.graph_sha256 == load_artifact(graphs[precision]).sha256
    assert os.listdir(tmp_path) == ["demo.plan"]
    with open_plan(out) as (_, payload):
        assert payload.nbytes == identity.plan_bytes > 10_000
    check_identity(identity, out, sm=targets[0], version=identity.version)


@pytest.mark.rtx
@pytest.mark.ort
def test_the_precision_of_the_graph_is_that_of_the_plan(graphs: dict[str, Path], tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        options = BuildOptions(runtime="rtx", targets=("sm86",), profiles=((1, 1, 1),))
        sizes[precision] = build_plan(graphs[precision], tmp_path / f"{precision}.plan", options).plan_bytes
    weights = DEMO.stat().st_size
    # Both hold the same fixed part, and the weights' part is halved.
    assert 0.3 * weights < sizes["fp32"] - sizes["fp16"] < 0.7 * weights


@pytest.mark.rtx
def test_options_reach_the_builder(small: Path, tmp_path: Path) -> None:
    options = BuildOptions(
        runtime="rtx",
        targets=("sm89",),
        profiles=((4, 4, 4),),
        workspace=1 << 26,
        optimization_level=1,
        tiling_level="fast",
    )
    assert build_plan(small, tmp_path / "small.plan", options).options == options


@pytest.mark.rtx
def test_a_build_tells_how_far_it_is(small: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_plan(small, tmp_path / "small.plan", BuildOptions(runtime="rtx"), lambda *t: told.append(t))
    assert len(told) > 10 and all(0 <= done <= total for _, done, total in told)
    assert len({phase for phase, _, _ in told}) > 1


@pytest.mark.rtx
def test_what_is_built_already_is_not_built_again(small: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "small.plan", BuildOptions(runtime="rtx", targets=("sm86",))
    first = build_plan(small, out, options)
    stamp = out.stat().st_mtime_ns
    assert build_plan(small, out, options, lambda *_: pytest.fail("built again")) == first
    assert out.stat().st_mtime_ns == stamp
    other = build_plan(small, out, dataclasses.replace(options, targets=("sm89",)))
    assert read_identity(out) == other != first


@pytest.mark.rtx
def test_a_damaged_plan_is_built_anew(small: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "small.plan", BuildOptions(runtime="rtx", targets=("sm86",))
    first = build_plan(small, out, options)
    out.write_bytes(out.read_bytes()[:-1])
    assert build_plan(small, out, options).graph_sha256 == first.graph_sha256
    with open_plan(out):
        pass


@pytest.mark.rtx
def test_an_interrupted_build_leaves_nothing(small: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(small, tmp_path / "small.plan", BuildOptions(runtime="rtx"), stop)
    assert os.listdir(tmp_path) == []


@pytest.mark.rtx
def test_a_graph_that_the_parser_refuses_is_an_error_with_its_words(tmp_path: Path, small: Path) -> None:
    import onnx

    model = onnx.load(str(small))
    model.graph.node[3].op_type = "HardSwishOfTomorrow"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(ModelError, match=r"can't read .*odd.onnx:\n.*HardSwishOfTomorrow"):
        build_plan(tmp_path / "odd.onnx", tmp_path / "odd.plan", BuildOptions(runtime="rtx"))
    assert sorted(os.listdir(tmp_path)) == ["odd.onnx"]


@pytest.mark.rtx
def test_a_build_that_fails_is_an_error_with_tensorrts_words(tmp_path: Path, small: Path) -> None:
    import onnx

    # A strongly typed layer can't read two types: the parser accepts the graph, and the builder refuses it.
    model = onnx.load(str(small))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float16), "w1"))
    onnx.save(model, str(tmp_path / "mixed.onnx"))
    with pytest.raises((ModelError, DeviceError), match=r"mixed.onnx:\n  \S"):
        build_plan(tmp_path / "mixed.onnx", tmp_path / "mixed.plan", BuildOptions(runtime="rtx"))


@pytest.mark.rtx
def test_two_builders_at_once_one_builds_and_one_waits(small: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "small.plan", BuildOptions(runtime="rtx", targets=("sm86",))
    inside, go = threading.Event(), threading.Event()
    told: dict[str, list[str]] = {"first": [], "second": []}
    results: dict[str, PlanIdentity] = {}

    def hold(phase: str, done: int, total: int) -> None:
        told["first"].append(phase)
        inside.set()
        assert go.wait(60)

    def build(name: str, progress: Any) -> None:
        results[name] = build_plan(small, out, options, progress)

    def note(phase: str, done: int, total: int) -> None:
        told["second"].append(phase)
        go.set()

    first = threading.Thread(target=build, args=("first", hold))
    first.start()
    assert inside.wait(60)
    build("second", note)
    first.join(60)
    assert results["first"] == results["second"]
    assert told["second"] == ["waiting for another builder of the same plan"]
    assert len(told["first"]) > 10


BUILDER = """
import sys
from pathlib import Path
from seseg_trt.backends.tensorrt_build import build_plan
from seseg_trt.models.plan_identity import BuildOptions
options = BuildOptions(runtime="rtx", targets=("sm80", "sm86"), profiles=((1, 2, 4),))
def progress(phase, done, total):
    print(phase, flush=True)
build_plan(Path(sys.argv[1]), Path(sys.argv[2]), options, progress)
"""


def start_builder(graph: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(graph), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.rtx
def test_a_build_killed_at_any_moment_leaves_nothing_taken_for_a_plan(tmp_path: Path) -> None:
    graph, out = write_graph(tmp_path / "g.onnx", size=128, channels=16), tmp_path / "out" / "g.plan"
    chance = random.Random(7)
    for lines in (1, 5, 60, 80):
        with start_builder(graph, out) as builder:
            assert builder.stdout is not None
            for _ in range(lines):
                builder.stdout.readline()
            time.sleep(chance.random() * 0.05)
            builder.send_signal(signal.SIGKILL)
        if out.exists():
            with open_plan(out):
                out.unlink()
        else:
            with pytest.raises(ModelError, match="there is no plan"):
                read_identity(out)
    identity = build_plan(graph, out, BuildOptions(runtime="rtx", targets=("sm80", "sm86"), profiles=((1, 2, 4),)))
    assert identity.plan_bytes > 0 and os.listdir(out.parent) == ["g.plan"]


@pytest.mark.rtx
def test_two_processes_at_once_give_one_whole_plan(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.plan"
    builders = [start_builder(small, out) for _ in range(2)]
    said = [builder.communicate(timeout=120)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sum(len(lines) > 10 for lines in said) == 1, "both built"
    with open_plan(out):
        assert os.listdir(tmp_path) == ["small.plan"]


@pytest.mark.rtx
def test_a_folder_of_plans_builds_each_once(small: Path, tmp_path: Path) -> None:
    options = BuildOptions(runtime="rtx", targets=("sm86",))
    path, identity, built = cached_plan(small, tmp_path / "plans", options)
    assert built and read_identity(path) == identity
    assert cached_plan(small, tmp_path / "plans", options) == (path, identity, False)
    others = [
        cached_plan(small, tmp_path / "plans", dataclasses.replace(options, targets=("sm89",))),
        cached_plan(small, tmp_path / "plans", dataclasses.replace(options, profiles=((1, 1, 1),))),
        cached_plan(write_graph(tmp_path / "small.onnx", seed=1), tmp_path / "plans", options),
    ]
    assert all(built for _, _, built in others)
    assert len({path, *(p for p, _, _ in others)}) == 4 == len(os.listdir(tmp_path / "plans"))


@pytest.mark.rtx
def test_plans_have_names_that_say_what_they_are(small: Path) -> None:
    identity = expected_identity(small, BuildOptions(runtime="rtx", targets=("sm86", "sm89")))
    assert plan_name("model", identity) == "model.fp32.rtx.sm86-sm89.plan"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install fakes of TensorRT 11 and an H200."""
    fake = make_tensorrt(Gpu(), 64)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    report = DriverReport("580.82.07", (13, 0), (GpuInfo(0, "NVIDIA H200", (9, 0), 1 << 37),))
    monkeypatch.setattr(driver, "driver_report", lambda: report)
    tensorrt_api.logger.cache_clear()
    yield fake
    tensorrt_api.logger.cache_clear()


def test_tensorrt_builds_for_the_gpu_of_the_machine(tensorrt: Any, small: Path, tmp_path: Path) -> None:
    identity = build_plan(small, tmp_path / "small.plan", BuildOptions(profiles=TWO_PROFILES))
    assert (identity.targets, identity.gpu, identity.version) == (("sm90",), "NVIDIA H200", "11.4.0.106")
    (config,) = tensorrt.built
    assert FLAGS_TF32 not in config._flags
    assert [p._shapes for p in config._profiles] == [
        ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64, 3)),
        ((2, 64, 64, 3), (8, 64, 64, 3), (16, 64, 64, 3)),
    ]
    assert not hasattr(config, "num_compute_capabilities")
    assert config._limits == {} and config._timing_cache is None


def test_every_choice_reaches_tensorrt(tensorrt: Any, small: Path, tmp_path: Path) -> None:
    options = BuildOptions(
        workspace=1 << 30,
        optimization_level=5,
        tiling_level="moderate",
        hardware_compatibility="same_compute_capability",
        version_compatible=True,
    )
    build_plan(small, tmp_path / "small.plan", options)
    (config,) = tensorrt.built
    assert config._limits == {"workspace": 1 << 30}
    assert config._flags == {tensorrt.BuilderFlag.VERSION_COMPATIBLE}
    assert (config.builder_optimization_level, config.tiling_optimization_level) == (5, 2)
    assert config.hardware_compatibility_level == 2


def test_timings_are_kept_and_used_again(tensorrt: Any, small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timings = tmp_path / "cache" / "timings"
    options = BuildOptions(timing_cache=timings)
    for turn in (1, 2):
        build_plan(small, tmp_path / f"{turn}.plan", options)
        assert timings.read_bytes() == b"+" * turn
    timings.write_bytes(b"foreign GPU")
    build_plan(small, tmp_path / "3.plan", options)
    assert timings.read_bytes() == b"+"
    assert os.listdir(timings.parent) == ["timings"]
    with caplog.at_level(logging.WARNING):
        build_plan(small, tmp_path / "4.plan", BuildOptions(timing_cache=small / "timings"))
    assert "can't be kept" in caplog.text and (tmp_path / "4.plan").exists()


def test_tensorrts_own_words_are_in_the_error(tensorrt: Any, small: Path, tmp_path: Path) -> None:
    tensorrt.fail_with = "Error Code 10: Could not find any implementation for node Conv_7"
    with pytest.raises(DeviceError, match=r"built no plan from .*small.onnx:\n  Error Code 10.*Conv_7"):
        build_plan(small, tmp_path / "small.plan", BuildOptions())
    assert os.listdir(tmp_path) == []


def test_tensorrt_without_a_gpu_says_so(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(Gpu(), 64))
    monkeypatch.setattr(driver, "driver_report", lambda: DriverReport("580.82.07", (13, 0), ()))
    with pytest.raises(DeviceError, match="TensorRT builds on a GPU"):
        build_plan(small, tmp_path / "small.plan", BuildOptions())
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", None)
    with pytest.raises(DeviceError, match="TensorRT is not installed"):
        build_plan(small, tmp_path / "small.plan", BuildOptions())
