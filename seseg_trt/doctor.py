"""What this machine can run, and the first broken link of what it can't."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable
from importlib import import_module, metadata

from . import cache, native
from .backends.onnxruntime import WRONG_ON_CPU
from .errors import DeviceError, ModelError


@dataclasses.dataclass(frozen=True)
class Check:
    """One link of a chain.

    Attributes:
        name: what is looked at.
        ok: whether it is there and works.
        detail: the version or the finding, or why it does not work.
        mend: what mends it, or an empty string.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class Chain:
    """Something that a user may want to run, and what it needs, in order.

    Attributes:
        name: e.g. ``backend openvino``.
        checks: of what it needs. The first that is not ok is the one to mend.
    """

    name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether it can run."""
        return all(check.ok for check in self.checks)

    @property
    def broken(self) -> Check | None:
        """The first broken link, or None."""
        return next((check for check in self.checks if not check.ok), None)


def diagnose() -> list[Chain]:
    """Look at everything that a lane or a backend needs. Nothing is changed, and nothing raises for what is missing."""
    gpu = _gpu()
    return [
        Chain("CPU lane, backend openvino", (_openvino(), _module("PIL", "pillow", "pip install pillow"))),
        Chain("compiled code for pixels on the host (all works without it, more slowly)", (_native(),)),
        Chain("CPU lane, backend onnxruntime", (_onnxruntime(), Check("graphs", True, f"not {WRONG_ON_CPU}"))),
        Chain("decoder dali on the CPU", _dali()),
        Chain("GPU lane, backend tensorrt", (*gpu, _pycuda(), *_dali(), _tensorrt("tensorrt", "pip install 'seseg_trt[gpu]'"))),
        Chain("GPU lane, backend rtx", (*gpu, _pycuda(), *_dali(), _tensorrt("tensorrt_rtx_bindings", "pip install 'seseg_trt[rtx]'"))),
        Chain("GPU, backend onnxruntime", (*gpu, _onnxruntime(), _onnxruntime_cuda())),
        Chain("building plans with TensorRT for RTX (needs no GPU)", (_tensorrt("tensorrt_rtx_bindings", "pip install 'seseg_trt[rtx]'"),)),
        Chain("default model", (_model(),)),
    ]


def machine() -> str:
    """Return one line on this machine."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _module(module: str, distribution: str, mend: str) -> Check:
    try:
        import_module(module)
    except ImportError as error:
        return Check(distribution, False, f"can't be imported: {error}", mend)
    return Check(distribution, True, _version(distribution))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A native library can fail in ways of its own when it is looked at; a doctor must not die of the patient."""
    try:
        return look()
    except DeviceError as error:
        return Check(name, False, error.message, error.hint)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "reinstall it")


def _openvino() -> Check:
    def look() -> Check:
        import openvino as ov

        core = ov.Core()
        if "CPU" not in core.available_devices:
            return Check(
                "openvino",
                False,
                f"OpenVINO {_version('openvino')} sees no CPU device",
                "reinstall it: pip install --force-reinstall openvino",
            )
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        return Check("openvino", True, f"{_version('openvino')} on {name}")

    check = _module("openvino", "openvino", "pip install openvino")
    return _guarded("openvino", look) if check.ok else check


def _native() -> Check:
    if native.MODULE is None:
        mend = "install a C++17 compiler (apt install g++, and Python's headers), then install seseg_trt again"
        return Check("seseg_trt._native", False, f"it was not built, or can't be loaded: {native.FAILURE}", mend)
    return Check("seseg_trt._native", True, "built")


def _onnxruntime() -> Check:
    def look() -> Check:
        import onnxruntime

        return Check("onnxruntime", True, f"{onnxruntime.__version__} ({', '.join(onnxruntime.get_available_providers())})")

    check = _module("onnxruntime", "onnxruntime", "pip install 'seseg_trt[ort]'")
    return _guarded("onnxruntime", look) if check.ok else check


def _onnxruntime_cuda() -> Check:
    def look() -> Check:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return Check("CUDA provider", True, "compiled in")
        return Check(
            "CUDA provider", False, "this build of ONNX Runtime has none", "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        )

    return _guarded("CUDA provider", look)


def _gpu() -> tuple[Check, ...]:
    from . import cuda

    try:
        report = cuda.driver_report()
    except DeviceError as error:
        return (Check("NVIDIA driver and GPU", False, error.message, error.hint),)
    gpus = "; ".join(str(gpu) for gpu in report.gpus)
    return (Check("NVIDIA driver and GPU", True, f"{report}: {gpus}" if gpus else str(report)),)


def _pycuda() -> Check:
    return _module("pycuda", "pycuda", "pip install 'seseg_trt[gpu]' (built from source: it needs nvcc, g++ and Python's headers)")


def _dali() -> tuple[Check, ...]:
    mend = "pip install 'seseg_trt[dali]'"
    return (
        _guarded("nvidia-dali-cuda130", lambda: _module("nvidia.dali", "nvidia-dali-cuda130", mend)),
        _guarded("nvidia-nvimgcodec-cu13", lambda: _module("nvidia.nvimgcodec", "nvidia-nvimgcodec-cu13", mend)),
    )


def _tensorrt(module: str, mend: str) -> Check:
    def look() -> Check:
        found = import_module(module)
        return Check(module, True, str(found.__version__))

    check = _module(module, module, mend)
    return _guarded(module, look) if check.ok else check


def _model() -> Check:
    try:
        artifact = cache.find_model(None)
    except ModelError as error:
        return Check("cache", False, error.message, error.hint)
    return Check("cache", True, str(artifact))
