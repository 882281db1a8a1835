"""Arrays on the GPU, in and out, without a copy: ``__cuda_array_interface__`` and DLPack.

DLPack goes through cuda.core, NVIDIA's own; the CUDA array interface (version 3,
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) is a dictionary and is read and written here.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .cuda import Device, Event
from .errors import DeviceError, UsageError

_DLPACK_CUDA = 2
_HINT = "pass a C-contiguous uint8 array of the GPU, [N, S, S, 3]"


@dataclasses.dataclass(frozen=True)
class DeviceView:
    """Somebody else's array: ``address`` and ``shape`` of contiguous bytes; ``owner`` keeps them alive."""

    address: int
    shape: tuple[int, ...]
    owner: object


def view_bytes(array: object, device: Device, stream: int) -> DeviceView:
    """Look at a contiguous uint8 array on ``device``.

    Args:
        array: an object with ``__cuda_array_interface__`` or ``__dlpack__``.
        device: where it must lie, if it says where it lies.
        stream: a handle; work enqueued on it from now on sees the array as its producer left it.

    Raises:
        UsageError: it is no such array, of another type, not contiguous, or on another device.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(array, interface, device, stream)
    if hasattr(array, "__dlpack__"):
        return _from_dlpack(array, device, stream)
    raise UsageError(f"{type(array).__name__} is no array on a GPU", _HINT)


def _from_interface(array: object, interface: dict[str, Any], device: Device, stream: int) -> DeviceView:
    shape = tuple(int(n) for n in interface["shape"])
    if np.dtype(interface["typestr"]) != np.uint8:
        raise UsageError(f"the array's type is {np.dtype(interface['typestr'])}, not uint8", _HINT)
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != _strides(shape):
        raise UsageError("the array is not contiguous", _HINT)
    producer = interface.get("stream")
    if producer is not None and int(producer) != stream:
        event = Event(device)
        event.record(int(producer)).hold(stream)
        event.close()
    return DeviceView(int(interface["data"][0]), shape, array)


def _from_dlpack(array: Any, device: Device, stream: int) -> DeviceView:
    kind, index = array.__dlpack_device__()
    if (int(kind), int(index)) != (_DLPACK_CUDA, device.gpu.index):
        raise UsageError(f"the array is not on cuda:{device.gpu.index}", _HINT)
    view = _strided_memory_view().from_dlpack(array, stream_ptr=stream)
    if view.dtype != np.uint8:
        raise UsageError(f"the array's type is {view.dtype}, not uint8", _HINT)
    shape = tuple(int(n) for n in view.shape)
    # DLPack counts strides in elements, and these have one byte.
    if view.strides is not None and tuple(view.strides) != _strides(shape):
        raise UsageError("the array is not contiguous", _HINT)
    return DeviceView(int(view.ptr), shape, view)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _strided_memory_view() -> Any:
    try:
        from cuda.core.utils import StridedMemoryView
    except ImportError as error:
        raise DeviceError(f"DLPack needs cuda-core: {error}", "pip install cuda-core") from error
    return StridedMemoryView


class DevicePool:
    """Memory that is taken and given back in a stream's order, so that neither waits for the device.

    It is a pool of its own, which keeps what it has: the device's default pool belongs to the whole process, and gives
    memory back to the driver at each synchronisation.
    """

    def __init__(self, device: Device) -> None:
        cu = device.bindings
        properties = cu.CUmemPoolProps()
        properties.allocType = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.handleTypes = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE
        properties.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = device.gpu.index
        self.device = device
        self._pool: Any = device.call("cuMemPoolCreate", properties)
        keep_all = cu.cuuint64_t((1 << 64) - 1)
        threshold = cu.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        device.call("cuMemPoolSetAttribute", self._pool, threshold, keep_all)

    def array(self, shape: tuple[int, ...], stream: int) -> DeviceArray:
        """Return a new uint8 array, not cleared, for use in the order of a stream; raise OutOfDeviceMemory."""
        cu = self.device.bindings
        size = max(math.prod(shape), 1)
        address = self.device.call("cuMemAllocFromPoolAsync", size, self._pool, cu.CUstream(stream))
        return DeviceArray(self, int(address), shape, stream)

    def give_back(self, address: int, stream: int) -> None:
        """Free memory once the stream has passed this point."""
        cu = self.device.bindings
        self.device.call("cuMemFreeAsync", cu.CUdeviceptr(address), cu.CUstream(stream))

    def close(self) -> None:
        """Destroy the pool; its arrays live on."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self.device.call("cuMemPoolDestroy", pool)


class DeviceArray:
    """A C-contiguous uint8 array on the GPU, made on a stream, and freed in that stream's order when it is collected.

    Every library with ``__cuda_array_interface__`` or DLPack takes it without a copy, and waits, on the device, for the
    stream. The stream must live as long as the array.

    Attributes:
        shape: its dimensions.
        address: on the device.
        stream: the handle of the stream in whose order it is ready.
    """

    def __init__(self, pool: DevicePool, address: int, shape: tuple[int, ...], stream: int) -> None:
        self._pool = pool
        self.address = address
        self.shape = shape
        self.stream = stream

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DLPACK_CUDA, self._pool.device.gpu.index)

    def __dlpack__(self, *, stream: int | None = None, **protocol: Any) -> Any:
        # None means the default stream, and -1 that the consumer sees to the order itself.
        if stream != -1 and (stream or 1) != self.stream:
            event = Event(self._pool.device)
            event.record(self.stream).hold(stream or 1)
            event.close()
        view = _strided_memory_view().from_cuda_array_interface(self, stream_ptr=-1)
        return view.__dlpack__(stream=-1, **protocol)

    def to_host(self) -> npt.NDArray[np.uint8]:
        """Copy it to the host, after waiting for its stream."""
        device = self._pool.device
        host = np.empty(self.shape, np.uint8)
        device.call("cuStreamSynchronize", device.bindings.CUstream(self.stream))
        with device.active(), device.mapped("copy from the device"):
            device.pycuda.memcpy_dtoh(host, self.address)
        return host

    def __del__(self) -> None:
        # At the interpreter's end the driver may be gone, and takes all memory with it.
        if not sys.is_finalizing():
            self._pool.give_back(self.address, self.stream)
