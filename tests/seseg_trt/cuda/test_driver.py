from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import pytest

from seseg_trt.cuda import device as cuda
from seseg_trt.cuda import driver
from seseg_trt.cuda.driver import DriverReport, Gpu, driver_report, parse_device, stream_handle
from seseg_trt.errors import DeviceError, install_hint


class FakeDriver:
    """A fake of libcuda.so.1 as ctypes loads it."""

    def __init__(self, init: int = 0, version: int = 13000, gpus: int = 1, failing: int = 0) -> None:
        self._init, self._version, self._gpus, self._failing = init, version, gpus, failing

    def cuInit(self, flags: int) -> int:
        return self._init

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return self._failing

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"NVIDIA H200"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        memory._obj.value = 150_000_000_000
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


class FakeNvml:
    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
        text.value = b"570.10"
        return 0


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    there: dict[str, object] = {}

    def load(name: str) -> object:
        if name not in there:
            raise OSError(f"{name}: cannot open shared object file")
        return there[name]

    monkeypatch.setattr(ctypes, "CDLL", load)
    return there


def test_what_the_driver_says_is_reported(libraries: dict[str, object]) -> None:
    libraries["libcuda.so.1"] = FakeDriver(gpus=2)
    first, second = (Gpu(i, "NVIDIA H200", (9, 0), 150_000_000_000) for i in (0, 1))
    assert driver_report() == DriverReport("", (13, 0), (first, second))
    libraries["libnvidia-ml.so.1"] = FakeNvml()
    assert driver_report().driver == "570.10"
    assert first.sm == "sm90"


@pytest.mark.parametrize(
    ("fake", "words", "way_out"),
    [
        (None, "no NVIDIA driver here", "--gpus all"),
        (FakeDriver(init=100), "shows no GPU", "CUDA_VISIBLE_DEVICES"),
        (FakeDriver(init=34), "toolkit's stub", "LD_LIBRARY_PATH"),
        (FakeDriver(init=803), "differ in version", "reboot"),
        (FakeDriver(init=999), "CUDA error 999", "nvidia-smi"),
        (FakeDriver(version=12080), "too old: it offers CUDA 12.8, and 13.0 is needed", "driver 580"),
        (FakeDriver(failing=3), "CUDA error 3", "nvidia-smi"),
    ],
)
def test_what_is_broken_is_named_with_the_way_out(libraries: dict[str, object], fake: FakeDriver | None, words: str, way_out: str) -> None:
    if fake is not None:
        libraries["libcuda.so.1"] = fake
    with pytest.raises(DeviceError) as caught:
        driver_report()
    assert words in caught.value.message and way_out in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_old_driver_is_named_by_its_own_version(libraries: dict[str, object]) -> None:
    libraries.update({"libcuda.so.1": FakeDriver(version=12080), "libnvidia-ml.so.1": FakeNvml()})
    with pytest.raises(DeviceError, match=r"driver 570\.10 is too old"):
        driver_report()


def test_each_missing_library_above_the_driver_is_named(libraries: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    libraries["libcuda.so.1"] = FakeDriver()
    cuda.open_device.cache_clear()
    with pytest.raises(DeviceError, match="no GPU 1: the driver shows 1"):
        cuda.open_device(1)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeviceError, match="pycuda is not installed") as caught:
        cuda.open_device(0)
    assert install_hint("gpu") in caught.value.hint and "nvcc" in caught.value.hint
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules["pycuda"].driver = sys.modules["pycuda.driver"]  # type: ignore[attr-defined]
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeviceError, match="cuda-bindings can't be imported"):
        cuda.open_device(0)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_devices_have_names(name: str, index: int) -> None:
    assert parse_device(name) == index


@pytest.mark.parametrize("name", ["cpu", "cuda:", "cuda:x", "cuda:-1", "gpu:0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="does not name a CUDA device"):
        parse_device(name)


class Torch:
    cuda_stream = 7


class CuPy:
    ptr = 8


class PyCuda:
    handle = 9


class Protocol:
    cuda_stream = 5

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, 6)


@pytest.mark.parametrize(
    ("stream", "handle"),
    [(None, 1), (0, 1), (1, 1), (2, 2), (1234, 1234), (Torch(), 7), (CuPy(), 8), (PyCuda(), 9), (Protocol(), 6)],
)
def test_streams_of_every_library_are_taken(stream: object, handle: int) -> None:
    assert stream_handle(stream) == handle


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(DeviceError, match="is not a CUDA stream"):
        stream_handle("stream")
    assert np.int64(1) == driver.LEGACY_STREAM
