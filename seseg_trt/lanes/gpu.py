"""The GPU lane: DALI decodes, the plan infers, the kernels composite, nvJPEG encodes. Pixels stay on the device.

Each step waits at its end for its own stream alone, so that a step's time is its own and its inputs may be given up; the steps of
different batches overlap because they run in different threads, on different streams. Nothing waits for the device as a whole.

What an image holds on the device is bounded by what it holds in flight (``--memory``): 3 bytes a pixel decoded and at most 8 of
outputs, of the 20 for which the run asks before it reads an image.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..backends.base import DeviceBackend
from ..codecs import pillow
from ..codecs.batches import DecodedImage, Decoding, PillowDecoding
from ..codecs.headers import probe_pixels
from ..codecs.png import encode_png
from ..cuda import Device, Stream, open_device, parse_device
from ..errors import BadImage
from ..masks.kernels import DeviceSource
from ..masks.measure import measure_mask
from ..options import DecodeOptions, EncodeOptions, MaskOptions, OutputKind
from .base import Frame, Measure, Source
from .device_work import DeviceWork, Picture, Piece, Room, cut, look

BATCH = 64
"""Images that the network gets at once, at most."""


class Decoder(Protocol):
    """:class:`seseg_trt.codecs.batches.Decoding`, or Pillow alone."""

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        """Decode; arrays are ready on the device, for any stream."""
        ...


class Resampler(Protocol):
    """:class:`seseg_trt.codecs.dali.DaliResampler`."""

    def resample(self, images: Sequence[Any]) -> list[Any]:
        """Return uint8 [S, S, 3] for each, ready on the device, for any stream."""
        ...


class Encoder(Protocol):
    """:class:`seseg_trt.codecs.nvimgcodec.NvimgcodecEncoder`."""

    def encode(self, images: Sequence[Any], stream: int | None = None) -> list[bytes | BadImage]:
        """Encode arrays of the device."""
        ...


@dataclasses.dataclass(slots=True)
class OnDevice:
    """What a frame has on the device. ``owners`` keep the memory alive; ``source`` is the image, ``sampled`` what the network sees of it."""

    source: DeviceSource
    sampled: DeviceSource
    owners: tuple[Any, ...]
    confidence: int = 0


class GPULane:
    """Everything on one GPU but the reading of headers, PNG's deflate and what native decoders don't take.

    Args:
        work: the network and the kernels.
        masks, encoding: what the user chose.
        decoder: makes pixels, on the host or on the device.
        resampler: makes the network's input; None: NEAREST, by the contract's table.
        encoder: of the lossy format that is chosen, on the device; None: on the host.
        measure: what of each mask is measured.
        batch_size: of the network.
    """

    name = "gpu"
    infer_workers = 1  # one thread keeps a GPU fed: it only begins work there

    def __init__(
        self,
        work: DeviceWork,
        masks: MaskOptions,
        encoding: EncodeOptions,
        decoder: Decoder,
        resampler: Resampler | None = None,
        encoder: Encoder | None = None,
        measure: Measure = None,
        batch_size: int = BATCH,
    ) -> None:
        self._work = work
        self._masks = masks
        self._encoding = encoding
        self._decoder = decoder
        self._resampler = resampler
        self._encoder = encoder
        self._measure = measure
        self.batch_size = batch_size
        self.input_size = work.size
        self.description = work.backend.description
        pillow.probe_pixels(b"\0")  # so that the start-up pays for loading Pillow's formats, and not the first image

    def pixels(self, source: Source) -> int:
        """Return the image's pixel count from its header. See :class:`seseg_trt.lanes.base.Lane`."""
        return probe_pixels(source.data)

    def decode(self, batch: Sequence[Source]) -> list[Frame | BadImage]:
        """Decode the sources together; what was decoded on the host is brought to the device."""
        decoded = self._decoder.decode([source.data for source in batch])
        good = [image for image in decoded if isinstance(image, DecodedImage)]
        arrays = self._on_device(good)
        sampled = arrays if self._resampler is None or not arrays else self._resampler.resample(arrays)
        held = iter([OnDevice(look(a), look(s), (a, s)) for a, s in zip(arrays, sampled, strict=True)])
        return [
            Frame(source.identity, image.width, image.height, image.decoded_by, next(held), None)
            if isinstance(image, DecodedImage)
            else image
            for source, image in zip(batch, decoded, strict=True)
        ]

    def _on_device(self, images: list[DecodedImage]) -> list[Any]:
        arrays = [i.image if hasattr(i.image, "__cuda_array_interface__") else np.asarray(i.image) for i in images]
        host = [index for index, array in enumerate(arrays) if isinstance(array, np.ndarray)]
        if not host:
            return arrays
        with self._work.room() as room:
            for index, piece in zip(host, self._slab([arrays[i].shape for i in host], room), strict=True):
                room.stream.copy_in(piece.address, np.ascontiguousarray(arrays[index]))
                arrays[index] = piece
            room.stream.synchronize()
        return arrays

    def _slab(self, shapes: Sequence[tuple[int, ...]], room: Room) -> list[Piece]:
        return cut(lambda nbytes: self._work.pool.array((nbytes,), room.stream.handle), shapes)

    def infer(self, batch: Sequence[Frame]) -> None:
        """Sample the batch's inputs and run the network on them."""
        with self._work.room() as room:
            maps = self._work.infer([frame.image.sampled for frame in batch], room)
            room.stream.synchronize()
        for index, frame in enumerate(batch):
            held = frame.image
            held.confidence = maps.address + index * self.input_size**2
            held.owners += (maps,)

    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs at the size of its image; a mask of two levels is packed to bits."""
        if self._masks.outputs:
            with self._work.room() as room:
                self._composite(batch, room)
                room.stream.synchronize()
        if self._measure:
            self._measure_all(batch)
        for frame in batch:
            frame.image = None

    def _composite(self, batch: Sequence[Frame], room: Room) -> None:
        packed = self._masks.threshold is not None
        wanted = [(frame, kind) for frame in batch for kind in self._masks.outputs]
        pieces = self._slab([_shape(frame, kind, packed) for frame, kind in wanted], room)
        addresses: dict[int, dict[str, int]] = {}
        for (frame, kind), piece in zip(wanted, pieces, strict=True):
            frame.rendered[kind] = piece
            addresses.setdefault(id(frame), {})["bits" if kind == "mask" and packed else kind] = piece.address
        pictures = [Picture(f.image.source, f.image.confidence, f.identity, **addresses[id(f)]) for f in batch]
        self._work.composite(pictures, self._masks, room)

    def _measure_all(self, batch: Sequence[Frame]) -> None:
        opacity = MaskOptions(outputs=("mask",))
        with self._work.room() as room:
            pieces = self._slab([(frame.height, frame.width) for frame in batch], room)
            pictures = [
                Picture(frame.image.source, frame.image.confidence, mask=piece.address) for frame, piece in zip(batch, pieces, strict=True)
            ]
            self._work.composite(pictures, opacity, room)
            maps = self._to_host(pieces, room.stream)
        for frame, pixels in zip(batch, maps, strict=True):
            frame.measured = measure_mask(pixels, self._masks.threshold, rle=self._measure == "rle")

    def _to_host(self, pieces: Sequence[Piece], stream: Stream) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
        host = [self._work.device.pinned(piece.shape) for piece in pieces]
        for array, piece in zip(host, pieces, strict=True):
            stream.copy_out(array, piece.address)
        stream.synchronize()
        return host

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Encode each frame's outputs: masks always as PNG, the others as the user chose."""
        rendered = [(index, kind, piece) for index, frame in enumerate(batch) for kind, piece in frame.rendered.items()]
        there = [r for r in rendered if self._encoder is not None and r[1] != "mask"]
        here = [r for r in rendered if self._encoder is None or r[1] == "mask"]
        results: list[dict[OutputKind, bytes] | BadImage] = [{} for _ in batch]
        with self._work.room() as room:
            files = self._encoder.encode([r[2] for r in there], room.stream.handle) if self._encoder is not None and there else []
            pixels = self._to_host([r[2] for r in here], room.stream)
        for (index, kind, _), file in zip(there, files, strict=True):
            _keep(results, index, kind, file)
        for (index, kind, _), array in zip(here, pixels, strict=True):
            _keep(results, index, kind, self._encode_on_host(array, kind, batch[index].width))
        for frame in batch:
            frame.rendered.clear()
        return list(results)

    def _encode_on_host(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], kind: OutputKind, width: int) -> bytes | BadImage:
        try:
            if kind == "mask":
                return encode_png(pixels if self._masks.threshold is None else _unpacked(pixels, width))
            if self._encoding.format == "png":
                return encode_png(pixels)
            from PIL import Image

            return pillow.encode_lossy(Image.fromarray(pixels), self._encoding)
        except BadImage as bad:
            return bad

    def close(self) -> None:
        """Give back the device and the network."""
        self._work.close()
        self._work.backend.close()


