"""Exchange GPU arrays with other libraries without a copy, by ``__cuda_array_interface__`` and DLPack.

NVIDIA's cuda.core handles DLPack. The CUDA array interface (version 3,
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) is a dictionary and is read and written here.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError, import_late
from .device import Device, Event

ALIGNMENT = 256
_DLPACK_CUDA = 2
_HINT = "pass a C-contiguous uint8 array of the GPU, [N, S, S, 3]"


class DeviceView:
    """A C-contiguous uint8 array on a GPU.

    Attributes:
        address: the address on the device.
        shape: the dimensions.
        stream: the handle of the stream in whose order the contents are ready.
        owner: an object that keeps the memory alive.
    """

    def __init__(self, address: int, shape: tuple[int, ...], stream: int, owner: object) -> None:
        self.address = address
        self.shape = shape
        self.stream = stream
        self.owner = owner

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


def view_bytes(array: object, device: Device, stream: int) -> DeviceView:
    """Return a view of another library's contiguous uint8 array on ``device``.

    Args:
        array: an object with ``__cuda_array_interface__`` or ``__dlpack__``.
        device: the device that must hold the array. Only DLPack states the device, so it is checked for DLPack alone.
        stream: a stream handle. Work enqueued on it from now on runs after the producer's work on the array.

    Raises:
        UsageError: not a GPU array, not uint8, not contiguous, or on another device.
        DeviceError: DLPack is needed and cuda-core is not installed.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(array, interface, device, stream)
    if hasattr(array, "__dlpack__"):
        return _from_dlpack(array, device, stream)
    raise UsageError(f"{type(array).__name__} is not an array on a GPU", _HINT)


def _from_interface(array: object, interface: dict[str, Any], device: Device, stream: int) -> DeviceView:
    shape = tuple(int(n) for n in interface["shape"])
    _check_layout(np.dtype(interface["typestr"]), shape, interface.get("strides"))
    producer = interface.get("stream")
    if producer is not None and int(producer) != stream:
        event = Event(device)
        event.record(int(producer)).hold(stream)
        event.close()
    return DeviceView(int(interface["data"][0]), shape, stream, array)


def _from_dlpack(array: Any, device: Device, stream: int) -> DeviceView:
    kind, index = array.__dlpack_device__()
    if (int(kind), int(index)) != (_DLPACK_CUDA, device.gpu.index):
        raise UsageError(f"the array is not on cuda:{device.gpu.index}", _HINT)
    view = _strided_memory_view().from_dlpack(array, stream_ptr=stream)
    shape = tuple(int(n) for n in view.shape)
    # DLPack counts strides in elements; an element is one byte here.
    _check_layout(view.dtype, shape, view.strides)
    return DeviceView(int(view.ptr), shape, stream, view)


def _check_layout(dtype: Any, shape: tuple[int, ...], strides: Any) -> None:
    if dtype != np.uint8:
        raise UsageError(f"the array's type is {dtype}, not uint8", _HINT)
    if strides is not None and tuple(strides) != tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
        raise UsageError("the array is not contiguous", _HINT)


def _strided_memory_view() -> Any:
    return import_late("cuda.core.utils", "DLPack needs cuda-core", "pip install cuda-core").StridedMemoryView


class DevicePool:
    """A CUDA memory pool: allocates and frees in stream order, so neither waits for the device.

    The pool keeps freed memory for later allocations. The device's default pool is shared by the whole process and returns memory to
    the driver at each synchronisation.
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
        """Allocate an uninitialised uint8 array for use in the order of a stream.

        Raises:
            OutOfDeviceMemory: the device has too little free memory.
        """
        cu = self.device.bindings
        size = max(math.prod(shape), 1)
        address = self.device.call("cuMemAllocFromPoolAsync", size, self._pool, cu.CUstream(stream))
        return DeviceArray(int(address), shape, stream, self)

    def arrays(self, shapes: Sequence[tuple[int, ...]], stream: int) -> list[DeviceView]:
        """Make one allocation for several arrays, each aligned to 256 bytes; see :meth:`array`."""
        sizes = [-(-math.prod(shape) // ALIGNMENT) * ALIGNMENT for shape in shapes]
        slab = self.array((sum(sizes),), stream)
        starts = itertools.accumulate(sizes, initial=slab.address)
        return [DeviceView(start, tuple(shape), stream, slab) for start, shape in zip(starts, shapes, strict=False)]

    def give_back(self, address: int, stream: int) -> None:
        """Free memory after the work that is now on the stream."""
        cu = self.device.bindings
        self.device.call("cuMemFreeAsync", cu.CUdeviceptr(address), cu.CUstream(stream))

    def close(self) -> None:
        """Destroy the pool. Its arrays stay valid."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self.device.call("cuMemPoolDestroy", pool)


class DeviceArray(DeviceView):
    """An array of a :class:`DevicePool`, freed in the order of its stream when it is garbage-collected.

    Libraries that support ``__cuda_array_interface__`` or DLPack use it without a copy; their streams wait for the array's stream on
    the device. The stream must outlive the array.
    """

    owner: DevicePool

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DLPACK_CUDA, self.owner.device.gpu.index)

    def __dlpack__(self, *, stream: int | None = None, **protocol: Any) -> Any:
        # None means the default stream; -1 means that the consumer synchronises by itself.
        if stream != -1 and (stream or 1) != self.stream:
            event = Event(self.owner.device)
            event.record(self.stream).hold(stream or 1)
            event.close()
        view = _strided_memory_view().from_cuda_array_interface(self, stream_ptr=-1)
        return view.__dlpack__(stream=-1, **protocol)

    def to_host(self) -> npt.NDArray[np.uint8]:
        """Wait for the array's stream and return a copy on the host."""
        device = self.owner.device
        host = np.empty(self.shape, np.uint8)
        device.call("cuStreamSynchronize", device.bindings.CUstream(self.stream))
        with device.active(), device.mapped("copy from the device"):
            device.pycuda.memcpy_dtoh(host, self.address)
        return host

    def __del__(self) -> None:
        # At interpreter exit the driver may already be unloaded; it frees all memory itself.
        if not sys.is_finalizing():
            self.owner.give_back(self.address, self.stream)
