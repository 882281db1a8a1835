"""The CPU lane with DALI as its decoder: batches of encoded bytes to pixels on the host, by the code that the GPU lane runs on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..codecs.batches import DecodedImage, Decoding
from ..codecs.dali import DaliDecoder, DaliResampler
from ..codecs.headers import probe_pixels
from ..codecs.nvimgcodec import NvimgcodecDecoder
from ..errors import BadImage
from ..masks import reference
from ..options import DecodeOptions, EncodeOptions, MaskOptions
from .base import Frame, Measure, Source
from .cpu import CPULane

if TYPE_CHECKING:
    from ..backends.base import Backend

BATCH = 8
"""Images that DALI gets at once: enough that its pipeline costs little, and few enough for several threads to share a small run."""


class DaliCPULane(CPULane):
    """As the CPU lane, but for decoding. Its decoders take one core for each thread that calls, as Pillow does.

    Args:
        backend, masks, decoding, encoding, measure: as for :class:`seseg_trt.lanes.cpu.CPULane`.

    Raises:
        DeviceError: DALI or nvImageCodec is not installed.
    """

    batch_size = BATCH

    def __init__(
        self, backend: Backend, masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions, measure: Measure = None
    ) -> None:
        super().__init__(backend, masks, decoding, encoding, measure)
        self._decoder = DaliDecoder(BATCH)
        self._decoding_by_dali = Decoding(decoding, self._decoder, NvimgcodecDecoder)
        self._resampler: DaliResampler | None = None
        if decoding.resample != "nearest":
            self._resampler = DaliResampler(self.input_size, decoding.resample, BATCH)
        self.description = f"{backend.description}, DALI decodes"

    def pixels(self, source: Source) -> int:
        """Return the image's pixel count from its header. See :class:`seseg_trt.lanes.base.Lane`."""
        return probe_pixels(source.data)

    def decode(self, batch: Sequence[Source]) -> list[Frame | BadImage]:
        """Decode the sources together and make their network inputs."""
        decoded = self._decoding_by_dali.decode([source.data for source in batch])
        good = [image for image in decoded if isinstance(image, DecodedImage)]
        inputs = iter(self._network_inputs(good))
        return [
            self._frame(source, image, next(inputs)) if isinstance(image, DecodedImage) else image
            for source, image in zip(batch, decoded, strict=True)
        ]

    def _network_inputs(self, images: list[DecodedImage]) -> list[reference.Pixels]:
        if self._resampler is None:
            return [reference.sample_nearest(image.image, self.input_size) for image in images]
        return self._resampler.resample([np.ascontiguousarray(image.image) for image in images])

    def _frame(self, source: Source, image: DecodedImage, network_input: reference.Pixels) -> Frame:
        from PIL import Image

        picture = Image.fromarray(image.image) if isinstance(image.image, np.ndarray) else image.image
        return Frame(source.identity, image.width, image.height, image.decoded_by, picture, network_input)

    def close(self) -> None:
        """Close backend and decoders."""
        super().close()
        self._decoder.close()
        if self._resampler is not None:
            self._resampler.close()
