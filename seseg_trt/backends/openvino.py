"""The OpenVINO backend on the CPU, the default on a machine without a GPU."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..cores import quota_threads, usable_cores
from ..errors import DeviceError, ModelError, import_late
from ..models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME, Artifact
from .base import GraphBackend

if TYPE_CHECKING:
    from .base import Images


_first_use = threading.Lock()
"""Serialises the first inference. OpenVINO's bindings initialise themselves at first use under a lock of their own and acquire the GIL
meanwhile, so two threads can deadlock there (seen with OpenVINO 2026.4 on Python 3.13)."""


COPIES_AT_MOST = 4
"""The most copies of the network that run at once. Each copy has its own weights, so memory limits the number."""

SIGNED_CONVOLUTIONS = frozenset({"amx_int8", "avx_vnni_int8"})
"""The CPU's features (as /proc/cpuinfo names them) with one of which OpenVINO convolves signed 8-bit activations as they are."""


class OpenVINOBackend(GraphBackend):
    """A backend that runs an ONNX graph with OpenVINO on this machine's CPU.

    The batch size is fixed at 1: larger batches are no faster on a CPU, OpenVINO optimises a fixed shape better, and an image's map can't
    depend on its neighbours. ``infer`` is thread-safe: up to ``concurrency`` calls run at once, others wait. The number of cores does
    not change the maps.

    Args:
        artifact: an ONNX graph.
        threads: how many cores to use; None for all.
        throughput: optimise for images per second with several callers (several copies of the network on a part of the cores each)
            instead of the latency of one image (all cores for each image).
        float_output: make ``p`` available through :meth:`infer_with_float`.

    Raises:
        DeviceError: OpenVINO is not installed, or its copies of the network give different maps.
        ModelError: OpenVINO can't load the graph, or would compute it wrongly on this CPU.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, artifact: Artifact, *, threads: int | None = None, throughput: bool = False, float_output: bool = False) -> None:
        super().__init__(float_output)
        ov = import_late("openvino", "OpenVINO can't be imported", "pip install openvino")
        size = self.input_size = artifact.input_size
        threads = threads or quota_threads()
        cores = threads or usable_cores()
        self.concurrency = min(cores, COPIES_AT_MOST) if throughput else 1
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # OpenVINO would run FP32 graphs in BF16 on CPUs with AMX or AVX512-BF16, and the masks would differ from the original's.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if self.concurrency > 1:
            # Use copies, not streams of one network. Streams share their reordered weights, and OpenVINO 2026.4 reordered those of
            # 8-bit graphs wrongly in every second start, giving wrong but plausible masks.
            config |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": cores // self.concurrency, "ENABLE_CPU_PINNING": False}
        elif threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            model = core.read_model(str(artifact.path))
            if float_output and not artifact.has_float_output:
                model.add_outputs(FLOAT_OUTPUT_NAME)
            model.reshape({INPUT_NAME: [1, size, size, 3]})
            in_fp32 = _has_signed_activations(model) and not SIGNED_CONVOLUTIONS & _cpu_features()
            if in_fp32:
                # OpenVINO would shift them to an unsigned type, and does so wrongly where concatenated tensors have different scales
                # (seen with 2025.4 and 2026.4: a mean error of 0.12 in p). Without this pass it rounds as the graph says, in FP32.
                if artifact.metadata.get("rest") == "fp16":  # which OpenVINO can't load without this pass
                    raise ModelError(
                        f"{artifact.path} is for GPUs: this CPU has no signed 8-bit convolutions, and OpenVINO gives wrong masks for it",
                        "make an INT8 graph with engine/recipes/int8-cpu.toml",
                    )
                config["LP_TRANSFORMS_MODE"] = False
            copies = [core.compile_model(model, "CPU", config) for _ in range(self.concurrency)]
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO {ov.__version__.split('-')[0]} can't load {artifact.path}: {_last_line(error)}",
                "try --backend onnxruntime, or make the graph again with build_engine.py",
            ) from error
        self.description = f"OpenVINO {ov.__version__.split('-')[0]} on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        if in_fp32:
            self.description += (
                ", which has no signed 8-bit convolutions: they run in FP32 (engine/recipes/int8-cpu.toml makes unsigned ones)"
            )
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for compiled in copies:
            self._idle.put(compiled.create_infer_request())
        with _first_use:
            self._check_copies()

    def _check_copies(self) -> None:
        """Run each copy of the network on the same image; raise DeviceError if the maps differ."""
        probe = np.random.default_rng(0).integers(0, 256, (self.input_size, self.input_size, 3), np.uint8)
        maps = []
        for _ in range(self.concurrency):  # the queue is FIFO, so each run uses the next copy
            with self._run(probe) as results:
                maps.append(np.array(results[OUTPUT_NAME][0]))
        if any((other != maps[0]).any() for other in maps[1:]):
            raise DeviceError(
                "OpenVINO's copies of one network give different masks, so none can be trusted",
                "try --backend onnxruntime or --threads 1, and please report this with the output of `seseg-trt doctor`",
            )

    def _outputs(self, names: list[str], images: Images) -> list[Any]:
        outputs = [np.empty(images.shape[:3], np.uint8 if name == OUTPUT_NAME else np.float32) for name in names]
        for index, image in enumerate(images):
            with self._run(image) as results:
                for name, output in zip(names, outputs, strict=True):
                    output[index] = results[name][0]
        return outputs

    @contextlib.contextmanager
    def _run(self, image: npt.NDArray[np.uint8]) -> Iterator[Any]:
        """Run the network on one image and yield the results. They share the request's memory and are valid inside the block alone."""
        request = self._idle.get()
        if request is None:
            self._idle.put(None)  # wake the next waiting thread
            raise DeviceError("the backend is closed", "make another")
        try:
            yield request.infer({INPUT_NAME: np.ascontiguousarray(image[np.newaxis])}, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO failed on an image: {_last_line(error)}") from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Release the compiled networks. Later calls raise DeviceError."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait()
        self._idle.put(None)


def _has_signed_activations(model: Any) -> bool:
    """Return whether a model quantises an activation to INT8. Weights are constants of that type and are not converted to it."""
    return any(op.get_type_name() == "Convert" and op.get_output_element_type(0).get_type_name() == "i8" for op in model.get_ops())


def _cpu_features() -> frozenset[str]:
    """Return the features that the kernel lists for the first CPU; none where it lists none."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
    return frozenset()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
