"""Choose and create the backend for an artifact and a device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import DeviceError, ModelError, UsageError
from ..options import BACKENDS, CPU_BACKENDS, BackendName, check_device

if TYPE_CHECKING:
    from ..models.artifact import Artifact
    from ..models.plan_identity import Runtime
    from .base import Backend
    from .tensorrt_api import Progress

log = logging.getLogger(__name__)


def resolve_device(device: str, backend: BackendName | None = None) -> tuple[str, str]:
    """Resolve the device ``auto``; return the device and, if that is the CPU, why no GPU is used.

    Args:
        device: ``auto``, or a device that is returned unchanged with an empty reason.
        backend: the backend that the user chose, or None.

    Returns:
        ``cuda:0`` with an empty reason if TensorRT can run, otherwise ``cpu`` and the first requirement that is missing.
    """
    if device != "auto" or backend in CPU_BACKENDS:
        return ("cpu" if device == "auto" else device), ""
    if backend is not None:
        return "cuda:0", ""
    from .tensorrt import available

    reason = available("tensorrt")
    return ("cuda:0", "") if reason is None else ("cpu", reason)


def graph_precision(device: str) -> str:
    """Return the precision of a cache entry's graph for a device: ``fp16`` for a GPU, ``fp32`` for a CPU."""
    return "fp16" if device.startswith("cuda") else "fp32"


def create_backend(
    artifact: Artifact,
    *,
    backend: BackendName | None = None,
    device: str = "auto",
    threads: int | None = None,
    throughput: bool = False,
    float_output: bool = False,
    progress: Progress | None = None,
) -> Backend:
    """Create the backend that runs ``artifact``. A graph for a GPU is first built into a plan, which is cached.

    Args:
        artifact: the model.
        backend: the backend's name, or None: OpenVINO for a graph on the CPU, TensorRT on a GPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` chooses a device; there is no fallback from a named one.
        threads: cores for a CPU backend; None for all.
        throughput: on a CPU, optimise for images per second with several threads instead of the latency of one image.
        float_output: make ``infer_with_float`` work.
        progress: called while a plan is built, which can take minutes: with the phase, the steps done and the total steps.

    Raises:
        UsageError: the backend or device does not exist, or they exclude each other.
        DeviceError: the device or a library for it is missing.
        ModelError: the backend can't run the artifact.
    """
    check_device(device)
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"there is no backend {backend!r}", f"choose from {', '.join(BACKENDS)}")
    if device == "auto":
        device = "cuda:0" if artifact.kind == "plan" else resolve_device(device, backend)[0]
    if device == "cpu":
        return _cpu(artifact, backend or "openvino", threads, throughput, float_output)
    return _gpu(artifact, backend, "cuda:0" if device == "cuda" else device, float_output, progress)


def _cpu(artifact: Artifact, backend: BackendName, threads: int | None, throughput: bool, float_output: bool) -> Backend:
    if artifact.kind == "plan":
        raise ModelError(f"{artifact.path} is a TensorRT plan, and plans run on a GPU only", "give the .onnx graph for --device cpu")
    if backend == "openvino":
        from .openvino import OpenVINOBackend

        return OpenVINOBackend(artifact, threads=threads, throughput=throughput, float_output=float_output)
    if backend == "onnxruntime":
        from .onnxruntime import ONNXRuntimeBackend

        return ONNXRuntimeBackend(artifact, threads=threads, float_output=float_output)
    raise UsageError(f"the backend {backend} does not run on the CPU", "choose openvino or onnxruntime, or --device cuda")


def _gpu(artifact: Artifact, backend: BackendName | None, device: str, float_output: bool, progress: Progress | None) -> Backend:
    if backend == "openvino":
        raise UsageError("the backend openvino does not run on a CUDA GPU", "choose onnxruntime, tensorrt or rtx, or --device cpu")
    if backend == "onnxruntime":
        from .onnxruntime import ONNXRuntimeBackend

        return ONNXRuntimeBackend(artifact, device=device, float_output=float_output)
    from ..models import cache
    from ..models.plan_file import read_identity
    from ..models.plan_identity import BuildOptions
    from .tensorrt import TensorRTBackend, available
    from .tensorrt_build import cached_plan

    if float_output:
        raise UsageError("a TensorRT plan gives no float confidence", "compare its uint8 maps, or use --backend onnxruntime")
    runtime: Runtime = "rtx" if backend == "rtx" else "tensorrt"
    if artifact.kind == "plan":
        runtime = read_identity(artifact.path).runtime
        if backend not in (None, runtime):
            raise ModelError(
                f"{artifact.path} is a plan for the runtime {runtime}, not {backend}",
                f"--backend {runtime}, or build it again with seseg-trt build --runtime {backend}",
            )
    reason = available(runtime, device)
    if reason is not None:
        raise DeviceError(f"{runtime} can't run on {device}: {reason}", "seseg-trt doctor shows the whole chain; --device cpu needs no GPU")
    plan = artifact.path
    if artifact.kind != "plan":  # its plan is in the cache, or is built the first time
        plan, identity, built = cached_plan(artifact.path, cache.home() / "plans", BuildOptions(runtime), progress)
        log.info("%s %s: %s", "built" if built else "found", plan, identity)
    return TensorRTBackend(plan, device)
