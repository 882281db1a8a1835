"""The CPU lane: Pillow decodes and composites, a CPU backend infers, our PNG encoder writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..codecs import pillow
from ..codecs.png import encode_png
from ..errors import BadImage
from ..masks import host, reference
from ..masks.measure import measure_mask
from ..options import DecodeOptions, EncodeOptions, MaskOptions, OutputKind
from .base import Frame, Measure, Source

if TYPE_CHECKING:
    from ..backends.base import Backend


class CPULane:
    """Everything on the host. Its steps are independent for each image and safe to run in several threads.

    Args:
        backend: a backend that takes host arrays; the lane owns it and closes it.
        masks, decoding, encoding: what the user chose.
        measure: what of each mask is measured.
    """

    name = "cpu"
    batch_size = 1  # on a CPU larger batches gain nothing; several at once do

    def __init__(
        self, backend: Backend, masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions, measure: Measure = None
    ) -> None:
        self._backend = backend
        self._masks = masks
        self._decoding = decoding
        self._encoding = encoding
        self._measure = measure
        self.input_size = backend.input_size
        self.infer_workers = backend.concurrency
        self.description = backend.description
        pillow.probe_pixels(b"\0")  # so that the start-up pays for loading Pillow's formats, and not the first image

    def pixels(self, source: Source) -> int:
        """Return the image's pixel count from its header. See :class:`seseg_trt.lanes.base.Lane`."""
        return pillow.probe_pixels(source.data)

    def decode(self, batch: Sequence[Source]) -> list[Frame | BadImage]:
        """Decode each source and sample its network input."""
        return [self._decode(source) for source in batch]

    def _decode(self, source: Source) -> Frame | BadImage:
        try:
            decoded = pillow.decode(source.data, self._decoding)
        except BadImage as bad:
            return bad
        network_input = reference.sample_nearest(decoded.image, self.input_size)
        return Frame(source.identity, decoded.width, decoded.height, "pillow", decoded.image, network_input)

    def infer(self, batch: Sequence[Frame]) -> None:
        """Run the network on the batch's inputs."""
        maps = self._backend.infer(np.stack([frame.network_input for frame in batch]))
        for frame, confidence in zip(batch, maps, strict=True):
            frame.confidence = confidence
            frame.network_input = None

    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs at the size of its image."""
        for frame in batch:
            assert frame.confidence is not None
            if self._masks.outputs or self._measure:
                opacity = host.resize_map(frame.confidence, frame.width, frame.height)
                mask = reference.apply_threshold(opacity, self._masks.threshold)
                if self._measure:
                    frame.measured = measure_mask(opacity, self._masks.threshold, rle=self._measure == "rle")
                for kind in self._masks.outputs:
                    frame.rendered[kind] = host.composite(frame.image, mask, kind, self._masks, frame.identity)
            frame.image = None

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Encode each frame's outputs: masks always as PNG, the others as the user chose."""
        return [self._encode(frame) for frame in batch]

    def _encode(self, frame: Frame) -> Mapping[OutputKind, bytes] | BadImage:
        encoded: dict[OutputKind, bytes] = {}
        try:
            while frame.rendered:
                kind, pixels = frame.rendered.popitem()
                if kind == "mask" or self._encoding.format == "png":
                    encoded[kind] = encode_png(pixels)
                else:
                    from PIL import Image

                    encoded[kind] = pillow.encode_lossy(Image.fromarray(pixels), self._encoding)
        except BadImage as bad:
            return bad
        return encoded

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()
