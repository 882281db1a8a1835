"""Decode batches with libraries that fail a whole batch for one bad image: nothing is lost, nothing comes twice.

Who decodes what: what :mod:`.headers` lets through goes to the batch decoder (DALI). If that refuses the batch, all of it goes to the
item decoder (nvImageCodec), which answers for each image by itself. What neither decodes goes to Pillow, and so does what was not
let through: Pillow has the pixels, or the reason that the quarantine names.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from ..errors import BadImage
from ..options import DecodeOptions
from . import pillow
from .headers import NativeImage, native_image

log = logging.getLogger(__name__)

BATCHES_UNDER_SUSPICION = 16
"""After a batch was refused, so many go to the item decoder at once: damaged files come in swarms, and a refusal costs a batch's work."""


class BatchRefused(Exception):
    """A batch decoder gave up a batch; it does not say because of which image."""


class BatchDecoder(Protocol):
    """Decodes a batch or none of it; may be called from several threads."""

    def decode(self, batch: Sequence[bytes]) -> list[Any]:
        """Return uint8 [H, W, 3] each, on the host or on the GPU. Raises BatchRefused."""
        ...


class ItemDecoder(Protocol):
    """Decodes each image of a batch by itself; may be called from several threads."""

    def decode(self, batch: Sequence[bytes]) -> list[Any | None]:
        """Return uint8 [H, W, 3] for each, or None where it failed."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image, orientation applied.

    Attributes:
        image: what the decoder gave: a ``PIL.Image`` of mode RGB from Pillow, else an array, uint8 [H, W, 3].
        width, height: in pixels.
        decoded_by: ``dali``, ``nvimgcodec`` or ``pillow``.
    """

    image: Any
    width: int
    height: int
    decoded_by: Literal["dali", "nvimgcodec", "pillow"]


class Decoding:
    """Routes images to decoders, each image to one after the other until one has it.

    Args:
        options: of the user.
        batches: DALI.
        make_items: makes nvImageCodec's decoder; called once, when a batch has been refused.
    """

    def __init__(self, options: DecodeOptions, batches: BatchDecoder, make_items: Callable[[], ItemDecoder]) -> None:
        self._options = options
        self._batches = batches
        self._make_items = make_items
        self._items: ItemDecoder | None = None
        self._suspicion = 0
        self._lock = threading.Lock()

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        """Decode files' bytes; the result has one answer for each, in order. Raises DeviceError alone."""
        native = {index: image for index, data in enumerate(batch) if (image := native_image(data, self._options)) is not None}
        found = dict(zip(native, self._decode_native(list(native.values())), strict=True))
        return [found.get(index) or _by_pillow(data, self._options) for index, data in enumerate(batch)]

    def _decode_native(self, images: list[NativeImage]) -> list[DecodedImage | None]:
        if not images:
            return []
        encoded = [image.data for image in images]
        pixels: Sequence[Any | None] | None = None
        by: Literal["dali", "nvimgcodec"] = "dali"
        if not self._is_suspicious():
            try:
                pixels = self._batches.decode(encoded)
            except BatchRefused as refusal:
                log.debug("a batch was refused: %s", refusal)
                with self._lock:
                    self._suspicion = BATCHES_UNDER_SUSPICION
        if pixels is None:
            by, pixels = "nvimgcodec", self._item_decoder().decode(encoded)
        return [_checked(image, array, by) for image, array in zip(images, pixels, strict=True)]

    def _is_suspicious(self) -> bool:
        with self._lock:
            self._suspicion -= 1
            return self._suspicion >= 0

    def _item_decoder(self) -> ItemDecoder:
        with self._lock:
            if self._items is None:
                self._items = self._make_items()
            return self._items


class PillowDecoding:
    """Pillow alone, with the same face."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        """Decode files' bytes; the result has one answer for each, in order."""
        return [_by_pillow(data, self._options) for data in batch]


def _by_pillow(data: bytes, options: DecodeOptions) -> DecodedImage | BadImage:
    try:
        decoded = pillow.decode(data, options)
    except BadImage as bad:
        return bad
    return DecodedImage(decoded.image, decoded.width, decoded.height, "pillow")


def _checked(source: NativeImage, array: Any | None, by: Literal["dali", "nvimgcodec"]) -> DecodedImage | None:
    """Return an image whose size is what its header says; anything else is Pillow's to look at."""
    if array is None:
        return None
    height, width, channels = array.shape
    if channels != 3 or (width, height) not in ((source.width, source.height), (source.height, source.width)):
        return None
    return DecodedImage(array, int(width), int(height), by)
