"""The lane interface: the four steps from an input file's bytes to its output files' bytes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..codecs import pillow
from ..codecs.batches import DecodeItems, Decoding
from ..codecs.native import probe_pixels
from ..codecs.pillow import DecodedImage
from ..codecs.png import encode_png
from ..errors import BadImage
from ..options import DecodeOptions, LaneOptions, OutputKind

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..codecs.dali import DaliResampler


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """An input file.

    Attributes:
        identity: the input's relative path, ``/``-separated, as bytes. It is the key of the random colour.
        data: the file's bytes.
    """

    identity: bytes
    data: bytes


@dataclasses.dataclass(slots=True)
class Frame:
    """The state of an image between the steps of a lane. Each lane chooses the types of the fields typed ``Any``.

    Attributes:
        identity: the source's identity.
        width, height: the image's size in pixels, with its orientation applied.
        decoded_by: the library that decoded it.
        image: the decoded pixels.
        network_input: uint8 [S, S, 3]; on a GPU, what the kernels sample it from. Released by ``infer``.
        confidence: the confidence map, uint8 [S, S]; set by ``infer``.
        rendered: the outputs' pixels; set by ``composite``.
        measured: measurements of the mask, if requested (see :mod:`seseg_trt.masks.measure`); set by ``composite``.
    """

    identity: bytes
    width: int
    height: int
    decoded_by: str
    image: Any
    network_input: Any
    confidence: Any = None
    rendered: dict[OutputKind, Any] = dataclasses.field(default_factory=dict)
    measured: dict[str, Any] | None = None


class Lane(abc.ABC):
    """The four steps of processing. Each step takes a batch, and the steps may run at once in several threads on different batches.

    A step reports failures for each item separately: a bad image does not affect the others of its batch.

    Args:
        backend: the backend. The lane closes it.
        options: the user's options.
        decoder: decodes files to pixels.
        resampler: makes the network's input; None for NEAREST, as Pillow 5 computes it.

    Attributes:
        name: ``cpu`` or ``gpu``.
        description: one human-readable line with device, backend and versions.
        input_size: S, the side of the network's input, in pixels.
        batch_size: the preferred number of images in a batch.
        infer_workers: how many threads should call ``infer`` at once.
    """

    name: str
    batch_size: int
    infer_workers: int

    def __init__(self, backend: Backend, options: LaneOptions, decoder: Decoding, resampler: DaliResampler | None) -> None:
        self._masks = options.masks
        self._encoding = options.encoding
        self._measure = options.measure
        self._decoder = decoder
        self._resampler = resampler
        self.input_size = backend.input_size
        self.description = backend.description
        pillow.load_plugins()

    def pixels(self, source: Source) -> int:
        """Return an image's pixel count from its header, or 0 if the header can't be read."""
        return probe_pixels(source.data)

    def decode(self, batch: Sequence[Source]) -> list[Frame | BadImage]:
        """Decode each source to a frame with its network input, or return the reason of its failure."""
        decoded = self._decoder.decode([source.data for source in batch])
        held = iter(self._held([image for image in decoded if not isinstance(image, BadImage)]))
        return [
            image if isinstance(image, BadImage) else Frame(source.identity, image.width, image.height, image.decoded_by, *next(held))
            for source, image in zip(batch, decoded, strict=True)
        ]

    @abc.abstractmethod
    def _held(self, images: Sequence[DecodedImage]) -> Iterable[tuple[Any, Any]]:
        """Return ``image`` and ``network_input`` of each image's frame."""

    @abc.abstractmethod
    def infer(self, batch: Sequence[Frame]) -> None:
        """Run the network and set each frame's ``confidence``.

        Raises:
            DeviceError: the backend failed.
        """

    @abc.abstractmethod
    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs, set its ``rendered`` and ``measured``, and release its ``image``."""

    @abc.abstractmethod
    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Encode each frame's rendered outputs to files' bytes, or return the reason of the failure."""

    def _file(self, pixels: npt.NDArray[np.uint8], kind: OutputKind) -> bytes:
        """Encode an output on the host: a mask as PNG, the others in the user's format."""
        if kind == "mask" or self._encoding.format == "png":
            return encode_png(pixels)
        from PIL import Image

        return pillow.encode_lossy(Image.fromarray(pixels), self._encoding)

    @abc.abstractmethod
    def close(self) -> None:
        """Release the device and the network."""


def open_decoders(
    options: DecodeOptions,
    size: int,
    batch: int,
    threads: int = 1,
    device: int | None = None,
    make_by_items: Callable[[], DecodeItems] | None = None,
) -> tuple[Decoding, DaliResampler | None]:
    """Create the decoder that the user chose and the resampler for the network's input.

    Args:
        options: the user's decoding options.
        size: the side of the network's input, in pixels.
        batch, threads, device: see :class:`seseg_trt.codecs.dali.DaliDecoder`.
        make_by_items: creates the nvImageCodec decoder; None for one on the CPU.

    Raises:
        DeviceError: DALI is chosen and not installed, or can't use the device.
    """
    if options.decoder != "dali":
        return Decoding(options), None
    from ..codecs.dali import DaliDecoder, DaliResampler
    from ..codecs.nvimgcodec import NvimgcodecDecoder

    decoder = Decoding(options, DaliDecoder(batch, threads, device).decode, make_by_items or (lambda: NvimgcodecDecoder().decode))
    return decoder, None if options.resample == "nearest" else DaliResampler(size, options.resample, batch, threads, device)