def _shape(frame: Frame, kind: OutputKind, packed: bool) -> tuple[int, ...]:
    if kind != "mask":
        return frame.height, frame.width, 3
    return frame.height, -(-frame.width // 8) if packed else frame.width


def _unpacked(bits: np.ndarray[Any, np.dtype[np.uint8]], width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a mask of 0 and 255, uint8 [H, W], of one of bits."""
    return np.negative(np.unpackbits(bits, axis=1, count=width))


def _keep(results: list[dict[OutputKind, bytes] | BadImage], index: int, kind: OutputKind, file: bytes | BadImage) -> None:
    so_far = results[index]
    if isinstance(file, BadImage):
        results[index] = file
    elif isinstance(so_far, dict):
        so_far[kind] = file


class _ReadyItems:
    """nvImageCodec on the device, with results that are ready for any stream."""

    def __init__(self, device: Device, threads: int) -> None:
        from ..codecs.nvimgcodec import NvimgcodecDecoder

        self._decoder = NvimgcodecDecoder(threads, device.gpu.index)
        self._stream = device.stream()

    def decode(self, batch: Sequence[bytes]) -> list[Any | None]:
        images = self._decoder.decode(batch, self._stream.handle)
        self._stream.synchronize()
        return images


def open_gpu_lane(
    backend: DeviceBackend, masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions, measure: Measure = None
) -> GPULane:
    """Make the lane of a GPU on which a plan is loaded.

    Raises:
        DeviceError: DALI, nvImageCodec or the kernels can't run there.
    """
    device = open_device(parse_device(backend.device))
    index, threads = device.gpu.index, max(1, len(os.sched_getaffinity(0)) // 2)
    work = DeviceWork(device, backend)
    batch = min(BATCH, int(getattr(getattr(backend, "identity", None), "max_batch", BATCH)))
    decoder: Decoder = PillowDecoding(decoding)
    resampler: Resampler | None = None
    encoder: Encoder | None = None
    if decoding.decoder == "dali":
        from ..codecs.dali import DaliDecoder, DaliResampler

        decoder = Decoding(decoding, DaliDecoder(batch, threads, index), lambda: _ReadyItems(device, threads))
        if decoding.resample != "nearest":
            resampler = DaliResampler(work.size, decoding.resample, batch, threads, index)
    if encoding.format == "jpg" and set(masks.outputs) - {"mask"}:
        from ..codecs.nvimgcodec import NvimgcodecEncoder

        encoder = NvimgcodecEncoder(encoding, 1, index)
    return GPULane(work, masks, encoding, decoder, resampler, encoder, measure, batch)
