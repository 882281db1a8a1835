"""The CPU lane: Pillow or DALI decodes, Pillow composites, a CPU backend infers, and this package's PNG writer encodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codecs.pillow import DecodedImage
from ..errors import BadImage
from ..masks import host, reference
from ..masks.measure import measure_mask
from ..options import LaneOptions, OutputKind
from .base import Frame, Lane, open_decoders

if TYPE_CHECKING:
    from ..backends.base import Backend

DALI_BATCH = 8
"""The batch size for DALI: large enough to amortise a pipeline run, small enough for several threads to share a small run."""


class CPULane(Lane):
    """A lane that does all its work on the CPU. Each step is thread-safe. DALI decodes with one core for each calling thread.

    Args:
        backend: a backend for host arrays. The lane closes it.
        options: the user's options.

    Raises:
        DeviceError: DALI is chosen, and it or nvImageCodec is not installed.
    """

    name = "cpu"
    batch_size = 1  # a CPU gains nothing from larger batches, but from several at once

    def __init__(self, backend: Backend, options: LaneOptions) -> None:
        super().__init__(backend, options, *open_decoders(options.decoding, backend.input_size, DALI_BATCH))
        self.infer_workers = backend.concurrency
        self._backend = backend
        if options.decoding.decoder == "dali":
            self.batch_size = DALI_BATCH
            self.description += ", DALI decodes"

    def _held(self, images: Sequence[DecodedImage]) -> Iterator[tuple[Any, Any]]:
        from PIL import Image

        pixels = [image.image for image in images]
        if self._resampler is None:
            inputs = [reference.sample_nearest(image, self.input_size) for image in pixels]
        else:
            inputs = self._resampler.resample([np.ascontiguousarray(image) for image in pixels])
        return zip((Image.fromarray(i) if isinstance(i, np.ndarray) else i for i in pixels), inputs, strict=True)

    def infer(self, batch: Sequence[Frame]) -> None:
        """Run the network and set each frame's ``confidence``."""
        maps = self._backend.infer(np.stack([frame.network_input for frame in batch]))
        for frame, confidence in zip(batch, maps, strict=True):
            frame.confidence = confidence
            frame.network_input = None

    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs at its image's size."""
        for frame in batch:
            if self._masks.outputs or self._measure:
                opacity = host.resize_map(frame.confidence, frame.width, frame.height)
                mask = reference.apply_threshold(opacity, self._masks.threshold)
                if self._measure:
                    frame.measured = measure_mask(opacity, self._masks.threshold, rle=self._measure == "rle")
                for kind in self._masks.outputs:
                    frame.rendered[kind] = host.composite(frame.image, mask, kind, self._masks, frame.identity)
            frame.image = None

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Encode each frame's outputs: masks as PNG, the others in the user's format."""
        return [self._encode(frame) for frame in batch]

    def _encode(self, frame: Frame) -> Mapping[OutputKind, bytes] | BadImage:
        encoded: dict[OutputKind, bytes] = {}
        try:
            while frame.rendered:
                kind, pixels = frame.rendered.popitem()
                encoded[kind] = self._file(pixels, kind)
        except BadImage as bad:
            return bad
        return encoded

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()
