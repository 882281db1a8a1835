"""Find out what this machine can run, and what is missing for the rest."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

from . import native
from .backends.onnxruntime import WRONG_ON_CPU
from .cores import usable_cores
from .errors import DeviceError, SesegError, install_hint
from .models import cache


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of a chain.

    Attributes:
        name: what is checked.
        ok: whether it is there and works.
        detail: its version, or why it does not work.
        mend: how to mend it, or an empty string.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class Chain:
    """A feature and what it needs.

    Attributes:
        name: e.g. ``CPU lane, backend openvino``.
        checks: what it needs, in the order in which to mend it.
    """

    name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check is ok."""
        return all(check.ok for check in self.checks)

    @property
    def broken(self) -> Check | None:
        """The first check that failed, or None."""
        return next((check for check in self.checks if not check.ok), None)


def diagnose() -> list[Chain]:
    """Check everything that a lane or a backend needs. What is missing is a failed check, not an exception."""
    gpu = _gpu()
    return [
        Chain("CPU lane, backend openvino", (_openvino(), _module("PIL", "pillow", "pip install pillow"))),
        Chain("compiled code for pixels on the host (optional: all works without it, more slowly)", (_native(),)),
        Chain("CPU lane, backend onnxruntime", (_onnxruntime(), Check("graphs", True, f"all but {WRONG_ON_CPU}"))),
        Chain("decoder dali on the CPU", _dali()),
        Chain("GPU lane, backend tensorrt", (gpu, _pycuda(), *_dali(), _tensorrt("tensorrt", "gpu"))),
        Chain("GPU lane, backend rtx", (gpu, _pycuda(), *_dali(), _tensorrt("tensorrt_rtx_bindings", "rtx"))),
        Chain("GPU, backend onnxruntime", (gpu, _onnxruntime(), _onnxruntime_cuda())),
        Chain("building plans with TensorRT for RTX (needs no GPU)", (_tensorrt("tensorrt_rtx_bindings", "rtx"),)),
        Chain("default model", (_check("cache", lambda: str(cache.find_model(None))),)),
    ]


def machine() -> str:
    """Describe this machine in one line."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {usable_cores()} cores"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _check(name: str, look: Callable[[], str]) -> Check:
    """Return what ``look`` finds, or turn whatever it raises into a failed check: native libraries raise errors of their own."""
    try:
        return Check(name, True, look())
    except SesegError as error:
        return Check(name, False, error.message, error.hint)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", f"install {name} again")


def _module(module: str, distribution: str, mend: str, look: Callable[[Any], str] | None = None) -> Check:
    """Import a module; ``look`` tells its version, where its distribution does not."""

    def imported() -> str:
        try:
            found = import_module(module)
        except ImportError as error:
            raise DeviceError(f"can't be imported: {error}", mend) from error
        return look(found) if look is not None else _version(distribution)

    return _check(distribution, imported)


def _openvino() -> Check:
    def look(openvino: Any) -> str:
        core = openvino.Core()
        if "CPU" not in core.available_devices:
            raise DeviceError(f"OpenVINO {_version('openvino')} sees no CPU device", "pip install --force-reinstall openvino")
        return f"{_version('openvino')} on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"

    return _module("openvino", "openvino", "pip install openvino", look)


def _native() -> Check:
    if native.MODULE is None:
        mend = "install a C++17 compiler and Python's headers (apt install g++ python3-dev), then install seseg_trt from its source again"
        return Check("seseg_trt.native._native", False, f"it was not built, or can't be loaded: {native.FAILURE}", mend)
    return Check("seseg_trt.native._native", True, "built")


def _onnxruntime() -> Check:
    def look(onnxruntime: Any) -> str:
        return f"{onnxruntime.__version__} ({', '.join(onnxruntime.get_available_providers())})"

    return _module("onnxruntime", "onnxruntime", install_hint("ort"), look)


def _onnxruntime_cuda() -> Check:
    def look() -> str:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError("this build of ONNX Runtime has none", "pip uninstall onnxruntime; pip install onnxruntime-gpu")
        return "compiled in"

    return _check("CUDA provider", look)


def _gpu() -> Check:
    def look() -> str:
        from .cuda.driver import driver_report

        report = driver_report()
        gpus = "; ".join(map(str, report.gpus))
        return f"{report}: {gpus}" if gpus else str(report)

    return _check("NVIDIA driver and GPU", look)


def _pycuda() -> Check:
    from .cuda.device import PYCUDA_IS_BUILT

    return _module("pycuda", "pycuda", f"{install_hint('gpu')} {PYCUDA_IS_BUILT}")


def _dali() -> tuple[Check, ...]:
    packages = {"nvidia.dali": "nvidia-dali-cuda130", "nvidia.nvimgcodec": "nvidia-nvimgcodec-cu13"}
    return tuple(_module(module, distribution, install_hint("dali")) for module, distribution in packages.items())


def _tensorrt(module: str, extra: str) -> Check:
    return _module(module, module, install_hint(extra), lambda found: str(found.__version__))
