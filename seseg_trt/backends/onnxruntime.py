"""ONNX Runtime: on the CPU beside OpenVINO, and on a GPU by its CUDA or TensorRT execution provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME, Artifact
from ..errors import DeviceError, ModelError

if TYPE_CHECKING:
    from .base import Confidence, Images

CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


WRONG_ON_CPU = "FP8 graphs and INT8 graphs whose rest is FP16"
"""What ONNX Runtime's CPU kernels (1.32) take without a word and answer with wrong masks."""


class ONNXRuntimeBackend:
    """A graph in an ONNX Runtime session.

    Args:
        artifact: an ONNX graph.
        device: ``cpu`` or ``cuda:N``.
        provider: on a GPU, ``cuda`` or ``tensorrt``.
        threads: on the CPU, how many cores it may use; None: all.
        float_output: make ``p`` available through :meth:`infer_with_float`.

    Raises:
        DeviceError: ONNX Runtime or the provider is not there. It never falls back to another provider.
        ModelError: the graph is damaged, or one that would get wrong masks here (:data:`WRONG_ON_CPU`).
    """

    name = "onnxruntime"
    concurrency = 1

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "cpu",
        provider: str = "cuda",
        threads: int | None = None,
        float_output: bool = False,
    ) -> None:
        if device == "cpu" and (artifact.precision == "fp8" or (artifact.precision == "int8" and artifact.metadata.get("rest") == "fp16")):
            raise ModelError(
                f"{artifact.path} is for GPUs: ONNX Runtime's CPU kernels give wrong masks for {WRONG_ON_CPU}",
                "try --backend openvino, or make an INT8 graph with engine/recipes/int8.toml",
            )
        ort = _import()
        self.device = device
        self.input_size = artifact.input_size
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted: list[Any] = [CPU_PROVIDER]
        if device != "cpu":
            wanted = [_gpu_provider(ort, device, provider), CPU_PROVIDER]
        try:
            self._session: Any = ort.InferenceSession(_graph(artifact, float_output), options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions have no common public root
            message = f"ONNX Runtime {ort.__version__} can't take {artifact.path}: {str(error).splitlines()[0]}"
            raise ModelError(message, "try --backend openvino, or make the graph again with build_engine.py") from error
        first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
        if self._session.get_providers()[0] != first:
            raise DeviceError(
                f"ONNX Runtime {ort.__version__} could not start {first} and would have run on the CPU without a word",
                "seseg-trt doctor shows what is missing; --device cpu chooses the CPU",
            )
        self._float_output = float_output
        self.description = f"ONNX Runtime {ort.__version__}, {first}, {device}"

    def infer(self, images: Images) -> Confidence:
        """Run the network: uint8 [N, S, S, 3] to uint8 [N, S, S]. See :class:`seseg_trt.backends.base.Backend`."""
        maps: Confidence = self._run([OUTPUT_NAME], images)[0]
        return maps

    def infer_with_float(self, images: Images) -> tuple[Confidence, npt.NDArray[np.float32]]:
        """Run the network and return its maps with the confidence itself, float32 [N, S, S] of 0..1."""
        if not self._float_output:
            raise DeviceError("this backend was made without its float output", "make it with float_output=True")
        maps, floats = self._run([OUTPUT_NAME, FLOAT_OUTPUT_NAME], images)
        return maps, floats

    def _run(self, names: list[str], images: Images) -> list[Any]:
        try:
            results: list[Any] = self._session.run(names, {INPUT_NAME: images})
        except Exception as error:  # as above
            raise DeviceError(f"ONNX Runtime failed on {len(images)} images: {str(error).splitlines()[0]}") from error
        return results

    def close(self) -> None:
        """Give back the session."""
        self._session = None


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime can't be imported: {error}", "pip install 'seseg_trt[ort]'") from error
    return onnxruntime


def _gpu_provider(ort: Any, device: str, provider: str) -> tuple[str, dict[str, Any]]:
    name = {"cuda": CUDA_PROVIDER, "tensorrt": TENSORRT_PROVIDER}.get(provider)
    if name is None:
        raise DeviceError(f"there is no GPU provider {provider!r} in ONNX Runtime", "choose cuda or tensorrt")
    if name not in ort.get_available_providers():
        raise DeviceError(
            f"this ONNX Runtime {ort.__version__} has no {name} (it has {', '.join(ort.get_available_providers())})",
            "pip install onnxruntime-gpu in place of onnxruntime, or choose --device cpu",
        )
    index = int(device.partition(":")[2] or 0)
    # TF32 rounds FP32 products to 10 bits: an FP32 graph must give FP32 masks.
    return (name, {"device_id": index, "use_tf32": 0} if name == CUDA_PROVIDER else {"device_id": index})


def _graph(artifact: Artifact, float_output: bool) -> str | bytes:
    """Return what a session is made from: the path, or the graph with ``p`` added to its outputs, in memory."""
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
