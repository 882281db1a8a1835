"""A GPU in host memory, under the names of pycuda, cuda-bindings and TensorRT, so that the code above them runs anywhere.

It is lazy where a GPU is asynchronous: what is enqueued on a stream runs when something waits for that stream, directly or
through an event, and not before. So a missing wait shows as a wrong result, and a wait that should not be there shows in
``Gpu.waits``. A hasty one runs what is enqueued on the streams that the code under test makes at once, before the caller's own
work, as a GPU does that is quicker than its caller: a missing wait for the caller's stream shows there. Freed memory is overwritten; an operation outside the context, or a context left on a thread, is an error.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np

LEGACY = 1
CHANNELS = 3


def bytes_at(address: int, size: int) -> np.ndarray:
    """Look at host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Gpu:
    """The state of the fake device."""

    def __init__(self, memory: int = 1 << 40) -> None:
        self.free_memory = memory
        self.blocks: dict[int, np.ndarray] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {LEGACY: []}
        self.done: dict[int, int] = {LEGACY: 0}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.waits: list[str] = []
        self.graphs_made = 0
        self.graphs_launched = 0
        self.graphs_alive = 0
        self.events_alive = 0
        self.pool_bytes = 0
        self.refuse_capture = False
        self.hasty = False
        self.ours: set[int] = set()
        self._threads = threading.local()
        self._handles = itertools.count(1000)

    @property
    def contexts(self) -> list[object]:
        """The contexts on this thread."""
        stack: list[object] = self._threads.__dict__.setdefault("stack", [])
        return stack

    def need_context(self) -> None:
        assert self.contexts, "no CUDA context is current on this thread"

    def new_handle(self) -> int:
        return next(self._handles)

    def new_stream(self) -> int:
        handle = self.new_handle()
        self.queues[handle], self.done[handle] = [], 0
        return handle

    def allocate(self, size: int) -> int | None:
        if size > self.free_memory:
            return None
        self.free_memory -= size
        block = np.full(size, 0xAA, np.uint8)
        self.blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        block = self.blocks.pop(address)
        block[:] = 0xEE
        self.free_memory += block.size
        self._graveyard = [*getattr(self, "_graveyard", []), block]

    def check(self, address: int, size: int) -> None:
        fits = any(
            start <= address and address + size <= start + b.size for start, b in self.blocks.copy().items()
        )  # a collection may free one meanwhile
        assert fits, f"{size} bytes at {address:#x} are not allocated"

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self.capturing.get(stream, self.queues[stream]).append(work)
        if self.hasty and stream in self.ours and stream not in self.capturing:
            self.run(stream)

    def run(self, stream: int, until: int | None = None) -> None:
        queue = self.queues[stream]
        until = len(queue) if until is None else until
        while self.done[stream] < until:
            self.done[stream] += 1
            queue[self.done[stream] - 1]()

    def wait(self, stream: int, why: str) -> None:
        assert stream not in self.capturing, "waiting for a stream that is being captured"
        self.waits.append(why)
        self.run(stream)


