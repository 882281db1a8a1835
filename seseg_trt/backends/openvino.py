"""OpenVINO on the CPU: the default backend of a machine without a GPU."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME, Artifact
from ..errors import DeviceError, ModelError

if TYPE_CHECKING:
    from .base import Confidence, Images


_first_use = threading.Lock()
"""OpenVINO's bindings set up things of their own at their first use, and wait for Python's lock in the middle of it: two threads that come
there together, one with that lock and one with theirs, wait for each other for ever (seen with OpenVINO 2026.4 on Python 3.13)."""


COPIES_AT_MOST = 4
"""Copies of the network that run at once. Each has weights of its own, so memory bounds them; what pays was measured on two cores alone."""


class OpenVINOBackend:
    """A graph compiled for this machine's CPU.

    The batch is fixed at one image: batches gain nothing on a CPU, a fixed shape is planned better, and an image's map then
    can't depend on its neighbours. ``infer`` may be called from several threads; with ``throughput`` that many of them run at once,
    else they take turns. How many cores an image has changes no bit of its map.

    Args:
        artifact: an ONNX graph.
        threads: how many cores it may use; None: all.
        throughput: the most images a second from several callers (copies of the network, a core or a few for each), in place of the
            shortest time for one (all cores for each image).
        float_output: make ``p`` available through :meth:`infer_with_float`.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, artifact: Artifact, *, threads: int | None = None, throughput: bool = False, float_output: bool = False) -> None:
        try:
            import openvino as ov
        except ImportError as error:
            raise DeviceError(f"OpenVINO can't be imported: {error}", "pip install openvino") from error
        self.input_size = artifact.input_size
        size = artifact.input_size
        cores = threads or len(os.sched_getaffinity(0))
        self.concurrency = min(cores, COPIES_AT_MOST) if throughput else 1
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # CPUs with AMX or AVX512-BF16 would otherwise run FP32 graphs in BF16, and the masks would not be the original's.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if self.concurrency > 1:
            # Copies, not streams of one: streams share their rearranged weights, and those of an 8-bit graph came out wrong in every
            # second start (OpenVINO 2026.4), with masks that looked like masks.
            config |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": cores // self.concurrency, "ENABLE_CPU_PINNING": False}
        elif threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            model = core.read_model(str(artifact.path))
            if float_output and not artifact.has_float_output:
                model.add_outputs(FLOAT_OUTPUT_NAME)
            model.reshape({INPUT_NAME: [1, size, size, 3]})
            copies = [core.compile_model(model, "CPU", config) for _ in range(self.concurrency)]
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO {ov.__version__.split('-')[0]} can't take {artifact.path}: {_first_line(error)}",
                "try --backend onnxruntime, or make the graph again with build_engine.py",
            ) from error
        self.description = f"OpenVINO {ov.__version__.split('-')[0]} on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for compiled in copies:
            self._idle.put(compiled.create_infer_request())
        self._float_output = float_output
        with _first_use:
            self._check_copies()

    def _check_copies(self) -> None:
        """Run each copy once, and hold them against each other."""
        probe = np.random.default_rng(0).integers(0, 256, (self.input_size, self.input_size, 3), np.uint8)
        maps = []
        for _ in range(self.concurrency):  # the idle ones take turns
            with self._run(probe) as results:
                maps.append(np.array(results[OUTPUT_NAME][0]))
        if any((other != maps[0]).any() for other in maps[1:]):
            raise DeviceError(
                "OpenVINO's copies of one network give different masks, so none can be trusted",
                "please report it with this machine's `seseg-trt doctor`; --backend onnxruntime or --threads 1 goes another way",
            )

    def infer(self, images: Images) -> Confidence:
        """Run the network: uint8 [N, S, S, 3] to uint8 [N, S, S]. See :class:`seseg_trt.backends.base.Backend`."""
        maps = np.empty(images.shape[:3], np.uint8)
        for image, target in zip(images, maps, strict=True):
            with self._run(image) as results:
                target[...] = results[OUTPUT_NAME][0]
        return maps

    def infer_with_float(self, images: Images) -> tuple[Confidence, npt.NDArray[np.float32]]:
        """Run the network and return its maps with the confidence itself, float32 [N, S, S] of 0..1."""
        if not self._float_output:
            raise DeviceError("this backend was made without its float output", "make it with float_output=True")
        maps, floats = np.empty(images.shape[:3], np.uint8), np.empty(images.shape[:3], np.float32)
        for image, target, float_target in zip(images, maps, floats, strict=True):
            with self._run(image) as results:
                target[...], float_target[...] = results[OUTPUT_NAME][0], results[FLOAT_OUTPUT_NAME][0]
        return maps, floats

    @contextlib.contextmanager
    def _run(self, image: npt.NDArray[np.uint8]) -> Iterator[Any]:
        """Give the results, which lie in the request's own memory: they hold until the request is another's."""
        request = self._idle.get()
        if request is None:
            self._idle.put(None)  # for the next one who asks
            raise DeviceError("the backend is closed", "make another")
        try:
            yield request.infer({INPUT_NAME: np.ascontiguousarray(image[np.newaxis])}, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO failed on an image: {_first_line(error)}") from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Give back the compiled network."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait()
        self._idle.put(None)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
