"""The one module that knows pycuda: driver, context, streams, events, memory, kernels and CUDA graphs.

Importing it needs nothing. :func:`driver_report` says what is there without pycuda; :func:`open_device` needs all
of it. What is missing is named by a :class:`~seseg_trt.errors.DeviceError` with the way out.

The context is always the device's *primary* one, which DALI, TensorRT and every framework share. pycuda keeps its
own stack of contexts a thread, aborts the process when a thread ends with a context on it, and frees nothing in a
thread that has none: so all work, freeing included, happens inside ``with device.active():``. pycuda has no CUDA
graphs, no events on foreign streams and no stream-ordered memory: these come from cuda-bindings, on the same handles.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .driver import (
    LEGACY_STREAM,
    DriverReport,
    Gpu,
    driver_report,
    parse_device,
    stream_handle,
)
from .errors import DeviceError

__all__ = [
    "LEGACY_STREAM",
    "Buffer",
    "Device",
    "DriverReport",
    "Event",
    "Function",
    "Gpu",
    "Graph",
    "Module",
    "OutOfDeviceMemory",
    "Stream",
    "driver_report",
    "open_device",
    "parse_device",
    "stream_handle",
]

_OUT_OF_MEMORY = 2
_NON_BLOCKING = 1
_INSTALL_EXTRA = "pip install 'seseg_trt[gpu]' (pycuda is built from source: it needs nvcc, g++ and Python's headers)"


class OutOfDeviceMemory(DeviceError):
    """The GPU has not enough free memory for a request; a smaller batch may fit."""


def _import_pycuda() -> Any:
    try:
        import pycuda.driver as pycuda
    except ModuleNotFoundError as error:
        raise DeviceError("pycuda is not installed", _INSTALL_EXTRA) from error
    except ImportError as error:
        raise DeviceError(f"pycuda is installed but can't be loaded: {error}", f"build it again: {_INSTALL_EXTRA}") from error
    return pycuda


def _import_bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceError(f"cuda-bindings can't be imported: {error}", "pip install 'seseg_trt[gpu]'") from error
    return driver


@functools.cache
def open_device(index: int = 0) -> Device:
    """Return the GPU ``index``, ready to work; the same object each time, since a device has one primary context.

    Raises:
        DeviceError: see :func:`driver_report`; or there is no such GPU; or pycuda or cuda-bindings is missing.
    """
    gpus = driver_report().gpus
    if not 0 <= index < len(gpus):
        raise DeviceError(f"there is no GPU {index}: the driver shows {len(gpus)}", "cuda:0 is the first; see CUDA_VISIBLE_DEVICES")
    return Device(gpus[index], _import_pycuda(), _import_bindings())


class Device:
    """A GPU with its primary context. Made by :func:`open_device`.

    Attributes:
        gpu: what the driver says of it.
        pycuda: the module ``pycuda.driver``.
        bindings: the module ``cuda.bindings.driver``.
    """

    _threads = threading.local()

    def __init__(self, gpu: Gpu, pycuda: Any, bindings: Any) -> None:
        self.gpu = gpu
        self.pycuda = pycuda
        self.bindings = bindings
        with self.mapped("open the device"):
            pycuda.init()
            self._context = pycuda.Device(gpu.index).retain_primary_context()
        self._pinned: Any = None

    @contextlib.contextmanager
    def mapped(self, doing: str) -> Iterator[None]:
        """Turn pycuda's errors into DeviceError, or OutOfDeviceMemory."""
        try:
            yield
        except self.pycuda.MemoryError as error:
            raise OutOfDeviceMemory(f"{self.gpu.name} has not enough free memory to {doing}", "use a smaller batch") from error
        except self.pycuda.Error as error:
            raise DeviceError(f"{self.gpu.name} failed to {doing}: {error}", "nvidia-smi says whether it is healthy") from error

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this device the thread's current one; may be nested, also with other devices."""
        stack = self._threads.__dict__.setdefault("stack", [])
        switch = not stack or stack[-1] is not self
        if switch:
            with self.mapped("enter its context"):
                self._context.push()
        stack.append(self)
        try:
            yield
        finally:
            stack.pop()
            if switch:
                self._context.pop()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of cuda-bindings' driver API and return its value(s); raise DeviceError on an error code."""
        # Even a call that names its stream or event fails on a thread without a context.
        with self.active():
            code, *values = getattr(self.bindings, name)(*arguments)
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemory(f"{self.gpu.name} has not enough free memory ({name})", "use a smaller batch")
        if int(code):
            raise DeviceError(
                f"{self.gpu.name}: {name} failed: {getattr(code, 'name', code)}",
                "nvidia-smi says whether it is healthy",
            )
        return values[0] if len(values) == 1 else tuple(values)

    def stream(self) -> Stream:
        """Return a new stream, which does not wait for the default stream."""
        return Stream(self)

    def allocate(self, nbytes: int) -> Buffer:
        """Return device memory, not cleared; raise OutOfDeviceMemory."""
        return Buffer(self, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """Return page-locked host memory as an array, from a pool to which it returns when it is collected."""
        with self.active(), self.mapped(f"lock {shape} of host memory"):
            if self._pinned is None:
                from pycuda.tools import PageLockedMemoryPool

                self._pinned = PageLockedMemoryPool()
            array: npt.NDArray[Any] = self._pinned.allocate(shape, np.dtype(dtype))
        return array

    def load_module(self, image: bytes) -> Module:
        """Load kernels from a fatbin or cubin."""
        return Module(self, image)


class Buffer:
    """Device memory: ``address`` and ``nbytes``."""

    def __init__(self, device: Device, nbytes: int) -> None:
        with device.active(), device.mapped(f"allocate {nbytes:,} bytes"):
            self._allocation: Any = device.pycuda.mem_alloc(max(nbytes, 1))
        self.device = device
        self.nbytes = nbytes
        self.address = int(self._allocation)

    def free(self) -> None:
        """Give the memory back; waits for the device, as CUDA does. Twice is allowed."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            with self.device.active():
                allocation.free()


class Event:
    """A point in a stream's work. Only events made with ``timed`` can measure."""

    def __init__(self, device: Device, timed: bool = False) -> None:
        flags = device.bindings.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timed else flags.CU_EVENT_DISABLE_TIMING
        self._event: Any = device.call("cuEventCreate", int(flag))
        self.device = device

    def record(self, stream: Stream | int) -> Event:
        """Mark the present end of a stream's work."""
        self.device.call("cuEventRecord", self._event, self.device.bindings.CUstream(stream_handle(stream)))
        return self

    def hold(self, stream: Stream | int) -> None:
        """Let a stream's later work wait, on the device, until this point is reached."""
        self.device.call("cuStreamWaitEvent", self.device.bindings.CUstream(stream_handle(stream)), self._event, 0)

    def synchronize(self) -> None:
        """Let this thread wait until the point is reached."""
        self.device.call("cuEventSynchronize", self._event)

    def milliseconds_since(self, earlier: Event) -> float:
        """Return the device's time between two timed events that were reached."""
        return float(self.device.call("cuEventElapsedTime", earlier._event, self._event))

    def close(self) -> None:
        """Destroy it; work that waits for it is not disturbed."""
        event, self._event = self._event, None
        if event is not None:
            self.device.call("cuEventDestroy", event)


class Stream:
    """A stream of its own. ``handle`` goes to every other library."""

    def __init__(self, device: Device) -> None:
        with device.active(), device.mapped("make a stream"):
            self._stream: Any = device.pycuda.Stream(_NON_BLOCKING)
        self.device = device
        self.handle = int(self._stream.handle)
        self._event = Event(device)

    @property
    def pycuda(self) -> Any:
        """The ``pycuda.driver.Stream``."""
        return self._stream

    def wait_for(self, other: Stream | int) -> None:
        """Let this stream's later work wait for all work of another, on the device."""
        self._event.record(other).hold(self)

    def hold_back(self, other: Stream | int) -> None:
        """Let another stream's later work wait for all work of this one, on the device."""
        self._event.record(self).hold(other)

    def synchronize(self) -> None:
        """Let this thread wait for all work of the stream."""
        with self.device.active(), self.device.mapped("finish a stream's work"):
            self._stream.synchronize()

    def copy_in(self, address: int, host: npt.NDArray[Any]) -> None:
        """Copy a contiguous host array to the device, asynchronously if it is page-locked."""
        with self.device.active(), self.device.mapped("copy to the device"):
            self.device.pycuda.memcpy_htod_async(address, host, self._stream)

    def copy_out(self, host: npt.NDArray[Any], address: int) -> None:
        """Copy device memory into a contiguous host array, asynchronously if it is page-locked."""
        with self.device.active(), self.device.mapped("copy from the device"):
            self.device.pycuda.memcpy_dtoh_async(host, address, self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` enqueues on this stream, without running it, as a graph."""
        stream, mode = self.device.bindings.CUstream(self.handle), self.device.bindings.CUstreamCaptureMode
        with self.device.active():
            self.device.call("cuStreamBeginCapture", stream, mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                work()
            except BaseException:
                # The capture must end, or the stream stays unusable; that it is invalid by now is no news.
                self.device.bindings.cuStreamEndCapture(stream)
                raise
            return Graph(self.device, self.device.call("cuStreamEndCapture", stream))

    def close(self) -> None:
        """Destroy it, after its work."""
        if self._stream is not None:
            self.synchronize()
            self._event.close()
            with self.device.active():
                self._stream = None


class Graph:
    """Recorded work that is enqueued with one call."""

    def __init__(self, device: Device, graph: Any) -> None:
        self.device = device
        try:
            self._executable: Any = device.call("cuGraphInstantiate", graph, 0)
        finally:
            device.call("cuGraphDestroy", graph)

    def launch(self, stream: Stream | int) -> None:
        """Enqueue it."""
        self.device.call("cuGraphLaunch", self._executable, self.device.bindings.CUstream(stream_handle(stream)))

    def close(self) -> None:
        """Destroy it; a launch that still runs goes on."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self.device.call("cuGraphExecDestroy", executable)


class Module:
    """Kernels that were compiled before."""

    def __init__(self, device: Device, image: bytes) -> None:
        self.device = device
        with device.active(), device.mapped("load kernels (were they compiled for this GPU?)"):
            self._module = device.pycuda.module_from_buffer(image)

    def function(self, name: str) -> Function:
        """Return a kernel by its (``extern "C"``) name."""
        with self.device.active(), self.device.mapped(f"find the kernel {name}"):
            return Function(self.device, name, self._module.get_function(name))


class Function:
    """A kernel."""

    def __init__(self, device: Device, name: str, function: Any) -> None:
        self.device = device
        self.name = name
        self._function = function

    def launch(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        stream: Stream,
        args: tuple[Buffer | np.generic | int, ...],
    ) -> None:
        """Enqueue it.

        Args:
            grid: blocks in x, y, z (1 to 3 numbers).
            block: threads a block in x, y, z (1 to 3 numbers).
            shared: bytes of dynamic shared memory.
            stream: where.
            args: NumPy scalars of the parameter's exact type; an ``int`` or a Buffer is an address.
        """
        values = [np.uintp(a.address) if isinstance(a, Buffer) else np.uintp(a) if isinstance(a, int) else a for a in args]
        with self.device.active(), self.device.mapped(f"launch {self.name}"):
            self._function(*values, grid=_three(grid), block=_three(block), shared=shared, stream=stream.pycuda)


def _three(size: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*size, 1, 1)[:3]
    return x, y, z
