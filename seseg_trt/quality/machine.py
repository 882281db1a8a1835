"""Where a measurement was made: processors and the versions of everything that takes part."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from .. import __version__
from ..errors import DeviceError

DISTRIBUTIONS = (
    "numpy",
    "pillow",
    "onnx",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13-bindings",
    "nvidia-dali-cuda130",
    "opencv-python-headless",
    "opencv-python",
    "pycuda",
    "tensorflow-cpu",
    "tensorflow",
    "keras",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of those libraries of :data:`DISTRIBUTIONS` that are installed."""
    found = {"python": platform.python_version(), "seseg_trt": __version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, Any]:
    """Return the names of the CPU and of the GPUs that the NVIDIA driver shows (an empty list without one)."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": _gpus(),
    }


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model"):
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    from ..driver import driver_report

    try:
        report = driver_report()
    except DeviceError:
        return []
    return [f"{gpu.name} ({gpu.sm}), driver {report.driver or 'unknown'}" for gpu in report.gpus]
