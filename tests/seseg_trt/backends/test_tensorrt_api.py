"""Check that every name of TensorRT, pycuda and cuda-bindings that the code uses exists in every supported release.

The names used are read from the source. The releases' names were recorded by ``tests/record_tensorrt_api.py``.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import types
from pathlib import Path
from typing import Any, get_args

import pytest

import seseg_trt
from seseg_trt.backends import tensorrt_api
from seseg_trt.backends.tensorrt_api import FLAVOURS, load, logger, progress_monitor
from seseg_trt.errors import DeviceError
from seseg_trt.models.plan_identity import HardwareCompatibility, TilingLevel

from ... import conftest
from ..fake_gpu import Gpu, make_bindings, make_pycuda
from ..fake_tensorrt import make_tensorrt

RECORDED = conftest.DATA / "tensorrt_api"
PACKAGE = Path(seseg_trt.__file__).parent
SOURCES = sorted((PACKAGE / "backends").glob("tensorrt*.py"))

CLASS_OF = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "runtime_config": "IRuntimeConfig",
    "parser": "OnnxParser",
    "fault": "ParserError",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
}
"""The TensorRT class of each variable or attribute name in the sources."""

RTX_ALONE = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("module", "ComputeCapability"),
    ("module", "CudaGraphStrategy"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
    ("IRuntimeConfig", "cuda_graph_strategy"),
    ("Runtime", "get_engine_validity"),
    ("module", "EngineInvalidityDiagnostics"),
}
"""Names used only after a check of the runtime or of the attribute."""


def recorded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return content


def has(api: dict[str, Any], owner: str, name: str) -> bool:
    return name in (api["module"] if owner == "module" else api["classes"].get(owner, ()))


def used_names() -> set[tuple[str, str]]:
    """Return (class, attribute) of every use of TensorRT in the sources, with "module" for the module itself."""
    used = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
                continue
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
            if name in CLASS_OF:
                used.add((CLASS_OF[name], node.attr))
            elif isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name) and base.value.id == "trt":
                used.add((base.attr, node.attr))
    return used


USED = used_names()
RELEASES = ["tensorrt-10.13.3.9", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106"]


def test_the_sources_are_read() -> None:
    assert {s.name for s in SOURCES} >= {"tensorrt.py", "tensorrt_api.py", "tensorrt_build.py", "tensorrt_stream.py"}
    for expected in [
        ("IExecutionContext", "execute_async_v3"),
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "TF32"),
        ("module", "ILogger"),
        ("Runtime", "deserialize_cuda_engine"),
        ("IOptimizationProfile", "set_shape"),
    ]:
        assert expected in USED


@pytest.mark.parametrize("release", RELEASES)
def test_tensorrt_has_every_name(release: str) -> None:
    api = recorded(release)
    missing = {u for u in USED - RTX_ALONE if not has(api, *u)}
    assert not missing


def test_tensorrt_for_rtx_has_every_name() -> None:
    api = recorded("tensorrt_rtx-1.7.1.116")
    assert not {u for u in USED if not has(api, *u)}


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_kept_for_rtx_is_really_missing_elsewhere(release: str) -> None:
    api = recorded(release)
    assert not {u for u in RTX_ALONE if has(api, *u)}


@pytest.mark.parametrize("target", ["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"])
def test_rtx_has_every_target(target: str) -> None:
    assert target in recorded("tensorrt_rtx-1.7.1.116")["classes"]["ComputeCapability"]


@pytest.mark.parametrize("release", [*RELEASES, "tensorrt_rtx-1.7.1.116"])
def test_every_level_of_the_build_options_has_its_name(release: str) -> None:
    classes = recorded(release)["classes"]
    for owner, levels in (("TilingOptimizationLevel", TilingLevel), ("HardwareCompatibilityLevel", HardwareCompatibility)):
        assert {level.upper() for level in get_args(levels)} <= set(classes[owner])


def test_what_tensorrt_11_took_away_is_not_used() -> None:
    gone = {("BuilderFlag", n) for n in ("FP16", "BF16", "INT8", "FP8")} | {
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        ("ICudaEngine", "device_memory_size"),
    }
    assert not gone & USED
    assert not {g for g in gone if has(recorded("tensorrt-11.4.0.106"), *g)}


@pytest.mark.rtx
def test_the_record_is_of_the_installed_rtx() -> None:
    trt = load("rtx")
    api = recorded("tensorrt_rtx-1.7.1.116")
    if trt.__version__ != api["version"]:
        assert not {u for u in USED if not _live(trt, *u)}
    else:
        assert api["module"] == sorted(n for n in dir(trt) if not n.startswith("_"))


def _live(trt: Any, owner: str, name: str) -> bool:
    return hasattr(trt if owner == "module" else getattr(trt, owner), name)


def test_the_fake_has_no_name_that_tensorrt_lacks() -> None:
    fake, api = make_tensorrt(Gpu(), 8), recorded("tensorrt-11.4.0.106")
    names = {n: v for n, v in vars(fake).items() if isinstance(v, type) and not n.startswith("_")}
    assert len(names) > 10
    for name, value in names.items():
        assert name in api["module"]
        assert not {n for n in vars(value) if not n.startswith("_")} - set(api["classes"][name])


def names_called(pattern: str, sources: list[Path]) -> set[str]:
    """Return the attributes read from expressions that end in ``pattern``, and the names passed to ``Device.call``."""
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(pattern):
                found.add(node.attr)
            elif pattern == "bindings" and isinstance(node, ast.Constant) and re.fullmatch(r"cu[A-Z]\w+", str(node.value)):
                found.add(node.value)
    return found


CUDA_SOURCES = [PACKAGE / "cuda" / "device.py", PACKAGE / "cuda" / "array.py"]


def test_cuda_bindings_has_every_name() -> None:
    api = recorded("cuda_bindings-13.5.0")
    used = names_called("bindings", CUDA_SOURCES) | names_called("cu", CUDA_SOURCES)
    assert {"cuGraphLaunch", "CUstream", "cuMemAllocFromPoolAsync", "CUmemPoolProps"} <= used
    assert not used - set(api["module"])
    fake = vars(make_bindings(Gpu()))
    assert not {n for n in fake if not n.startswith("_")} - set(api["module"])
    assert not used - set(fake)


def test_cuda_bindings_has_every_enumerator() -> None:
    api = recorded("cuda_bindings-13.5.0")
    fake = vars(make_bindings(Gpu()))
    for owner, members in fake.items():
        if isinstance(members, types.SimpleNamespace):
            assert not set(vars(members)) - set(api["classes"][owner])


def test_pycuda_has_every_name() -> None:
    api = recorded("pycuda-2026.1")
    used = names_called("device.pycuda", CUDA_SOURCES) | names_called("self.pycuda", CUDA_SOURCES)
    assert {"mem_alloc", "memcpy_htod_async", "Stream", "MemoryError"} <= used
    assert not (used | {"init", "Device"}) - set(api["module"])
    fake = make_pycuda(Gpu())
    assert not {n for n in vars(fake) if not n.startswith("_")} - set(api["module"])
    for name, value in vars(fake).items():
        if isinstance(value, type) and name in api["classes"]:
            assert not {n for n in vars(value) if not n.startswith("_")} - set(api["classes"][name])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    fake = make_tensorrt(Gpu(), 8)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    tensorrt_api.logger.cache_clear()
    return fake


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", fail)
    with pytest.raises(DeviceError, match="can't be loaded: libnvinfer"):
        load("tensorrt")


def test_there_is_one_logger_for_the_life_of_the_process(installed: types.ModuleType) -> None:
    assert logger("tensorrt") is logger("tensorrt")
    tensorrt_api.logger.cache_clear()


def test_warnings_and_errors_are_kept_and_all_is_logged(installed: types.ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    log, messages = logger("tensorrt")
    severity = installed.ILogger.Severity
    with caplog.at_level(logging.DEBUG), messages.kept() as said:
        log.log(severity.VERBOSE, "a detail")
        log.log(severity.WARNING, "a warning")
        log.log(severity.ERROR, "an error")
    log.log(severity.ERROR, "later")
    assert said == ["a warning", "an error"]
    assert [(r.levelno, r.message) for r in caplog.records[:3]] == [
        (logging.DEBUG, "a detail"),
        (logging.WARNING, "a warning"),
        (logging.WARNING, "an error"),
    ]
    tensorrt_api.logger.cache_clear()


def test_progress_counts_up_to_each_phases_end(installed: types.ModuleType) -> None:
    seen: list[tuple[str, int, int]] = []
    monitor = progress_monitor(installed, lambda *told: seen.append(told))
    monitor.phase_start("Building", None, 2)
    assert monitor.step_complete("Building", 0) and monitor.step_complete("Building", 1)
    monitor.phase_finish("Building")
    assert seen == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_an_interruption_ends_the_build_without_passing_through_it(installed: types.ModuleType) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monitor = progress_monitor(installed, stop)
    monitor.phase_start("Building", None, 2)
    assert not monitor.step_complete("Building", 0)
    assert isinstance(monitor.failure, KeyboardInterrupt)
    assert progress_monitor(installed, None).step_complete("Building", 0)


def test_each_flavour_says_what_to_install() -> None:
    assert {f.extra for f in FLAVOURS.values()} == {"gpu", "rtx"}
