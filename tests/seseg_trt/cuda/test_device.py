"""Test the CUDA module on fakes of pycuda and cuda-bindings. Other tests check that the real ones have the names used, and run on a GPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from seseg_trt.cuda import device as cuda
from seseg_trt.cuda.array import DevicePool, view_bytes
from seseg_trt.cuda.device import Device, Event, OutOfDeviceMemory
from seseg_trt.errors import DeviceError, UsageError

from ..fake_gpu import LEGACY, Gpu, install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = Gpu()
    install(monkeypatch, gpu)
    yield gpu
    assert not gpu.contexts, "a context was left on the thread"
    cuda.open_device.cache_clear()


@pytest.fixture
def device(gpu: Gpu) -> Device:
    return cuda.open_device(0)


def test_a_device_is_opened_once(device: Device) -> None:
    assert cuda.open_device(0) is device


def test_the_context_is_on_the_thread_only_inside(device: Device, gpu: Gpu) -> None:
    with device.active():
        with device.active():
            assert len(gpu.contexts) == 1
        assert len(gpu.contexts) == 1
    assert not gpu.contexts


def test_two_devices_may_be_nested(device: Device, gpu: Gpu) -> None:
    other = Device(device.gpu, device.pycuda, device.bindings)
    with device.active(), other.active(), device.active():
        assert gpu.contexts == [device._context, other._context, device._context]


def test_an_error_inside_takes_the_context_off(device: Device, gpu: Gpu) -> None:
    with pytest.raises(ValueError), device.active():
        raise ValueError
    assert not gpu.contexts


def test_each_thread_has_its_own_context_stack(device: Device, gpu: Gpu) -> None:
    seen: list[int] = []

    def work() -> None:
        device.allocate(10).free()
        seen.append(len(gpu.contexts))

    with device.active():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [0]


def test_bytes_go_there_and_back(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(100)
    there, back = device.pinned((10, 10)), device.pinned((10, 10))
    there[:] = np.arange(100).reshape(10, 10)
    stream.copy_in(buffer.address, there)
    stream.copy_out(back, buffer.address)
    stream.synchronize()
    np.testing.assert_array_equal(back, there)
    buffer.free()
    buffer.free()
    stream.close()
    stream.close()


def test_out_of_memory_is_an_error_of_its_own(device: Device, gpu: Gpu) -> None:
    gpu.free_memory = 10
    with pytest.raises(OutOfDeviceMemory, match="allocate 11 bytes"):
        device.allocate(11)
    pool = DevicePool(device)
    with pytest.raises(OutOfDeviceMemory):
        pool.array((11,), LEGACY)
    assert issubclass(OutOfDeviceMemory, DeviceError)


def test_streams_wait_for_each_other_on_the_device(device: Device, gpu: Gpu) -> None:
    first, second = device.stream(), device.stream()
    buffer, host = device.allocate(4), np.zeros(4, np.uint8)
    first.copy_in(buffer.address, np.full(4, 7, np.uint8))
    second.wait_for(first)
    second.copy_out(host, buffer.address)
    first.copy_in(buffer.address, np.full(4, 9, np.uint8))
    assert gpu.waits == []
    second.synchronize()
    assert host.tolist() == [7] * 4
    foreign = gpu.new_stream()
    first.hold_back(foreign)
    gpu.run(foreign)
    first.copy_out(host, buffer.address)
    first.synchronize()
    assert host.tolist() == [9] * 4


def test_events_measure_and_wait(device: Device, gpu: Gpu) -> None:
    stream, events = device.stream(), gpu.events_alive
    buffer = device.allocate(4)
    start, end = (Event(device, timed=True) for _ in range(2))
    start.record(stream)
    stream.copy_in(buffer.address, np.zeros(4, np.uint8))
    end.record(stream).synchronize()
    assert end.milliseconds_since(start) == 1.0
    start.close()
    start.close()
    end.close()
    assert gpu.events_alive == events


def test_a_graph_repeats_what_was_recorded(device: Device, gpu: Gpu) -> None:
    stream, buffer = device.stream(), device.allocate(1)
    host = np.zeros(1, np.uint8)
    graph = stream.capture(lambda: stream.copy_in(buffer.address, host))
    for value in (3, 4):
        host[0] = value
        graph.launch(stream)
        got = np.zeros(1, np.uint8)
        stream.copy_out(got, buffer.address)
        stream.synchronize()
        assert got[0] == value
    graph.close()
    graph.close()
    assert gpu.graphs_alive == 0


def test_a_capture_that_fails_leaves_the_stream_usable(device: Device, gpu: Gpu) -> None:
    stream = device.stream()

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        stream.capture(fail)
    stream.synchronize()
    gpu.refuse_capture = True
    with pytest.raises(DeviceError, match="cuStreamBeginCapture failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        stream.capture(lambda: None)


def test_kernels_are_launched_with_addresses_and_scalars(device: Device, gpu: Gpu) -> None:
    stream, buffer = device.stream(), device.allocate(8)
    kernel = device.load_module(b"fatbin").function("blend")
    kernel.launch((4,), (32, 8), 64, stream, (buffer, 5, np.int32(-3), np.float32(0.5)))
    ((name, args, grid, block, shared, handle),) = gpu.launches  # type: ignore[attr-defined]
    assert (name, grid, block, shared, handle) == ("blend", (4, 1, 1), (32, 8, 1), 64, stream.handle)
    assert args == (buffer.address, 5, -3, 0.5)
    assert [a.dtype for a in args] == [np.uintp, np.uintp, np.int32, np.float32]


def test_kernels_that_are_not_there_are_named(device: Device) -> None:
    with pytest.raises(DeviceError, match="failed to load kernels"):
        device.load_module(b"")
    with pytest.raises(DeviceError, match="failed to find the kernel missing"):
        device.load_module(b"fatbin").function("missing")


class Array:
    """A GPU array of another library, with the CUDA array interface."""

    def __init__(self, **changes: object) -> None:
        self.__cuda_array_interface__ = {
            "shape": (2, 4, 4, 3),
            "typestr": "|u1",
            "data": (4096, False),
            "strides": None,
            "version": 3,
            **changes,
        }


def test_foreign_arrays_are_looked_at_where_they_lie(device: Device, gpu: Gpu) -> None:
    array = Array(strides=(48, 12, 3, 1))
    view = view_bytes(array, device, LEGACY)
    assert (view.address, view.shape, view.owner) == (4096, (2, 4, 4, 3), array)
    assert gpu.waits == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"typestr": "<f4"}, "float32, not uint8"), ({"strides": (96, 12, 3, 1)}, "not contiguous")],
)
def test_arrays_of_another_kind_are_refused(device: Device, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        view_bytes(Array(**changes), device, LEGACY)
    with pytest.raises(UsageError, match="not an array on a GPU"):
        view_bytes([1], device, LEGACY)


def test_the_producers_stream_is_waited_for_on_the_device(device: Device, gpu: Gpu) -> None:
    producer, consumer = gpu.new_stream(), gpu.new_stream()
    ready: list[bool] = []
    gpu.enqueue(producer, lambda: ready.append(True))
    events = gpu.events_alive
    view_bytes(Array(stream=producer), device, consumer)
    assert ready == [] and gpu.waits == []
    gpu.run(consumer)
    assert ready == [True]
    assert gpu.events_alive == events


class DLPackArray:
    def __init__(self, device: tuple[int, int]) -> None:
        self._device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **protocol: object) -> object:
        raise AssertionError("a refused array is not asked for its memory")


@pytest.mark.parametrize("where", [(1, 0), (2, 1), (10, 0)])
def test_dlpack_arrays_elsewhere_are_refused(device: Device, where: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="not on cuda:0"):
        view_bytes(DLPackArray(where), device, LEGACY)


def test_dlpack_without_cuda_core_says_so(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(DeviceError, match="DLPack needs cuda-core"):
        view_bytes(DLPackArray((2, 0)), device, LEGACY)


def test_a_new_array_tells_others_where_it_is(device: Device, gpu: Gpu) -> None:
    stream = gpu.new_stream()
    array = DevicePool(device).array((2, 3), stream)
    interface = array.__cuda_array_interface__
    assert interface["data"] == (array.address, False) and interface["shape"] == (2, 3)
    assert (interface["typestr"], interface["stream"], interface["version"]) == ("|u1", stream, 3)
    assert array.__dlpack_device__() == (2, 0)
    assert view_bytes(array, device, stream).address == array.address
    address = array.address
    del array, interface
    assert address in gpu.blocks, "freed before the stream has passed"
    gpu.run(stream)
    assert address not in gpu.blocks
