"""Wrap the CUDA driver API: context, streams, events, memory, kernels and CUDA graphs. The only module that uses pycuda.

Importing this module needs neither a GPU nor pycuda. :func:`open_device` needs both; a :class:`~seseg_trt.errors.DeviceError` names
what is missing and how to install it.

All work uses the device's *primary* context, which DALI, TensorRT and other frameworks share. pycuda keeps a stack of contexts for each
thread. It aborts the process if a thread ends with a context on its stack, and frees nothing in a thread without a context. Therefore
all work, including freeing, runs inside ``with device.active():``. pycuda lacks CUDA graphs, events on other libraries' streams and
stream-ordered memory; cuda-bindings provides them on the same handles.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError, import_late, install_hint
from .driver import Gpu, driver_report, stream_handle

_OUT_OF_MEMORY = 2
_NON_BLOCKING = 1
PYCUDA_IS_BUILT = "(pycuda is built from source: it needs nvcc, g++ and Python's headers)"


class OutOfDeviceMemory(DeviceError):
    """The GPU has too little free memory for a request. A smaller batch may fit."""


@functools.cache
def open_device(index: int = 0) -> Device:
    """Open a GPU. Repeated calls return the same object, because a device has one primary context.

    Raises:
        DeviceError: as :func:`driver_report`; or there is no such GPU; or pycuda or cuda-bindings is missing.
    """
    gpus = driver_report().gpus
    if not 0 <= index < len(gpus):
        raise DeviceError(f"there is no GPU {index}: the driver shows {len(gpus)}", "cuda:0 is the first; see CUDA_VISIBLE_DEVICES")
    try:
        import pycuda.driver as pycuda
    except ModuleNotFoundError as error:
        raise DeviceError("pycuda is not installed", f"{install_hint('gpu')} {PYCUDA_IS_BUILT}") from error
    except ImportError as error:
        hint = f"build it again: pip install --force-reinstall --no-cache-dir --no-deps pycuda {PYCUDA_IS_BUILT}"
        raise DeviceError(f"pycuda is installed but can't be loaded: {error}", hint) from error
    return Device(gpus[index], pycuda, import_late("cuda.bindings.driver", "cuda-bindings can't be imported", install_hint("gpu")))


class Device:
    """A GPU with its primary context. Use :func:`open_device` to create one.

    Attributes:
        gpu: the driver's description of the GPU.
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
        """Convert pycuda's errors to DeviceError or OutOfDeviceMemory. ``doing`` completes "failed to ..."."""
        try:
            yield
        except self.pycuda.MemoryError as error:
            raise OutOfDeviceMemory(f"{self.gpu.name} has not enough free memory to {doing}", "use a smaller batch") from error
        except self.pycuda.Error as error:
            raise DeviceError(f"{self.gpu.name} failed to {doing}: {error}", "nvidia-smi says whether it is healthy") from error

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this device current in the calling thread. Blocks can be nested, also with other devices."""
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
        """Call a driver API function of cuda-bindings and return its value, or a tuple of several values.

        Raises:
            OutOfDeviceMemory: the device has too little free memory.
            DeviceError: the function returned another error code.
        """
        # Without a current context even calls on an explicit stream or event fail.
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
        """Create a non-blocking stream: it does not synchronise with the default stream."""
        return Stream(self)

    def allocate(self, nbytes: int) -> Buffer:
        """Allocate uninitialised device memory; raise OutOfDeviceMemory if there is too little."""
        return Buffer(self, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """Allocate an array in pinned (page-locked) host memory. Garbage collection returns the memory to a pool."""
        with self.active(), self.mapped(f"lock {shape} of host memory"):
            if self._pinned is None:
                from pycuda.tools import PageLockedMemoryPool

                self._pinned = PageLockedMemoryPool()
            array: npt.NDArray[Any] = self._pinned.allocate(shape, np.dtype(dtype))
        return array

    def load_module(self, image: bytes) -> Module:
        """Load compiled kernels from a fatbin or cubin."""
        return Module(self, image)


class Buffer:
    """An allocation of device memory, ``nbytes`` long, at ``address``."""

    def __init__(self, device: Device, nbytes: int) -> None:
        with device.active(), device.mapped(f"allocate {nbytes:,} bytes"):
            self._allocation: Any = device.pycuda.mem_alloc(max(nbytes, 1))
        self.device = device
        self.nbytes = nbytes
        self.address = int(self._allocation)

    def free(self) -> None:
        """Free the memory. CUDA waits for the device first. Calling it twice is allowed."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            with self.device.active():
                allocation.free()


