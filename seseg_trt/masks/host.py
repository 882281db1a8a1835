"""Resize and composite with the compiled extension (:mod:`seseg_trt.native`) if it is available, else with the reference.

The results are those of :mod:`seseg_trt.masks.reference`, byte for byte.
"""

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
    """Resize a confidence map to the image's size; see :func:`seseg_trt.masks.reference.resize_map`."""
    if native.MODULE is None:
        return reference.resize_map(confidence, width, height)
    mask = np.empty((height, width), np.uint8)
    native.MODULE.resize_map(np.ascontiguousarray(confidence), mask)
    return mask


def composite(image: Image.Image | Pixels, mask: Pixels, kind: OutputKind, options: MaskOptions, identity: bytes) -> Pixels:
    """Make one output; see :func:`seseg_trt.masks.reference.composite`. The image may also be an array, uint8 [H, W, 3]."""
    if native.MODULE is None or kind == "mask" or options.color == "random":
        if isinstance(image, np.ndarray):
            from PIL import Image as PILImage

            image = PILImage.fromarray(image)
        return reference.composite(image, mask, kind, options, identity)
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
    """Composite an image straight from Pillow's memory (4 bytes a pixel); return False if Pillow can't export it."""
    assert native.MODULE is not None
    if not _lends_memory():
        return False
    try:
        memory = image.__arrow_c_array__()[1]
    except ValueError:  # a large image lies in several memory blocks, or its rows are padded
        return False
    try:
        native.MODULE.cover(memory, mask, options.color, kind == "se", result)
    except BufferError:  # the memory layout is not the expected one
        return False
    return True


@functools.lru_cache(maxsize=1)
def _lends_memory() -> bool:
    """Return whether Pillow exports image memory correctly. Pillow 11.2 never frees it, and Pillow 12 exports padded rows as unpadded."""
    import PIL

    return int(PIL.__version__.partition(".")[0]) >= 13
