"""The backend for TensorRT and TensorRT for RTX: runs a plan on a GPU."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..cuda import device as cuda
from ..cuda.array import DeviceArray, DevicePool, view_bytes
from ..cuda.driver import parse_device, stream_handle
from ..errors import DeviceError, ModelError, SesegError, UsageError
from ..models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME
from ..models.plan_file import open_plan
from ..models.plan_identity import RTX_TARGETS, PlanIdentity, Runtime, check_identity
from .batching import BatchLimit, split_batch
from .tensorrt_api import FLAVOURS, load, logger
from .tensorrt_stream import InferenceStream

if TYPE_CHECKING:
    from .base import Confidence, Images

T = TypeVar("T")

STREAMS = 2
"""Two streams let the copies of one batch overlap with the computation of another."""


def available(runtime: Runtime, device: str = "cuda:0") -> str | None:
    """Return why a runtime can't run on a device (the first requirement that is missing), or None if it can."""
    try:
        gpu = cuda.open_device(parse_device(device)).gpu
        load(runtime)
    except DeviceError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if runtime == "rtx" and gpu.sm not in RTX_TARGETS:
        return f"TensorRT for RTX has no kernels for {gpu.name} ({gpu.sm}); TensorRT itself has"
    return None


class TensorRTBackend:
    """A backend that runs a plan on several streams of a GPU. ``infer`` is thread-safe.

    Args:
        plan: a plan built by this project.
        device: ``cuda`` or ``cuda:N``.
        streams: how many batches may be in flight at once.
        graphs: whether to use CUDA graphs for small batches.

    Raises:
        ModelError: the file is not a plan, is damaged, or was built for another TensorRT or GPU. The message has the command that
            builds the right plan.
        DeviceError: a driver, GPU or library is missing, or TensorRT can't load the plan.
    """

    def __init__(self, plan: str | Path, device: str = "cuda:0", *, streams: int = STREAMS, graphs: bool = True) -> None:
        self._device = cuda.open_device(parse_device(device))
        gpu = self._device.gpu
        with open_plan(plan) as (identity, payload):
            trt = load(identity.runtime)
            check_identity(identity, plan, version=str(trt.__version__), sm=gpu.sm)
            with self._device.active():
                self._runtime, self._engine = _deserialize(trt, identity, payload, plan)
        title = FLAVOURS[identity.runtime].title
        self.identity: PlanIdentity = identity
        self.name: str = identity.runtime
        self.device = f"cuda:{gpu.index}"
        self.input_size = identity.input_size
        self.concurrency = streams
        self.description = f"{title} {identity.version}, {identity.precision}, on {gpu.name} ({gpu.sm})"
        self._limit = BatchLimit(identity.max_batch)
        self._pool = DevicePool(self._device)
        self._streams = [InferenceStream(trt, self._engine, identity, self._device, graphs=graphs) for _ in range(streams)]
        self._free: queue.SimpleQueue[InferenceStream] = queue.SimpleQueue()
        for stream in self._streams:
            self._free.put(stream)

    def infer(self, images: Images) -> Confidence:
        """Run the network on host arrays: uint8 [N, S, S, 3] to uint8 [N, S, S], for any N >= 1.

        Raises:
            UsageError: the images have another shape or dtype.
            DeviceError: TensorRT or the device failed.
        """
        self._check_shape(images.shape)
        if images.dtype != np.uint8:
            raise UsageError(f"the images are {images.dtype}, not uint8")
        confidence = np.empty(images.shape[:3], np.uint8)
        self._in_batches(len(images), lambda sizes: self._infer_on_host(images, confidence, sizes))
        return confidence

    def _in_batches(self, count: int, run: Callable[[tuple[int, ...]], T]) -> T:
        """Call ``run`` with the sizes of the batches; if the device runs out of memory, free some and try again with smaller ones."""
        while True:
            sizes = split_batch(count, self.identity.options.profiles, self._limit.value)
            try:
                return run(sizes)
            except cuda.OutOfDeviceMemory as error:
                self._limit.halve(sizes[0], error)
                for _ in self._streams:
                    with self._borrowed() as stream:
                        stream.trim()

    def _infer_on_host(self, images: Images, confidence: Confidence, sizes: tuple[int, ...]) -> None:
        """Submit the batches to all free streams and collect the results in order."""
        under_way: deque[tuple[InferenceStream, Confidence]] = deque()
        try:
            for start, end in pairwise(accumulate(sizes, initial=0)):
                stream = self._take(under_way)
                # Append first, so that the stream is returned also if submit() fails.
                under_way.append((stream, confidence[start:end]))
                stream.submit(images[start:end])
            while under_way:
                self._collect(under_way)
        finally:
            for stream, _ in under_way:
                with contextlib.suppress(SesegError):
                    stream.stream.synchronize()
                self._free.put(stream)

    def _take(self, under_way: deque[tuple[InferenceStream, Confidence]]) -> InferenceStream:
        while True:
            try:
                return self._free.get(block=not under_way)
            except queue.Empty:
                # Other threads hold the remaining streams. Collect our own work instead of waiting for them: that could deadlock.
                self._collect(under_way)

    def _collect(self, under_way: deque[tuple[InferenceStream, Confidence]]) -> None:
        stream, confidence = under_way[0]
        stream.collect(confidence)
        under_way.popleft()
        self._free.put(stream)

    def infer_device(self, images: object, stream: object = None, out: DeviceArray | None = None) -> DeviceArray:
        """Run the network on an array in GPU memory, asynchronously in the order of the caller's stream.

        The first run of a batch size allocates memory and may wait for the device; see :meth:`warm_up`.

        Args:
            images: uint8 [N, S, S, 3], C-contiguous, with ``__cuda_array_interface__`` or DLPack.
            stream: the caller's stream: a handle, a stream object of any library, or None for CUDA's default stream.
            out: an array from an earlier call on the same stream to write into, or None for a new array.

        Returns:
            uint8 [N, S, S], ready for work that is enqueued on the caller's stream afterwards.

        Raises:
            UsageError: an array has the wrong shape, dtype or device, or is not contiguous.
            DeviceError: TensorRT or the device failed.
        """
        handle = stream_handle(stream)
        view = view_bytes(images, self._device, handle)
        self._check_shape(view.shape)
        if out is not None and out.shape != view.shape[:3]:
            raise UsageError(f"the output is {list(out.shape)}, and {list(view.shape[:3])} is needed")

        def run(sizes: tuple[int, ...]) -> DeviceArray:
            confidence = self._pool.array(view.shape[:3], handle) if out is None else out
            self._infer_on_device(view.address, confidence.address, sizes, handle)
            return confidence

        return self._in_batches(view.shape[0], run)

    def _infer_on_device(self, images: int, confidence: int, sizes: tuple[int, ...], handle: int) -> None:
        pixels = self.input_size**2
        for start, end in pairwise(accumulate(sizes, initial=0)):
            with self._borrowed() as lane, self._device.active():
                lane.stream.wait_for(handle)
                lane.enqueue(end - start, images + start * pixels * 3, confidence + start * pixels)
                lane.stream.hold_back(handle)

    def warm_up(self, *batches: int) -> None:
        """Run batches of the given sizes on every stream, so that later batches of at most these sizes allocate nothing."""
        size = self.input_size
        for batch in batches:
            for _ in self._streams:
                with self._borrowed() as lane:
                    blank = np.zeros((batch, size, size, 3), np.uint8)
                    lane.submit(blank)
                    lane.collect(np.empty((batch, size, size), np.uint8))

    def close(self) -> None:
        """Release contexts, memory and engine. The backend can't be used afterwards."""
        for stream in self._streams:
            stream.close()
        self._streams = []
        with self._device.active():
            self._engine = self._runtime = None
        self._pool.close()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[InferenceStream]:
        stream = self._free.get()
        try:
            yield stream
        finally:
            self._free.put(stream)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        size = self.input_size
        if len(shape) != 4 or shape[0] < 1 or tuple(shape[1:]) != (size, size, 3):
            raise UsageError(f"the images are {list(shape)}, and [N, {size}, {size}, 3] is needed")


def _deserialize(trt: Any, identity: PlanIdentity, payload: memoryview, plan: str | Path) -> tuple[Any, Any]:
    log, messages = logger(identity.runtime)
    title = FLAVOURS[identity.runtime].title
    with messages.kept() as said:
        runtime = trt.Runtime(log)
        if identity.options.version_compatible:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(payload)
        if engine is None and hasattr(runtime, "get_engine_validity"):
            _, bits = runtime.get_engine_validity(payload)
            said += [d.name for d in trt.EngineInvalidityDiagnostics.__members__.values() if int(bits) & int(d)]
    if engine is None:
        raise DeviceError("\n  ".join([f"{title} can't load the plan {plan}", *said]), "seseg-trt doctor says more")
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    if not {INPUT_NAME, OUTPUT_NAME} <= names <= {INPUT_NAME, OUTPUT_NAME, FLOAT_OUTPUT_NAME}:
        raise ModelError(f"the plan {plan} has {', '.join(sorted(names))}", "plans are built from graphs of this network")
    return runtime, engine
