"""Query NVIDIA's driver without pycuda, and parse device names and stream objects.

The driver's library is called through ctypes, so the report works on a machine where no CUDA package is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from typing import Any

from ..errors import DeviceError

MIN_DRIVER = 580
MIN_CUDA = (13, 0)
LEGACY_STREAM = 1
"""The handle of CUDA's legacy default stream in ``__cuda_array_interface__`` and DLPack, which forbid 0."""

_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_INSTALL_DRIVER = f"install NVIDIA's driver, {MIN_DRIVER} or later (in a container: start it with --gpus all), or use --device cpu"

_NOT_STARTED = {
    100: (  # CUDA_ERROR_NO_DEVICE
        "the NVIDIA driver shows no GPU",
        "nvidia-smi should list one; see CUDA_VISIBLE_DEVICES, and --gpus all in a container; or use --device cpu",
    ),
    34: (  # CUDA_ERROR_STUB_LIBRARY
        "the libcuda.so.1 that was found is the CUDA toolkit's stub, not a driver",
        f"take the toolkit's folder 'stubs' out of LD_LIBRARY_PATH; {_INSTALL_DRIVER}",
    ),
    803: (  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        "the NVIDIA driver's library and its kernel module differ in version",
        "reboot, or install one driver",
    ),
}
"""The message and the hint for each error code of ``cuInit``."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it: ``capability`` is (major, minor), ``memory`` is in bytes."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def sm(self) -> str:
        """The compute capability in compiler notation, such as ``sm90``."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@dataclasses.dataclass(frozen=True)
class DriverReport:
    """The driver's version (``580.82.07``, or empty if unknown), the CUDA version that it supports, and the visible GPUs."""

    driver: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def _driver_version() -> str:
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode()
    return ""


def _read_int(function: Any, *arguments: object) -> int:
    value = ctypes.c_int()
    code = function(ctypes.byref(value), *arguments)
    if code:
        raise DeviceError(f"the NVIDIA driver failed (CUDA error {code})", "seseg-trt doctor; nvidia-smi says more")
    return value.value


def driver_report() -> DriverReport:
    """Query the driver for its version and GPUs, without pycuda.

    Raises:
        DeviceError: there is no driver or no GPU, or the driver is too old or does not work. The message says which.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError("there is no NVIDIA driver here: libcuda.so.1 can't be loaded", _INSTALL_DRIVER) from error
    if code := library.cuInit(0):
        other = (f"the NVIDIA driver does not start (CUDA error {code})", "nvidia-smi says more; or use --device cpu")
        raise DeviceError(*_NOT_STARTED.get(code, other))
    version = _read_int(library.cuDriverGetVersion)
    cuda, driver = (version // 1000, version % 1000 // 10), _driver_version()
    if cuda < MIN_CUDA:
        named = f"the NVIDIA driver {driver}" if driver else "the NVIDIA driver"
        raise DeviceError(
            f"{named} is too old: it offers CUDA {cuda[0]}.{cuda[1]}, and {MIN_CUDA[0]}.{MIN_CUDA[1]} is needed",
            f"install driver {MIN_DRIVER} or later, or use --device cpu",
        )
    return DriverReport(driver, cuda, tuple(_gpu(library, i) for i in range(_read_int(library.cuDeviceGetCount))))


def _gpu(library: Any, index: int) -> Gpu:
    handle = ctypes.c_int(_read_int(library.cuDeviceGet, index))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    library.cuDeviceGetName(name, 256, handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    major, minor = (_read_int(library.cuDeviceGetAttribute, a, handle) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(index, name.value.decode(errors="replace"), (major, minor), memory.value)


def parse_device(device: str) -> int:
    """Return the GPU index of a device name, ``cuda`` (0) or ``cuda:N``; raise DeviceError for any other name."""
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not index.isdigit()):
        raise DeviceError(f"{device!r} does not name a CUDA device", "write cuda or cuda:N")
    return int(index or "0")


def stream_handle(stream: object) -> int:
    """Return the handle of a stream of any library.

    Args:
        stream: an ``int`` handle, an object with the ``__cuda_stream__`` protocol, a stream of PyTorch (``cuda_stream``), CuPy
            (``ptr``), pycuda or this package (``handle``), or None for CUDA's default stream.

    Raises:
        DeviceError: the object is none of these.
    """
    if stream is None:
        return LEGACY_STREAM
    if isinstance(stream, int):
        return stream or LEGACY_STREAM
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1]) or LEGACY_STREAM
    for attribute in ("cuda_stream", "ptr", "handle"):
        handle = getattr(stream, attribute, None)
        if handle is not None:
            return int(handle) or LEGACY_STREAM
    raise DeviceError(f"{stream!r} is not a CUDA stream", "pass its handle as an int, or an object with __cuda_stream__")