def make_pycuda(gpu: Gpu) -> types.ModuleType:
    """Return a module as ``pycuda.driver``."""
    module = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError_(Error):
        pass

    class Context:
        def push(self) -> None:
            gpu.contexts.append(self)

        @staticmethod
        def pop() -> None:
            gpu.contexts.pop()

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            gpu.need_context()
            assert flags == 1, "a stream that waits for the default stream"
            self.handle = gpu.new_stream()
            gpu.ours.add(self.handle)

        def synchronize(self) -> None:
            gpu.need_context()
            gpu.wait(self.handle, "stream")

    class Allocation:
        def __init__(self, address: int) -> None:
            self._address = address

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            gpu.need_context()
            gpu.free(self._address)

    def mem_alloc(size: int) -> Allocation:
        gpu.need_context()
        address = gpu.allocate(size)
        if address is None:
            raise MemoryError_("cuMemAlloc failed: out of memory")
        return Allocation(address)

    def memcpy_htod_async(address: int, host: np.ndarray, stream: Stream) -> None:
        gpu.need_context()
        assert host.flags.c_contiguous
        gpu.check(address, host.nbytes)
        source = host.reshape(-1).view(np.uint8)
        gpu.enqueue(stream.handle, lambda: np.copyto(bytes_at(address, host.nbytes), source))

    def memcpy_dtoh_async(host: np.ndarray, address: int, stream: Stream) -> None:
        gpu.need_context()
        assert host.flags.c_contiguous
        gpu.check(address, host.nbytes)
        target = host.reshape(-1).view(np.uint8)
        gpu.enqueue(stream.handle, lambda: np.copyto(target, bytes_at(address, host.nbytes)))

    def memcpy_dtoh(host: np.ndarray, address: int) -> None:
        gpu.need_context()
        gpu.check(address, host.nbytes)
        np.copyto(host.reshape(-1).view(np.uint8), bytes_at(address, host.nbytes))

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, *args: Any, grid: Any, block: Any, shared: int, stream: Stream) -> None:
            gpu.need_context()
            gpu.launches = [*getattr(gpu, "launches", []), (self.name, args, grid, block, shared, stream.handle)]

    class Module:
        def get_function(self, name: str) -> Function:
            if name == "missing":
                raise Error("cuModuleGetFunction failed: named symbol not found")
            return Function(name)

    def module_from_buffer(image: bytes) -> Module:
        gpu.need_context()
        if not image:
            raise Error("cuModuleLoadDataEx failed: device kernel image is invalid")
        return Module()

    names = {"Error": Error, "MemoryError": MemoryError_, "Device": Device, "Context": Context, "Stream": Stream}
    functions = (mem_alloc, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtoh, module_from_buffer)
    module.__dict__.update(names, init=lambda: None, **{f.__name__: f for f in functions})
    return module


class _Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class _Event:
    def __init__(self) -> None:
        self.stream, self.position = LEGACY, 0


