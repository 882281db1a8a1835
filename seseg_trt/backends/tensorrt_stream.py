"""Run a TensorRT engine on one CUDA stream, with its own execution contexts, memory and CUDA graphs.

Streams share the engine, but not contexts. A context serves one profile. If its work may be captured as a CUDA graph it also serves one
batch size, because a change of shape invalidates the graph (TensorRT's guide: one context for each captured graph). All contexts of a
stream share one scratch buffer, sized for the largest batch so far. TensorRT's own allocation would be sized for the profile's
largest batch, so a smaller batch would not save memory.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cuda.device import Buffer, Device, Graph, Stream
from ..errors import DeviceError
from ..models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME
from ..models.plan_identity import PlanIdentity
from .batching import GraphCache, choose_profile
from .tensorrt_api import FLAVOURS

_log = logging.getLogger(__name__)

MAX_GRAPH_BATCH = 32
"""The largest batch for which CUDA graphs are used. The launches of hundreds of kernels dominate a small batch; a large one hides them."""

_FLOAT_BYTES = 4

_ContextKey = tuple[int, int]
"""A profile's index, and the only batch size of the context, or 0 for any."""


class InferenceStream:
    """A CUDA stream that runs an engine. Not thread-safe.

    Args:
        trt: the TensorRT module.
        engine: a deserialised engine.
        identity: the identity of the engine's plan.
        device: the engine's device.
        graphs: whether CUDA graphs may be used.
    """

    def __init__(self, trt: Any, engine: Any, identity: PlanIdentity, device: Device, *, graphs: bool = True) -> None:
        self._trt = trt
        self._engine = engine
        self._identity = identity
        self._device = device
        self._own_graphs = graphs and not FLAVOURS[identity.runtime].own_graphs
        self._runtime_graphs = graphs and FLAVOURS[identity.runtime].own_graphs
        self._contexts: dict[_ContextKey, Any] = {}
        self._bound: dict[_ContextKey, tuple[int, int, int]] = {}
        self._graphs = GraphCache()
        self._scratch: Buffer | None = None
        self._sink: Buffer | None = None
        self._staging: _Staging | None = None
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._has_float_output = FLOAT_OUTPUT_NAME in names
        self.stream: Stream = device.stream()

    def enqueue(self, batch: int, images: int, confidence: int) -> None:
        """Enqueue the network on this stream, without waiting.

        Args:
            batch: the number of images; a profile must accept it.
            images: the address of uint8 [batch, S, S, 3] on the device.
            confidence: the address of uint8 [batch, S, S] on the device.

        Raises:
            OutOfDeviceMemory: there is too little scratch memory for this batch. Nothing was enqueued.
            DeviceError: no profile accepts the batch, or TensorRT failed.
        """
        profile = choose_profile(self._identity.options.profiles, batch)
        if profile is None:
            raise DeviceError(f"the plan has no profile for a batch of {batch}")
        with self._device.active():
            key = (profile, batch if self._may_replay(batch) else 0)
            context = self._context(key)
            self._bind(key, context, batch, images, confidence)
            graph = self._graph(context, (batch, images, confidence))
            if graph is None:
                self._execute(context)
            else:
                graph.launch(self.stream)

    def _may_replay(self, batch: int) -> bool:
        return self._own_graphs and batch <= MAX_GRAPH_BATCH

    def _graph(self, context: Any, key: tuple[int, int, int]) -> Graph | None:
        if not self._may_replay(key[0]):
            return None
        try:
            return self._graphs.get(key, lambda: self.stream.capture(lambda: self._execute(context)))
        except DeviceError as error:
            _log.warning("CUDA graphs are switched off: %s", error.message)
            self._own_graphs = False
            self._graphs.clear()
            return None

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self.stream.handle):
            raise DeviceError(f"{FLAVOURS[self._identity.runtime].title} failed to run the network", "the log has what it said")

    def _context(self, key: _ContextKey) -> Any:
        context = self._contexts.get(key)
        if context is None:
            trt, engine = self._trt, self._engine
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            if self._runtime_graphs:
                runtime_config = engine.create_runtime_config()
                runtime_config.set_execution_context_allocation_strategy(strategy)
                runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                strategy = runtime_config
            context = engine.create_execution_context(strategy)
            if context is None or not context.set_optimization_profile_async(key[0], self.stream.handle):
                raise DeviceError("TensorRT can't make an execution context", "the log has what it said")
            self._contexts[key] = context
        return context

    def _bind(self, key: _ContextKey, context: Any, batch: int, images: int, confidence: int) -> None:
        wanted = (batch, images, confidence)
        if self._bound.get(key) == wanted:
            return
        bound = True
        if self._bound.pop(key, (0,))[0] != batch:
            size = self._identity.input_size
            bound = context.set_input_shape(INPUT_NAME, (batch, size, size, 3))
            self._ensure_memory(batch, context.update_device_memory_size_for_shapes())
        if self._scratch is not None:
            context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        bound = bound and context.set_tensor_address(INPUT_NAME, images)
        bound = bound and context.set_tensor_address(OUTPUT_NAME, confidence)
        if self._sink is not None:
            bound = bound and context.set_tensor_address(FLOAT_OUTPUT_NAME, self._sink.address)
        if not bound:
            raise DeviceError(f"TensorRT does not take a batch of {batch}", "the log has what it said")
        self._bound[key] = wanted

    def _ensure_memory(self, batch: int, scratch: int) -> None:
        # The float output is not used, but TensorRT needs memory to write it to.
        sink = batch * self._identity.input_size**2 * _FLOAT_BYTES if self._has_float_output else 0
        if self._scratch is None or scratch > self._scratch.nbytes or (sink and (self._sink is None or self._sink.nbytes < sink)):
            self._forget_memory()
            self._scratch = self._device.allocate(scratch)
            self._sink = self._device.allocate(sink) if sink else None

    def _forget_memory(self) -> None:
        # Work in flight still writes to this memory, and graphs and contexts refer to its addresses.
        self.stream.synchronize()
        self._graphs.clear()
        self._bound.clear()
        for buffer in (self._scratch, self._sink):
            if buffer is not None:
                buffer.free()
        self._scratch = self._sink = None

    def submit(self, images: npt.NDArray[np.uint8]) -> None:
        """Enqueue the network on host images, uint8 [N, S, S, 3], without waiting. Call :meth:`collect` next."""
        staging = self._staging
        if staging is None or staging.capacity < len(images):
            self.trim()
            staging = self._staging = _Staging(self._device, len(images), self._identity.input_size)
        np.copyto(staging.host_images[: len(images)], images)
        with self._device.active():
            self.stream.copy_in(staging.images.address, staging.host_images[: len(images)])
            self.enqueue(len(images), staging.images.address, staging.confidence.address)
            self.stream.copy_out(staging.host_confidence[: len(images)], staging.confidence.address)

    def collect(self, confidence: npt.NDArray[np.uint8]) -> None:
        """Wait for the submitted images and write their maps into ``confidence``, uint8 [N, S, S]."""
        self.stream.synchronize()
        if self._staging is not None:
            np.copyto(confidence, self._staging.host_confidence[: len(confidence)])

    def trim(self) -> None:
        """Release scratch and staging memory. It is allocated again when it is needed."""
        self._forget_memory()
        if self._staging is not None:
            self._staging.free()
            self._staging = None

    def close(self) -> None:
        """Wait for the stream's work and release everything."""
        self.trim()
        with self._device.active():
            self._contexts.clear()
        self.stream.close()


class _Staging:
    """Pinned host arrays and device buffers for inference on host images."""

    def __init__(self, device: Device, capacity: int, size: int) -> None:
        self.capacity = capacity
        # Allocate pinned memory first: it returns to its pool by itself if the device allocations fail.
        self.host_images: npt.NDArray[np.uint8] = device.pinned((capacity, size, size, 3))
        self.host_confidence: npt.NDArray[np.uint8] = device.pinned((capacity, size, size))
        self.images = device.allocate(capacity * size * size * 3)
        try:
            self.confidence = device.allocate(capacity * size * size)
        except DeviceError:
            self.images.free()
            raise

    def free(self) -> None:
        """Free the device memory. Pinned memory returns to its pool by itself."""
        self.images.free()
        self.confidence.free()
