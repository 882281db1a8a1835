"""Which backend runs an artifact on the device that the user named."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import DeviceError, ModelError, UsageError

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..plan_identity import Runtime
    from .base import Backend

log = logging.getLogger(__name__)

BackendName = Literal["openvino", "onnxruntime", "tensorrt", "rtx"]
BACKENDS: tuple[BackendName, ...] = ("openvino", "onnxruntime", "tensorrt", "rtx")
CPU_BACKENDS: tuple[BackendName, ...] = ("openvino", "onnxruntime")


def check_device(device: str) -> None:
    """Raise UsageError unless ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"there is no device {device!r}", "choose auto, cpu, cuda or cuda:N")


def resolve_device(device: str, backend: BackendName | None = None) -> tuple[str, str]:
    """Return the device that ``auto`` means on this machine, and why it is not a GPU.

    Args:
        device: ``auto`` is resolved; any other is returned as it is, with an empty reason.
        backend: what the user forced, or None.

    Returns:
        ``cuda:0`` where TensorRT can run, else ``cpu`` with the first broken link as the reason.
    """
    if device != "auto" or backend in CPU_BACKENDS:
        return ("cpu" if device == "auto" else device), ""
    if backend is not None:
        return "cuda:0", ""
    from .tensorrt import available

    reason = available("tensorrt")
    return ("cuda:0", "") if reason is None else ("cpu", reason)


def graph_precision(device: str) -> str:
    """Return which graph of a cache entry runs on a device: FP16 on a GPU, FP32 on a CPU."""
    return "fp16" if device.startswith("cuda") else "fp32"


def create_backend(
    artifact: Artifact,
    *,
    backend: BackendName | None = None,
    device: str = "auto",
    threads: int | None = None,
    throughput: bool = False,
    float_output: bool = False,
) -> Backend:
    """Make the backend that runs ``artifact``.

    Args:
        artifact: the model.
        backend: None lets the artifact and the device decide: OpenVINO for a graph on the CPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A named device is a promise: it runs there or raises. Only ``auto`` may choose.
        threads: cores for a CPU backend; None: all.
        throughput: on a CPU, the most images a second from several threads, in place of the shortest time for one image.
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
        device = "cuda:0" if artifact.kind == "plan" else resolve_device(device, backend)[0]
    if device == "cpu":
        return _cpu(artifact, backend or "openvino", threads, throughput, float_output)
    return _gpu(artifact, backend, "cuda:0" if device == "cuda" else device, float_output)


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


def _gpu(artifact: Artifact, backend: BackendName | None, device: str, float_output: bool) -> Backend:
    if backend == "openvino":
        raise UsageError("the backend openvino does not run on a CUDA GPU", "choose onnxruntime, tensorrt or rtx, or --device cpu")
    if backend == "onnxruntime":
        from .onnxruntime import ONNXRuntimeBackend

        return ONNXRuntimeBackend(artifact, device=device, float_output=float_output)
    from .tensorrt import TensorRTBackend, available

    if float_output:
        raise UsageError("a TensorRT plan gives no float confidence", "compare its uint8 maps, or use --backend onnxruntime")
    plan, runtime = (artifact.path, _runtime_of(artifact, backend)) if artifact.kind == "plan" else (None, _as_runtime(backend))
    reason = available(runtime, device)
    if reason is not None:
        raise DeviceError(f"{runtime} can't run on {device}: {reason}", "seseg-trt doctor shows the whole chain; --device cpu needs no GPU")
    return TensorRTBackend(plan or _plan_of(artifact, runtime), device)


def _as_runtime(backend: BackendName | None) -> Runtime:
    return "rtx" if backend == "rtx" else "tensorrt"


def _runtime_of(artifact: Artifact, backend: BackendName | None) -> Runtime:
    from ..plan_file import read_identity

    runtime = read_identity(artifact.path).runtime
    if backend not in (None, runtime):
        raise ModelError(
            f"{artifact.path} is a plan for the runtime {runtime}, not {backend}",
            f"--backend {runtime}, or build it again with seseg-trt build --runtime {backend}",
        )
    return runtime


def _plan_of(artifact: Artifact, runtime: Runtime) -> Path:
    """Return the plan of a graph from the cache; build it there the first time, and say so."""
    from .. import cache
    from ..plan_identity import BuildOptions
    from ..ticker import Ticker
    from .tensorrt_build import cached_plan

    with Ticker(sys.stderr) as ticker:
        path, identity, built = cached_plan(artifact.path, cache.home() / "plans", BuildOptions(runtime), ticker.tell)
    log.info("%s %s: %s", "built" if built else "found", path, identity)
    return path
