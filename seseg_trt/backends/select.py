"""Which backend runs an artifact on the device that the user named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from ..errors import DeviceError, ModelError, UsageError

if TYPE_CHECKING:
    from ..artifact import Artifact
    from .base import Backend

BackendName = Literal["openvino", "onnxruntime", "tensorrt", "rtx"]
BACKENDS: tuple[BackendName, ...] = ("openvino", "onnxruntime", "tensorrt", "rtx")
CPU_BACKENDS: tuple[BackendName, ...] = ("openvino", "onnxruntime")


def check_device(device: str) -> None:
    """Raise UsageError unless ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"there is no device {device!r}", "choose auto, cpu, cuda or cuda:N")


def create_backend(
    artifact: Artifact,
    *,
    backend: BackendName | None = None,
    device: str = "auto",
    threads: int | None = None,
    float_output: bool = False,
) -> Backend:
    """Make the backend that runs ``artifact``.

    Args:
        artifact: the model.
        backend: None lets the artifact and the device decide: OpenVINO for a graph on the CPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A named device is a promise: it runs there or raises. Only ``auto`` may choose.
        threads: cores for a CPU backend; None: all.
        float_output: make ``infer_with_float`` work.

    Raises:
        UsageError: the names don't exist or exclude each other.
        DeviceError: the device or a library for it is not there.
        ModelError: the backend can't take the artifact.
    """
    check_device(device)
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"there is no backend {backend!r}", f"choose from {', '.join(BACKENDS)}")
    if device == "auto":
        device = "cuda" if artifact.kind == "plan" or backend in ("tensorrt", "rtx") else "cpu"
    if device == "cpu":
        return _cpu(artifact, backend or "openvino", threads, float_output)
    return _gpu(artifact, backend, "cuda:0" if device == "cuda" else device, float_output)


def _cpu(artifact: Artifact, backend: BackendName, threads: int | None, float_output: bool) -> Backend:
    if artifact.kind == "plan":
        raise ModelError(f"{artifact.path} is a TensorRT plan, and plans run on a GPU only", "give the .onnx graph for --device cpu")
    if backend == "openvino":
        from .openvino import OpenVINOBackend

        return OpenVINOBackend(artifact, threads=threads, float_output=float_output)
    if backend == "onnxruntime":
        from .onnxruntime import ONNXRuntimeBackend

        return ONNXRuntimeBackend(artifact, threads=threads, float_output=float_output)
    raise UsageError(f"the backend {backend} does not run on the CPU", "choose openvino or onnxruntime, or --device cuda")


def _gpu(artifact: Artifact, backend: BackendName | None, device: str, float_output: bool) -> Backend:
    if backend == "openvino":
        raise UsageError("the backend openvino does not run on a CUDA GPU", "choose onnxruntime, tensorrt or rtx, or --device cpu")
    if backend == "onnxruntime":
        from .onnxruntime import ONNXRuntimeBackend

        return ONNXRuntimeBackend(artifact, device=device, float_output=float_output)
    raise DeviceError(
        f"{backend or 'TensorRT'} on {device} is not available in this version", "seseg-trt doctor says what this machine can run"
    )
