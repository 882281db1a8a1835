"""The GPU lane: DALI decodes, a TensorRT plan infers, the kernels composite, and nvJPEG encodes. Pixels stay on the device.

Each step ends by waiting for its own stream, so that its time can be measured and its inputs can be freed. The steps of different batches
overlap, because they run in different threads on different streams. No step waits for the whole device.

``--memory`` bounds device memory too: an image takes 3 bytes a pixel decoded and at most 8 for outputs, of the 20 bytes that the run
reserves before it reads an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..backends.base import DeviceBackend
from ..codecs.batches import DecodeItems, Decoding
from ..codecs.pillow import DecodedImage
from ..cores import usable_cores
from ..cuda.array import DeviceView
from ..cuda.device import Device, Stream, open_device
from ..cuda.driver import parse_device
from ..errors import BadImage
from ..masks.measure import measure_mask
from ..masks.records import DeviceSource
from ..options import LaneOptions, MaskOptions, OutputKind
from .base import Frame, Lane, open_decoders
from .device_work import DeviceWork, StreamSlot, as_device_source, device_image, output_shape

if TYPE_CHECKING:
    from ..codecs.dali import DaliResampler
    from ..codecs.nvimgcodec import NvimgcodecEncoder

BATCH = 64
"""The largest batch for the network."""


class OnDevice(NamedTuple):
    """An image on the device, and the object that keeps its memory alive."""

    source: DeviceSource
    owner: Any


class GPULane(Lane):
    """A lane that works on one GPU. The host reads headers, writes PNGs, and decodes what the native decoders can't.

    Args:
        work: the network and the kernels.
        options: the user's options.
        decoder: decodes files to pixels, on the host or on the device, ready for any stream.
        resampler: makes the network's input on the device; None for NEAREST, as Pillow 5 computes it.
        encoder: encodes the lossy format on the device; None to encode on the host.
        batch_size: the network's batch size.
    """

    name = "gpu"
    infer_workers = 1  # inference is asynchronous, so one thread keeps the GPU busy

    def __init__(
        self,
        work: DeviceWork,
        options: LaneOptions,
        decoder: Decoding,
        resampler: DaliResampler | None = None,
        encoder: NvimgcodecEncoder | None = None,
        batch_size: int = BATCH,
    ) -> None:
        super().__init__(work.backend, options, decoder, resampler)
        self._work = work
        self._encoder = encoder
        self.batch_size = batch_size

    def _held(self, images: Sequence[DecodedImage]) -> Iterator[tuple[OnDevice, OnDevice]]:
        """Copy images decoded on the host to the device, and make the network's inputs."""
        arrays = [i.image if hasattr(i.image, "__cuda_array_interface__") else np.asarray(i.image) for i in images]
        host = [index for index, array in enumerate(arrays) if isinstance(array, np.ndarray)]
        if host:
            with self._work.slot() as slot:
                for index, piece in zip(host, self._pieces([arrays[i].shape for i in host], slot), strict=True):
                    slot.stream.copy_in(piece.address, np.ascontiguousarray(arrays[index]))
                    arrays[index] = piece
                slot.stream.synchronize()
        held = [OnDevice(as_device_source(array), array) for array in arrays]
        if self._resampler is None or not arrays:
            return zip(held, held, strict=True)
        return zip(held, [OnDevice(as_device_source(array), array) for array in self._resampler.resample(arrays)], strict=True)

    def _pieces(self, shapes: Sequence[tuple[int, ...]], slot: StreamSlot) -> list[DeviceView]:
        return self._work.pool.arrays(shapes, slot.stream.handle)

    def infer(self, batch: Sequence[Frame]) -> None:
        """Sample the network's inputs, run the network and set each frame's ``confidence``."""
        size = self.input_size
        with self._work.slot() as slot:
            maps = self._work.infer([frame.network_input.source for frame in batch], slot)
            slot.stream.synchronize()
        for index, frame in enumerate(batch):
            frame.confidence = DeviceView(maps.address + index * size**2, (size, size), maps.stream, maps)
            frame.network_input = None

    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs at its image's size. Masks with a threshold are packed to 1 bit a pixel."""
        if self._masks.outputs:
            with self._work.slot() as slot:
                self._composite(batch, slot)
                slot.stream.synchronize()
        if self._measure:
            self._measure_all(batch)
        for frame in batch:
            frame.image = frame.confidence = None

    def _composite(self, batch: Sequence[Frame], slot: StreamSlot) -> None:
        packed = self._masks.threshold is not None
        wanted = [(frame, kind) for frame in batch for kind in self._masks.outputs]
        widths = [-(-frame.width // 8) if packed and kind == "mask" else frame.width for frame, kind in wanted]
        shapes = [output_shape(kind, width, frame.height) for (frame, kind), width in zip(wanted, widths, strict=True)]
        for (frame, kind), piece in zip(wanted, self._pieces(shapes, slot), strict=True):
            frame.rendered[kind] = piece
        images = [
            device_image(
                frame.image.source,
                frame.confidence.address,
                self._masks,
                frame.identity,
                **{"bits" if kind == "mask" and packed else kind: piece.address for kind, piece in frame.rendered.items()},
            )
            for frame in batch
        ]
        self._work.composite(images, self._masks, slot)

    def _measure_all(self, batch: Sequence[Frame]) -> None:
        opacity = MaskOptions(outputs=("mask",))
        with self._work.slot() as slot:
            pieces = self._pieces([(frame.height, frame.width) for frame in batch], slot)
            images = [
                device_image(frame.image.source, frame.confidence.address, opacity, b"", mask=piece.address)
                for frame, piece in zip(batch, pieces, strict=True)
            ]
            self._work.composite(images, opacity, slot)
            maps = self._to_host(pieces, slot.stream)
        for frame, pixels in zip(batch, maps, strict=True):
            frame.measured = measure_mask(pixels, self._masks.threshold, rle=self._measure == "rle")

    def _to_host(self, pieces: Sequence[DeviceView], stream: Stream) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
        host = [self._work.device.pinned(piece.shape) for piece in pieces]
        for array, piece in zip(host, pieces, strict=True):
            stream.copy_out(array, piece.address)
        stream.synchronize()
        return host

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Encode each frame's outputs: masks as PNG, the others in the user's format."""
        encoder = self._encoder
        rendered = [(kind, piece) for frame in batch for kind, piece in frame.rendered.items()]
        there = [piece for kind, piece in rendered if encoder is not None and kind != "mask"]
        here = [piece for kind, piece in rendered if encoder is None or kind == "mask"]
        with self._work.slot() as slot:
            files = iter(encoder.encode(there, slot.stream.handle) if encoder is not None and there else [])
            pixels = iter(self._to_host(here, slot.stream))
        results: list[Any] = []
        for frame in batch:
            made = {
                kind: self._encode_on_host(next(pixels), kind, frame.width) if encoder is None or kind == "mask" else next(files)
                for kind in frame.rendered
            }
            results.append(next((file for file in made.values() if isinstance(file, BadImage)), made))
        for frame in batch:  # at the end, because a batch that fails is tried again
            frame.rendered.clear()
        return results

    def _encode_on_host(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], kind: OutputKind, width: int) -> bytes | BadImage:
        if kind == "mask" and self._masks.threshold is not None:
            pixels = np.negative(np.unpackbits(pixels, axis=1, count=width))  # from 1 bit a pixel to 0 and 255
        try:
            return self._file(pixels, kind)
        except BadImage as bad:
            return bad

    def close(self) -> None:
        """Release the device and the network."""
        self._work.close()
        self._work.backend.close()


def _make_ready_items(device: Device, threads: int) -> DecodeItems:
    """Create an nvImageCodec decoder on the device whose results are ready for any stream."""
    from ..codecs.nvimgcodec import NvimgcodecDecoder

    decoder, stream = NvimgcodecDecoder(threads, device.gpu.index), device.stream()

    def decode(batch: Sequence[bytes]) -> list[Any | None]:
        images = decoder.decode(batch, stream.handle)
        stream.synchronize()
        return images

    return decode


def open_gpu_lane(backend: DeviceBackend, options: LaneOptions) -> GPULane:
    """Create the lane for the GPU of a backend.

    Args:
        backend: a backend with a loaded plan. The lane closes it.
        options: the user's options.

    Raises:
        DeviceError: DALI, nvImageCodec or the kernels can't run on this GPU.
    """
    device = open_device(parse_device(backend.device))
    index, threads = device.gpu.index, max(1, usable_cores() // 2)
    work = DeviceWork(device, backend)
    batch = min(BATCH, int(getattr(getattr(backend, "identity", None), "max_batch", BATCH)))
    decoders = open_decoders(options.decoding, work.size, batch, threads, index, lambda: _make_ready_items(device, threads))
    encoder = None
    if options.encoding.format == "jpg" and set(options.masks.outputs) - {"mask"}:
        from ..codecs.nvimgcodec import NvimgcodecEncoder

        encoder = NvimgcodecEncoder(options.encoding, 1, index)
    return GPULane(work, options, *decoders, encoder, batch)
