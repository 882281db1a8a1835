"""The ONNX Runtime backend: on the CPU, or on a GPU with the CUDA execution provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..cores import quota_threads
from ..errors import DeviceError, ModelError, import_late, install_hint
from ..models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, Artifact
from .base import GraphBackend

if TYPE_CHECKING:
    from .base import Images

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


WRONG_ON_CPU = "FP8 graphs and INT8 graphs whose rest is FP16"
"""Graphs that ONNX Runtime's CPU kernels (1.32) accept without an error and compute wrongly. Used in a message."""


class ONNXRuntimeBackend(GraphBackend):
    """A backend that runs an ONNX graph in an ONNX Runtime session.

    Args:
        artifact: an ONNX graph.
        device: ``cpu`` or ``cuda:N``.
        threads: on the CPU, how many cores to use; None for all.
        float_output: make ``p`` available through :meth:`infer_with_float`.

    Raises:
        DeviceError: ONNX Runtime or the provider is missing. There is no fallback to another provider.
        ModelError: the graph is damaged, or the CPU kernels compute it wrongly (:data:`WRONG_ON_CPU`).
    """

    name = "onnxruntime"
    concurrency = 1

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "cpu",
        threads: int | None = None,
        float_output: bool = False,
    ) -> None:
        if device == "cpu" and (artifact.precision == "fp8" or (artifact.precision == "int8" and artifact.metadata.get("rest") == "fp16")):
            raise ModelError(
                f"{artifact.path} is for GPUs: ONNX Runtime's CPU kernels give wrong masks for {WRONG_ON_CPU}",
                "try --backend openvino, or make an INT8 graph with engine/recipes/int8-cpu.toml",
            )
        super().__init__(float_output)
        ort = import_late("onnxruntime", "ONNX Runtime can't be imported", install_hint("ort"))
        self.device = device
        self.input_size = artifact.input_size
        options = ort.SessionOptions()
        options.log_severity_level = 3
        threads = threads or quota_threads()
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted: list[Any] = [CPU_PROVIDER] if device == "cpu" else [_gpu_provider(ort, device), CPU_PROVIDER]
        try:
            self._session: Any = ort.InferenceSession(_graph(artifact, float_output), options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions have no public base class
            message = f"ONNX Runtime {ort.__version__} can't load {artifact.path}: {str(error).splitlines()[0]}"
            raise ModelError(message, "try --backend openvino, or make the graph again with build_engine.py") from error
        first = CPU_PROVIDER if device == "cpu" else CUDA_PROVIDER
        if self._session.get_providers()[0] != first:
            raise DeviceError(
                f"ONNX Runtime {ort.__version__} could not start {first} and would silently run on the CPU",
                "seseg-trt doctor shows what is missing; --device cpu selects the CPU",
            )
        self.description = f"ONNX Runtime {ort.__version__}, {first}, {device}"

    def _outputs(self, names: list[str], images: Images) -> list[Any]:
        try:
            results: list[Any] = self._session.run(names, {INPUT_NAME: images})
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise DeviceError(f"ONNX Runtime failed on {len(images)} images: {str(error).splitlines()[0]}") from error
        return results

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _gpu_provider(ort: Any, device: str) -> tuple[str, dict[str, Any]]:
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise DeviceError(
            f"this ONNX Runtime {ort.__version__} has no {CUDA_PROVIDER} (it has {', '.join(ort.get_available_providers())})",
            "pip install onnxruntime-gpu in place of onnxruntime, or choose --device cpu",
        )
    # TF32 rounds the factors to 10 bits of mantissa; an FP32 graph must give FP32 masks.
    return CUDA_PROVIDER, {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0}


def _graph(artifact: Artifact, float_output: bool) -> str | bytes:
    """Return the graph's path, or the serialised graph with ``p`` added to its outputs."""
    if not float_output or artifact.has_float_output:
        return str(artifact.path)
    import onnx

    model = onnx.load(str(artifact.path))
    if not any(FLOAT_OUTPUT_NAME in node.output for node in model.graph.node):
        raise ModelError(f"{artifact.path} has no tensor {FLOAT_OUTPUT_NAME!r}", "only build_engine.py's graphs have it")
    size = artifact.input_size
    model.graph.output.append(onnx.helper.make_tensor_value_info(FLOAT_OUTPUT_NAME, onnx.TensorProto.FLOAT, ["N", size, size]))
    serialized: bytes = model.SerializeToString()
    return serialized
