"""What :mod:`seseg_trt.masks.reference` does, to the same bytes, in compiled code where it was built (:mod:`seseg_trt.native`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .. import native
from ..options import MaskOptions, OutputKind
from . import reference
from .reference import BAND_PIXELS, Pixels

if TYPE_CHECKING:
    from PIL import Image


def resize_map(confidence: Pixels, width: int, height: int) -> Pixels:
    """Bring a confidence map to the image's size; see :func:`seseg_trt.masks.reference.resize_map`."""
    if native.MODULE is None:
        return reference.resize_map(confidence, width, height)
    mask = np.empty((height, width), np.uint8)
    native.MODULE.resize_map(np.ascontiguousarray(confidence), mask)
    return mask


def composite(image: Image.Image | Pixels, mask: Pixels, kind: OutputKind, options: MaskOptions, identity: bytes) -> Pixels:
    """Make one output; see :func:`seseg_trt.masks.reference.composite`. The image may be uint8 [H, W, 3] as well."""
    if native.MODULE is None or kind == "mask" or options.color == "random":
        return reference.composite(_picture(image), mask, kind, options, identity)
    size = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    if mask.shape != size:
        raise ValueError(f"the mask is {mask.shape}, the image (height, width) {size}")
    mask, result = np.ascontiguousarray(mask), np.empty((*mask.shape, 3), np.uint8)
    if isinstance(image, np.ndarray):
        native.MODULE.cover(np.ascontiguousarray(image), mask, options.color, kind == "se", result)
        return result
    if _cover_memory(image, mask, kind, options, result):
        return result
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band, target = image.crop((0, top, image.width, bottom)), result[top:bottom]
        if not _cover_memory(band, mask[top:bottom], kind, options, target):
            native.MODULE.cover(np.asarray(band), mask[top:bottom], options.color, kind == "se", target)
    return result


def _cover_memory(image: Image.Image, mask: Pixels, kind: OutputKind, options: MaskOptions, result: Pixels) -> bool:
    """Cover an image that lends its own memory, of 4 bytes a pixel; return whether it could."""
    assert native.MODULE is not None
    if not _lends_memory():
        return False
    try:
        memory = image.__arrow_c_array__()[1]
    except ValueError:  # it is in pieces, as large ones are, or its rows are padded
        return False
    try:
        native.MODULE.cover(memory, mask, options.color, kind == "se", result)
    except BufferError:  # laid out in another way
        return False
    return True


@functools.lru_cache(maxsize=1)
def _lends_memory() -> bool:
    """Whether Pillow lends an image's memory as it should: 11.2's never let go of it, and 12's lends padded rows as if they were not."""
    import PIL

    return int(PIL.__version__.partition(".")[0]) >= 13


def _picture(image: Image.Image | Pixels) -> Image.Image:
    if not isinstance(image, np.ndarray):
        return image
    from PIL import Image as PILImage

    return PILImage.fromarray(image)
