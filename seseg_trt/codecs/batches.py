"""Decode batches with a library that fails the whole batch for one bad image, and still return one result for each image.

1. Files that :mod:`.native` accepts go to the batch decoder (DALI).
2. If DALI refuses the batch, all of it goes to the item decoder (nvImageCodec), which reports a failure for each image separately.
3. Pillow decodes the rest: files that :mod:`.native` rejects and images that nvImageCodec can't decode. Pillow returns the pixels, or
   the reason for the quarantine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import BadImage
from ..options import DecodeOptions
from . import pillow
from .native import NativeImage, native_image
from .pillow import DecodedBy, DecodedImage

log = logging.getLogger(__name__)

BATCHES_UNDER_SUSPICION = 16
"""How many batches skip the batch decoder after a refusal. Damaged files come in groups, and a refusal wastes a batch's work."""


class BatchRefused(Exception):
    """The batch decoder failed on a batch; it does not say which image is at fault."""


DecodeBatch = Callable[[Sequence[bytes]], list[Any]]
"""Decodes each file to an array, uint8 [H, W, 3], on the host or on the GPU; raises BatchRefused if one can't be decoded. Thread-safe."""

DecodeItems = Callable[[Sequence[bytes]], list[Any | None]]
"""Decodes each file independently to an array, uint8 [H, W, 3], or to None where decoding failed. Thread-safe."""


class Decoding:
    """A chain of decoders: DALI, nvImageCodec, Pillow. Thread-safe.

    Args:
        options: the user's decoding options.
        by_dali: decodes by DALI; None to decode by Pillow alone.
        make_by_items: creates the nvImageCodec decoder; called once, after the first refused batch.
    """

    def __init__(
        self,
        options: DecodeOptions,
        by_dali: DecodeBatch | None = None,
        make_by_items: Callable[[], DecodeItems] | None = None,
    ) -> None:
        self._options = options
        self._by_dali = by_dali
        self._make_by_items = make_by_items
        self._by_items: DecodeItems | None = None
        self._suspicion = 0
        self._lock = threading.Lock()

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        """Decode files; return an image or the reason of its failure for each, in order.

        Raises:
            DeviceError: a decoder's library is missing, or its device failed.
        """
        found: dict[int, DecodedImage | None] = {}
        if self._by_dali is not None:
            native = {index: image for index, data in enumerate(batch) if (image := native_image(data, self._options)) is not None}
            found = dict(zip(native, self._decode_native(self._by_dali, list(native.values())), strict=True))
        return [found.get(index) or _by_pillow(data, self._options) for index, data in enumerate(batch)]

    def _decode_native(self, by_dali: DecodeBatch, images: list[NativeImage]) -> list[DecodedImage | None]:
        if not images:
            return []
        encoded = [image.data for image in images]
        if not self._is_suspicious():
            try:
                return [_checked(image, array, "dali") for image, array in zip(images, by_dali(encoded), strict=True)]
            except BatchRefused as refusal:
                log.debug("a batch was refused: %s", refusal)
                with self._lock:
                    self._suspicion = BATCHES_UNDER_SUSPICION
        return [_checked(image, array, "nvimgcodec") for image, array in zip(images, self._items()(encoded), strict=True)]

    def _is_suspicious(self) -> bool:
        with self._lock:
            self._suspicion -= 1
            return self._suspicion >= 0

    def _items(self) -> DecodeItems:
        with self._lock:
            if self._by_items is None:
                assert self._make_by_items is not None
                self._by_items = self._make_by_items()
            return self._by_items


def _by_pillow(data: bytes, options: DecodeOptions) -> DecodedImage | BadImage:
    try:
        return pillow.decode(data, options)
    except BadImage as bad:
        return bad


def _checked(source: NativeImage, array: Any | None, by: DecodedBy) -> DecodedImage | None:
    """Return the image if its size matches the header, otherwise None, so that Pillow decodes the file again."""
    if array is None:
        return None
    height, width, channels = array.shape
    if channels != 3 or (width, height) not in ((source.width, source.height), (source.height, source.width)):
        return None
    return DecodedImage(array, int(width), int(height), by)
