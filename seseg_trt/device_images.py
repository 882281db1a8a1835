"""Images of a caller that are on the GPU already: masked there, in the order of the caller's stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from .backends.base import DeviceBackend
from .cuda import open_device, parse_device, stream_handle
from .cuda_array import DeviceArray, view_bytes
from .errors import UsageError
from .lanes.device_work import DeviceWork, Picture, Room
from .masks.kernels import DeviceSource
from .options import MaskOptions, OutputKind


class DeviceSegmenter:
    """The part of :class:`seseg_trt.Segmenter` that needs a GPU.

    Args:
        backend: the network; its owner closes it.

    Raises:
        DeviceError: there are no kernels for this GPU.
    """

    def __init__(self, backend: DeviceBackend) -> None:
        self._device = open_device(parse_device(backend.device))
        self._work = DeviceWork(self._device, backend)

    def confidence(self, images: Any, stream: object) -> DeviceArray:
        """See :meth:`seseg_trt.Segmenter.confidence`."""
        handle = stream_handle(stream)
        sources = self._sources(images, handle)
        size = self._work.size
        maps = self._work.pool.array((len(sources), size, size), handle)
        with self._between(handle) as room:
            self._work.infer(sources, room, maps)
        return maps

    def composite(self, images: Any, options: MaskOptions, stream: object) -> list[dict[OutputKind, DeviceArray]]:
        """See :meth:`seseg_trt.Segmenter.composite`."""
        handle = stream_handle(stream)
        sources = self._sources(images, handle)
        outputs: list[dict[OutputKind, DeviceArray]] = [
            {kind: self._work.pool.array(_shape(source, kind), handle) for kind in options.outputs} for source in sources
        ]
        if not options.outputs:
            return outputs
        with self._between(handle) as room:
            maps = self._work.infer(sources, room)
            pictures = [
                Picture(
                    source,
                    maps.address + index * self._work.size**2,
                    str(index).encode(),
                    **{kind: array.address for kind, array in made.items()},
                )
                for index, (source, made) in enumerate(zip(sources, outputs, strict=True))
            ]
            self._work.composite(pictures, options, room)
        return outputs

    @contextlib.contextmanager
    def _between(self, handle: int) -> Iterator[Room]:
        """Work in a room after what is on the caller's stream, and before what comes there next."""
        with self._work.room() as room:
            room.stream.wait_for(handle)
            try:
                yield room
            finally:
                # Also after a failure: what was enqueued may still use the caller's arrays.
                room.stream.hold_back(handle)

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
        """Give back streams and memory."""
        self._work.close()


def _shape(source: DeviceSource, kind: OutputKind) -> tuple[int, ...]:
    return (source.height, source.width) if kind == "mask" else (source.height, source.width, 3)
