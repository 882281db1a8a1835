"""What NVIDIA's driver says is there, asked without pycuda; and the names by which devices and streams are given.

The driver's own library is called through ctypes, so that a machine on which nothing else is installed can be told
what is missing.
"""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

from .errors import DeviceError

MIN_DRIVER = 580
MIN_CUDA = (13, 0)
LEGACY_STREAM = 1
"""The handle of CUDA's default stream, as ``__cuda_array_interface__`` and DLPack write it (they don't allow 0)."""

_NO_DEVICE = 100
_STUB_LIBRARY = 34
_DRIVER_MISMATCH = 803
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_INSTALL_DRIVER = f"install NVIDIA's driver, {MIN_DRIVER} or later (in a container: start it with --gpus all), or use --device cpu"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU: ``name`` as the driver gives it, ``capability`` as (major, minor), ``memory`` in bytes."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def sm(self) -> str:
        """The compute capability as compilers name it: ``sm90``."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@dataclasses.dataclass(frozen=True)
class DriverReport:
    """What the driver offers: its own version (``580.82.07``, or empty), CUDA's, and the GPUs that it shows."""

    driver: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def _load_driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError("there is no NVIDIA driver here: libcuda.so.1 can't be loaded", _INSTALL_DRIVER) from error


def _driver_version() -> str:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode()
    except (OSError, AttributeError):
        pass
    return ""


def _read_int(function: Any, *arguments: object) -> int:
    value = ctypes.c_int()
    code = function(ctypes.byref(value), *arguments)
    if code:
        raise DeviceError(f"the NVIDIA driver failed (CUDA error {code})", "seseg-trt doctor; nvidia-smi says more")
    return value.value


def driver_report() -> DriverReport:
    """Ask the driver, without pycuda, what is there.

    Raises:
        DeviceError: no driver, no GPU, a driver that is too old or does not work; the message says which.
    """
    library = _load_driver()
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        raise DeviceError(
            "the NVIDIA driver shows no GPU",
            "nvidia-smi should list one; see CUDA_VISIBLE_DEVICES, and --gpus all in a container; or use --device cpu",
        )
    if code == _STUB_LIBRARY:
        raise DeviceError(
            "the libcuda.so.1 that was found is the CUDA toolkit's stub, not a driver",
            f"take the toolkit's folder 'stubs' out of LD_LIBRARY_PATH; {_INSTALL_DRIVER}",
        )
    if code == _DRIVER_MISMATCH:
        raise DeviceError("the NVIDIA driver's library and its kernel module differ in version", "reboot, or install one driver")
    if code:
        raise DeviceError(f"the NVIDIA driver does not start (CUDA error {code})", "nvidia-smi says more; or use --device cpu")
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
    """Return the index in ``cuda`` or ``cuda:N``; raise DeviceError for any other name."""
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not index.isdigit()):
        raise DeviceError(f"{device!r} names no CUDA device", "write cuda or cuda:N")
    return int(index or "0")


def stream_handle(stream: object) -> int:
    """Return the handle of any library's stream; None is CUDA's default stream.

    Taken are an ``int``, objects with the ``__cuda_stream__`` protocol, and streams of PyTorch (``cuda_stream``),
    CuPy (``ptr``) and pycuda or this package (``handle``).
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
    raise DeviceError(f"{stream!r} is no CUDA stream", "pass its handle as an int, or an object with __cuda_stream__")
