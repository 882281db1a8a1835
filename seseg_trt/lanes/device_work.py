"""Sample, infer and composite images that are in GPU memory. The GPU lane and :class:`seseg_trt.Segmenter` share this module.

Work is enqueued asynchronously on a slot's stream. The one exception: taking a slot waits for its previous work, because the host
overwrites the slot's pinned records.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backends.base import DeviceBackend
from ..cuda.array import DeviceArray, DevicePool
from ..cuda.device import Device, Event, Stream
from ..errors import UsageError
from ..masks.kernels import Kernels, Workspace
from ..masks.launches import plan_composite, plan_sample
from ..masks.records import DeviceImage, DeviceSource
from ..masks.reference import random_key
from ..options import MaskOptions, OutputKind

SLOTS = 8
"""One slot for each of the seven threads that need one (two each decode, composite and encode, one infers), and one for a stuck thread."""
COLORED: tuple[OutputKind, OutputKind] = ("se", "nse")


class StreamSlot:
    """A CUDA stream with workspaces, used by one thread at a time, for one sampling and one compositing.

    Sampling and compositing need separate workspaces: the second would overwrite the records of the first before the device reads them.
    """

    def __init__(self, device: Device) -> None:
        self.stream: Stream = device.stream()
        self.sampling = Workspace(device)
        self.compositing = Workspace(device)
        self.done = Event(device)

    def close(self) -> None:
        """Wait for the slot's work and release its stream and memory."""
        self.stream.synchronize()
        self.sampling.close()
        self.compositing.close()
        self.done.close()
        self.stream.close()


class DeviceWork:
    """The kernels, network, memory pool and slots of a device.

    Args:
        device: the GPU.
        backend: the backend that runs the network on that GPU. The caller closes it.

    Raises:
        DeviceError: the kernels can't run on this GPU.
    """

    def __init__(self, device: Device, backend: DeviceBackend) -> None:
        self.device = device
        self.backend = backend
        self.size = backend.input_size
        self.pool = DevicePool(device)
        self._kernels = Kernels(device)
        self._free: queue.SimpleQueue[StreamSlot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(StreamSlot(device))

    @contextlib.contextmanager
    def slot(self) -> Iterator[StreamSlot]:
        """Yield a free slot, after waiting for its previous work."""
        slot = self._free.get()
        try:
            slot.done.synchronize()
            yield slot
        finally:
            slot.done.record(slot.stream)
            self._free.put(slot)

    def infer(self, sources: Sequence[DeviceSource], slot: StreamSlot, out: DeviceArray | None = None) -> DeviceArray:
        """Sample the network's inputs and run the network, in the order of the slot's stream.

        Args:
            sources: N images on the device.
            slot: the slot to work in.
            out: an array to write into, or None for a new one.

        Returns:
            The confidence maps, uint8 [N, S, S].

        Raises:
            DeviceError: the network or the device failed.
        """
        inputs = self.pool.array((len(sources), self.size, self.size, 3), slot.stream.handle)
        self._kernels.run(plan_sample(sources, self.size, inputs.address), slot.sampling, slot.stream)
        return self.backend.infer_device(inputs, slot.stream, out)

    def composite(self, images: Sequence[DeviceImage], options: MaskOptions, slot: StreamSlot) -> None:
        """Make the outputs of each image, in the order of the slot's stream."""
        plan = plan_composite(images, self.size, options.threshold, options.color)
        self._kernels.run(plan, slot.compositing, slot.stream)

    def close(self) -> None:
        """Release the free slots and the memory pool. The slot of a stuck thread is not released."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()
        self.pool.close()


def device_image(source: DeviceSource, confidence: int, options: MaskOptions, identity: bytes, **outputs: int) -> DeviceImage:
    """Describe an image and its outputs for the kernels.

    Args:
        source: the image's pixels.
        confidence: the address of the confidence map, uint8 [S, S].
        options: the mask colour, and the seed of a random one.
        identity: the key of the random colour.
        outputs: the addresses of ``se``, ``nse``, ``mask`` and ``bits``; an output without one is not made.
    """
    keys = [random_key(options.seed, identity, kind) if options.color == "random" else (0, 0) for kind in COLORED]
    return DeviceImage(
        source.width,
        source.height,
        confidence,
        source.pixels,
        source_pitch=source.pitch,
        se_key=keys[0],
        nse_key=keys[1],
        **outputs,
    )


def output_shape(kind: OutputKind, width: int, height: int) -> tuple[int, ...]:
    """Return the shape of an output: uint8 [H, W] for a mask, [H, W, 3] for the others."""
    return (height, width) if kind == "mask" else (height, width, 3)


def as_device_source(image: Any) -> DeviceSource:
    """Return the address, size and pitch of an image on the device.

    Args:
        image: uint8 [H, W, 3] with ``__cuda_array_interface__``. Rows may be padded.

    Raises:
        UsageError: the array has another shape or dtype, or gaps between pixels.
    """
    interface = image.__cuda_array_interface__
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or np.dtype(interface["typestr"]) != np.uint8:
        raise UsageError(f"an image on the GPU is {interface['typestr']} {list(shape)}, not uint8 [H, W, 3]")
    if strides is not None and tuple(strides[1:]) != (3, 1):
        raise UsageError("an image on the GPU has gaps between its pixels", "make it contiguous")
    pitch = 0 if strides is None else int(strides[0])
    return DeviceSource(int(shape[1]), int(shape[0]), int(interface["data"][0]), pitch)
