"""What :mod:`seseg_trt.masks.reference` does, to the same bytes, in compiled code where it was built (:mod:`seseg_trt.native`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    whole = _memory(image)
    if whole is not None:
        native.MODULE.cover(whole, mask, options.color, kind == "se", result)
        return result
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = image.crop((0, top, image.width, bottom))
        memory = _memory(band)
        pixels = np.asarray(band) if memory is None else memory
        native.MODULE.cover(pixels, mask[top:bottom], options.color, kind == "se", result[top:bottom])
    return result


def _picture(image: Image.Image | Pixels) -> Image.Image:
    if not isinstance(image, np.ndarray):
        return image
    from PIL import Image as PILImage

    return PILImage.fromarray(image)


def _memory(image: Image.Image) -> Any:
    """Return the capsule that lends an image's own memory, of 4 bytes a pixel; None where it is in pieces, as large ones are, or where
    Pillow can't lend it (before 11.2)."""
    try:
        return image.__arrow_c_array__()[1]
    except (AttributeError, ValueError):
        return None
