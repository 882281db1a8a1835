"""Mask a caller's images that are in GPU memory, in the order of the caller's stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ..backends.base import DeviceBackend
from ..cuda.array import DeviceArray, view_bytes
from ..cuda.device import open_device
from ..cuda.driver import parse_device, stream_handle
from ..errors import UsageError
from ..masks.records import DeviceSource
from ..options import MaskOptions, OutputKind
from .device_work import DeviceWork, StreamSlot, device_image, output_shape


class DeviceSegmenter:
    """The part of :class:`seseg_trt.Segmenter` that handles images on a GPU.

    Args:
        backend: the backend that runs the network. The caller closes it.

    Raises:
        DeviceError: the kernels can't run on this GPU.
    """

    def __init__(self, backend: DeviceBackend) -> None:
        self._device = open_device(parse_device(backend.device))
        self._work = DeviceWork(self._device, backend)

    def confidence(self, images: Any, stream: object) -> DeviceArray:
        """Return the confidence maps; see :meth:`seseg_trt.Segmenter.confidence`."""
        handle = stream_handle(stream)
        sources = self._sources(images, handle)
        size = self._work.size
        maps = self._work.pool.array((len(sources), size, size), handle)
        with self._between(handle) as slot:
            self._work.infer(sources, slot, maps)
        return maps

    def composite(self, images: Any, options: MaskOptions, stream: object) -> list[dict[OutputKind, DeviceArray]]:
        """Return each image's outputs; see :meth:`seseg_trt.Segmenter.composite`."""
        handle = stream_handle(stream)
        sources = self._sources(images, handle)
        outputs: list[dict[OutputKind, DeviceArray]] = [
            {kind: self._work.pool.array(output_shape(kind, source.width, source.height), handle) for kind in options.outputs}
            for source in sources
        ]
        if not options.outputs:
            return outputs
        with self._between(handle) as slot:
            maps = self._work.infer(sources, slot)
            described = [
                device_image(
                    source,
                    maps.address + index * self._work.size**2,
                    options,
                    str(index).encode(),
                    **{kind: array.address for kind, array in made.items()},
                )
                for index, (source, made) in enumerate(zip(sources, outputs, strict=True))
            ]
            self._work.composite(described, options, slot)
        return outputs

    @contextlib.contextmanager
    def _between(self, handle: int) -> Iterator[StreamSlot]:
        """Yield a slot whose work runs after the present work and before the later work of the caller's stream."""
        with self._work.slot() as slot:
            slot.stream.wait_for(handle)
            try:
                yield slot
            finally:
                # Wait also after a failure: work that was enqueued may still use the caller's arrays.
                slot.stream.hold_back(handle)

    def _sources(self, images: Any, handle: int) -> list[DeviceSource]:
        if isinstance(images, Sequence):
            return [self._source(index, image, handle) for index, image in enumerate(images)]
        view = view_bytes(images, self._device, handle)
        if len(view.shape) != 4 or view.shape[3] != 3 or 0 in view.shape:
            raise UsageError(f"the images are {list(view.shape)}, not uint8 [N, H, W, 3]", "pass a list for images of several sizes")
        count, height, width, _ = view.shape
        return [DeviceSource(width, height, view.address + index * height * width * 3) for index in range(count)]

    def _source(self, index: int, image: Any, handle: int) -> DeviceSource:
        view = view_bytes(image, self._device, handle)
        if len(view.shape) != 3 or view.shape[2] != 3 or 0 in view.shape:
            raise UsageError(f"image {index} is {list(view.shape)}, not uint8 [H, W, 3]", "move the channels to the end")
        return DeviceSource(view.shape[1], view.shape[0], view.address)

    def close(self) -> None:
        """Release streams and memory."""
        self._work.close()