def _in_context(gpu: Gpu, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    def call(*arguments: Any) -> tuple[Any, ...]:
        gpu.need_context()
        return function(*arguments)

    return call


def make_bindings(gpu: Gpu) -> types.ModuleType:
    """Return a module as ``cuda.bindings.driver``: each function gives (code, value...)."""
    module = types.ModuleType("cuda.bindings.driver")
    ok = _Code.CUDA_SUCCESS

    def cuEventCreate(flags: int) -> tuple[Any, ...]:
        gpu.events_alive += 1
        return ok, _Event()

    def cuEventDestroy(event: _Event) -> tuple[Any, ...]:
        gpu.events_alive -= 1
        return (ok,)

    def cuEventRecord(event: _Event, stream: int) -> tuple[Any, ...]:
        assert stream not in gpu.capturing
        event.stream, event.position = stream, len(gpu.queues[stream])
        return (ok,)

    def cuStreamWaitEvent(stream: int, event: _Event, flags: int) -> tuple[Any, ...]:
        source, position = event.stream, event.position
        gpu.enqueue(stream, lambda: gpu.run(source, position))
        return (ok,)

    def cuEventSynchronize(event: _Event) -> tuple[Any, ...]:
        gpu.waits.append("event")
        gpu.run(event.stream, event.position)
        return (ok,)

    def cuEventElapsedTime(start: _Event, end: _Event) -> tuple[Any, ...]:
        return ok, float(end.position - start.position)

    def cuStreamSynchronize(stream: int) -> tuple[Any, ...]:
        gpu.wait(stream, "stream")
        return (ok,)

    def cuStreamBeginCapture(stream: int, mode: int) -> tuple[Any, ...]:
        if gpu.refuse_capture:
            return (_Code.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        gpu.capturing[stream] = []
        return (ok,)

    def cuStreamEndCapture(stream: int) -> tuple[Any, ...]:
        return ok, gpu.capturing.pop(stream)

    def cuGraphInstantiate(graph: list[Callable[[], None]], flags: int) -> tuple[Any, ...]:
        gpu.graphs_made += 1
        gpu.graphs_alive += 1
        return ok, list(graph)

    def cuGraphDestroy(graph: object) -> tuple[Any, ...]:
        return (ok,)

    def cuGraphExecDestroy(graph: object) -> tuple[Any, ...]:
        gpu.graphs_alive -= 1
        return (ok,)

    def cuGraphLaunch(graph: list[Callable[[], None]], stream: int) -> tuple[Any, ...]:
        gpu.graphs_launched += 1
        for work in graph:
            gpu.enqueue(stream, work)
        return (ok,)

    def cuMemPoolCreate(properties: Any) -> tuple[Any, ...]:
        return ok, object()

    def cuMemPoolSetAttribute(pool: object, attribute: int, value: int) -> tuple[Any, ...]:
        return (ok,)

    def cuMemPoolDestroy(pool: object) -> tuple[Any, ...]:
        return (ok,)

    def cuMemAllocFromPoolAsync(size: int, pool: object, stream: int) -> tuple[Any, ...]:
        address = gpu.allocate(size)
        if address is None:
            return _Code.CUDA_ERROR_OUT_OF_MEMORY, 0
        gpu.pool_bytes += size
        return ok, address

    def cuMemFreeAsync(address: int, stream: int) -> tuple[Any, ...]:
        gpu.pool_bytes -= gpu.blocks[address].size
        gpu.enqueue(stream, lambda: gpu.free(address))
        return (ok,)

    functions = [value for name, value in locals().items() if name.startswith("cu")]
    module.__dict__.update({f.__name__: _in_context(gpu, f) for f in functions})
    handles = {"CUstream": int, "CUdeviceptr": int, "cuuint64_t": int}
    module.__dict__.update(
        handles,
        CUevent_flags=types.SimpleNamespace(CU_EVENT_DEFAULT=0, CU_EVENT_DISABLE_TIMING=2),
        CUstreamCaptureMode=types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
        CUmemPoolProps=lambda: types.SimpleNamespace(location=types.SimpleNamespace()),
        CUmemAllocationType=types.SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1),
        CUmemAllocationHandleType=types.SimpleNamespace(CU_MEM_HANDLE_TYPE_NONE=0),
        CUmemLocationType=types.SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1),
        CUmemPool_attribute=types.SimpleNamespace(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD=4),
    )
    return module


def make_tools() -> types.ModuleType:
    """Return a module as ``pycuda.tools``."""
    module = types.ModuleType("pycuda.tools")

    class PageLockedMemoryPool:
        def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            return np.full(shape, 0xBB, dtype)

    module.__dict__["PageLockedMemoryPool"] = PageLockedMemoryPool
    return module


def install(monkeypatch: Any, gpu: Gpu, *, capability: tuple[int, int] = (9, 0)) -> None:
    """Put the fake in the place of driver, pycuda and cuda-bindings."""
    from seseg_trt.cuda import device as cuda
    from seseg_trt.cuda.driver import DriverReport
    from seseg_trt.cuda.driver import Gpu as GpuInfo

    pycuda = types.ModuleType("pycuda")
    pycuda.__dict__.update(driver=make_pycuda(gpu), tools=make_tools(), __path__=[])
    bindings = types.ModuleType("cuda.bindings")
    bindings.__dict__.update(driver=make_bindings(gpu), __path__=[])
    namespace = types.ModuleType("cuda")
    namespace.__dict__.update(bindings=bindings, __path__=[])
    modules = {
        "pycuda": pycuda,
        "pycuda.driver": pycuda.driver,
        "pycuda.tools": pycuda.tools,
        "cuda": namespace,
        "cuda.bindings": bindings,
        "cuda.bindings.driver": bindings.driver,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    report = DriverReport("580.82.07", (13, 0), (GpuInfo(0, "Fake GPU", capability, 1 << 30),))
    monkeypatch.setattr(cuda, "driver_report", lambda: report)
    cuda.open_device.cache_clear()