class Event:
    """A CUDA event: a point in a stream's work. Only events created with ``timed`` can measure time."""

    def __init__(self, device: Device, timed: bool = False) -> None:
        flags = device.bindings.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timed else flags.CU_EVENT_DISABLE_TIMING
        self._event: Any = device.call("cuEventCreate", int(flag))
        self.device = device

    def record(self, stream: Stream | int) -> Event:
        """Record the event after the work that is now on a stream."""
        self.device.call("cuEventRecord", self._event, self.device.bindings.CUstream(stream_handle(stream)))
        return self

    def hold(self, stream: Stream | int) -> None:
        """Make later work on a stream wait, on the device, for this event."""
        self.device.call("cuStreamWaitEvent", self.device.bindings.CUstream(stream_handle(stream)), self._event, 0)

    def synchronize(self) -> None:
        """Block the calling thread until the event has completed."""
        self.device.call("cuEventSynchronize", self._event)

    def milliseconds_since(self, earlier: Event) -> float:
        """Return the device time between two completed timed events, in milliseconds."""
        return float(self.device.call("cuEventElapsedTime", earlier._event, self._event))

    def close(self) -> None:
        """Destroy the event. Work that waits for it still does."""
        event, self._event = self._event, None
        if event is not None:
            self.device.call("cuEventDestroy", event)


class Stream:
    """A CUDA stream. Other libraries take its ``handle``."""

    def __init__(self, device: Device) -> None:
        with device.active(), device.mapped("make a stream"):
            self._stream: Any = device.pycuda.Stream(_NON_BLOCKING)
        self.device = device
        self.handle = int(self._stream.handle)
        self._event = Event(device)

    @property
    def pycuda(self) -> Any:
        """The underlying ``pycuda.driver.Stream``."""
        return self._stream

    def wait_for(self, other: Stream | int) -> None:
        """Make later work on this stream wait, on the device, for the present work of another stream."""
        self._event.record(other).hold(self)

    def hold_back(self, other: Stream | int) -> None:
        """Make later work on another stream wait, on the device, for the present work of this stream."""
        self._event.record(self).hold(other)

    def synchronize(self) -> None:
        """Block the calling thread until all work on the stream has completed."""
        with self.device.active(), self.device.mapped("finish a stream's work"):
            self._stream.synchronize()

    def copy_in(self, address: int, host: npt.NDArray[Any]) -> None:
        """Copy a contiguous host array to the device, asynchronously if it is pinned."""
        with self.device.active(), self.device.mapped("copy to the device"):
            self.device.pycuda.memcpy_htod_async(address, host, self._stream)

    def copy_out(self, host: npt.NDArray[Any], address: int) -> None:
        """Copy device memory into a contiguous host array, asynchronously if it is pinned."""
        with self.device.active(), self.device.mapped("copy from the device"):
            self.device.pycuda.memcpy_dtoh_async(host, address, self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture what ``work`` enqueues on this stream as a CUDA graph, without running it."""
        stream, mode = self.device.bindings.CUstream(self.handle), self.device.bindings.CUstreamCaptureMode
        with self.device.active():
            self.device.call("cuStreamBeginCapture", stream, mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                work()
            except BaseException:
                # End the capture, or the stream stays unusable. Its error code says only that the capture is invalid.
                self.device.bindings.cuStreamEndCapture(stream)
                raise
            return Graph(self.device, self.device.call("cuStreamEndCapture", stream))

    def close(self) -> None:
        """Wait for the stream's work and destroy the stream."""
        if self._stream is not None:
            self.synchronize()
            self._event.close()
            with self.device.active():
                self._stream = None


class Graph:
    """A CUDA graph: captured work that one call enqueues."""

    def __init__(self, device: Device, graph: Any) -> None:
        self.device = device
        try:
            self._executable: Any = device.call("cuGraphInstantiate", graph, 0)
        finally:
            device.call("cuGraphDestroy", graph)

    def launch(self, stream: Stream | int) -> None:
        """Enqueue the graph's work on a stream."""
        self.device.call("cuGraphLaunch", self._executable, self.device.bindings.CUstream(stream_handle(stream)))

    def close(self) -> None:
        """Destroy the graph. Launches that still run complete."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self.device.call("cuGraphExecDestroy", executable)


class Module:
    """A loaded module of compiled kernels."""

    def __init__(self, device: Device, image: bytes) -> None:
        self.device = device
        with device.active(), device.mapped("load kernels (were they compiled for this GPU?)"):
            self._module = device.pycuda.module_from_buffer(image)

    def function(self, name: str) -> Function:
        """Return a kernel by its (``extern "C"``) name."""
        with self.device.active(), self.device.mapped(f"find the kernel {name}"):
            return Function(self.device, name, self._module.get_function(name))


class Function:
    """A kernel of a loaded module."""

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
        """Enqueue the kernel.

        Args:
            grid: the number of blocks in x, y, z (1 to 3 numbers).
            block: the number of threads of a block in x, y, z (1 to 3 numbers).
            shared: bytes of dynamic shared memory for each block.
            stream: the stream to run on.
            args: NumPy scalars of the parameters' exact types; an ``int`` or a Buffer is passed as an address.
        """
        values = [np.uintp(a.address) if isinstance(a, Buffer) else np.uintp(a) if isinstance(a, int) else a for a in args]
        with self.device.active(), self.device.mapped(f"launch {self.name}"):
            self._function(*values, grid=(*grid, 1, 1)[:3], block=(*block, 1, 1)[:3], shared=shared, stream=stream.pycuda)
