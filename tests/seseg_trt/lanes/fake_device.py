"""A fake GPU that runs the real kernels on the host, so that the GPU lane can be tested byte for byte without a GPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from seseg_trt.cuda import device as cuda
from seseg_trt.cuda.array import DevicePool
from seseg_trt.models.plan_identity import BuildOptions, PlanIdentity

from ..fake_gpu import Gpu, install
from ..masks.kernel_host import Host

SIZE = 16
IDENTITY = PlanIdentity(
    graph_sha256="a" * 64,
    graph_name="model.fp16.onnx",
    network="u-test",
    input_size=SIZE,
    precision="fp16",
    version="11.4.0.106",
    options=BuildOptions(profiles=((1, 1, 1), (1, 4, 6))),
    targets=("sm90",),
)


class LockedGpu(Gpu):
    """A thread-safe fake GPU whose memory has a GPU's alignment."""

    def __init__(self, memory: int = 1 << 40) -> None:
        super().__init__(memory)
        self._lock = threading.RLock()
        self.live = self.most = 0

    def allocate(self, size: int) -> int | None:
        with self._lock:
            if size > self.free_memory:
                return None
            self.free_memory -= size
            store = np.full(size + 256, 0xAA, np.uint8)
            skip = -store.ctypes.data % 256
            block = store[skip : skip + size]
            self.blocks[block.ctypes.data] = block
            self.live += size
            self.most = max(self.most, self.live)
            return int(block.ctypes.data)

    def free(self, address: int) -> None:
        with self._lock:
            self.live -= self.blocks[address].size
            super().free(address)

    def check(self, address: int, size: int) -> None:
        with self._lock:
            super().check(address, size)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        with self._lock:
            super().enqueue(stream, work)

    def run(self, stream: int, until: int | None = None) -> None:
        with self._lock:
            super().run(stream, until)


def install_with_kernels(monkeypatch: Any, gpu: Gpu, host: Host) -> cuda.Device:
    """Install the fake, with kernels that run when their stream does, and return the device."""
    install(monkeypatch, gpu)
    device = cuda.open_device(0)

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, argument: Any, *, grid: Any, block: Any, shared: int, stream: Any) -> None:
            assert block == (256, 1, 1) and grid[1:] == (1, 1)

            def work() -> None:
                assert host.library.launch(self.name.encode(), grid[0], shared, ctypes.c_void_p(int(argument)), 0) == 0

            gpu.enqueue(stream.handle, work)

    class Module:
        def get_function(self, name: str) -> Function:
            return Function(name)

    monkeypatch.setattr(device.pycuda, "module_from_buffer", lambda image: Module())
    return device


class ForeignArray:
    """An array of another library on the device, produced on a stream of its own. Its rows may be padded."""

    def __init__(self, device: cuda.Device, gpu: Gpu, pixels: np.ndarray, *, padding: int = 0, stream: cuda.Stream | None = None) -> None:
        flat = pixels.reshape(len(pixels), -1)
        padded = np.ascontiguousarray(np.pad(flat, ((0, 0), (0, padding)), constant_values=0x77))
        self._stream = stream or device.stream()
        self._memory = DevicePool(device).array(padded.shape, self._stream.handle)
        self._stream.copy_in(self._memory.address, padded)
        self.shape = pixels.shape
        self.strides = None if padding == 0 else (padded.shape[1], *pixels.strides[1:])
        self._gpu = gpu

    def wait(self) -> None:
        """Block until the array has been produced."""
        self._stream.synchronize()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self._memory.address, False),
            "strides": self.strides,
            "stream": self._stream.handle,
            "version": 3,
        }
