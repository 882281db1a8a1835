"""Describe where a measurement was made: the processors, and the versions of all libraries involved."""

from __future__ import annotations

import contextlib
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..cores import usable_cores
from ..errors import DeviceError
from ..options import DecodeOptions

DISTRIBUTIONS = [
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
]


def circumstances(decoding: DecodeOptions) -> dict[str, Any]:
    """Return how images were decoded, with which libraries and on which machine, ready for JSON."""
    decoded = {"decoder": decoder_name(), "exif_orientation": decoding.exif_orientation}
    return {**decoded, "versions": versions(), "machine": describe_machine()}


def decoder_name() -> str:
    """Return the name and version of the library that decodes the images, with the JPEG library inside it."""
    from PIL import __version__, features

    turbo = features.version("libjpeg_turbo")
    return f"Pillow {__version__}" + (f" (libjpeg-turbo {turbo})" if turbo else "")


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the installed libraries of :data:`DISTRIBUTIONS`."""
    found = {"python": platform.python_version(), "seseg_trt": __version__}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def describe_machine() -> dict[str, Any]:
    """Return the names of the CPU and of the GPUs that the NVIDIA driver lists (none without a driver)."""
    cores = usable_cores()
    return {"cpu": cpu_name(), "cores": cores, "system": f"{platform.system()} {platform.machine()}", "gpus": gpus()}


def cpu_name() -> str:
    """Return the processor's name as the system reports it."""
    with contextlib.suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^(?:model name|Model)[ \t]*:[ \t]*(.*)$", told, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Return the names of the GPUs that the NVIDIA driver lists; none without a driver."""
    from ..cuda.driver import driver_report

    try:
        report = driver_report()
    except DeviceError:
        return []
    return [f"{gpu.name} ({gpu.sm}), driver {report.driver or 'unknown'}" for gpu in report.gpus]
