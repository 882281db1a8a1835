"""Small pictures of images and masks for a page, as data URIs; blurred so that nothing can be made out where that is asked."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

SIDE = 288
"""The longest side of a picture, in pixels."""

BLURRED_SIDE = 12
"""A blurred picture is made of this many pixels along its longest side: a blur that can't be undone, for the rest is not there."""

LOST: Color = (224, 32, 32)
GAINED: Color = (32, 96, 240)
BACKGROUND = 40
MARKED = 235


def thumbnail(image: Image.Image, *, blur: bool) -> Image.Image:
    """Return an image at the size of a picture, RGB, blurred or clear. Smaller images keep their size."""
    from PIL import Image

    size = picture_size(image.width, image.height)
    if blur:
        image = image.resize(picture_size(*size, side=BLURRED_SIDE), Image.Resampling.BOX)
        return image.resize(size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image


def picture_size(width: int, height: int, side: int = SIDE) -> tuple[int, int]:
    """Return (width, height) with the longest side brought down to ``side``, each at least 1."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def mask_picture(mask: Pixels) -> Image.Image:
    """Return a mask (0 or 255) at the size of a picture: a pixel is white where any of those that it stands for is marked."""
    from PIL import Image

    return Image.fromarray(shrink_marks(mask > 0).astype(np.uint8) * 255)


def difference_picture(reference: Pixels, candidate: Pixels) -> Image.Image:
    """Return two masks (0 or 255) in one picture: :data:`LOST` where the reference alone marks, :data:`GAINED` where the candidate alone.

    A single pixel of a large image stays visible: it colours all of the picture's pixel that it falls into.
    """
    from PIL import Image

    lost = shrink_marks(reference > candidate)
    gained = shrink_marks(candidate > reference)
    both = shrink_marks((reference & candidate) > 0)
    picture = np.full((*lost.shape, 3), BACKGROUND, np.uint8)
    picture[both] = MARKED
    picture[gained] = GAINED
    picture[lost] = LOST
    return Image.fromarray(picture)


def shrink_marks(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return bool [H, W] at the size of a picture: True where any of a block is."""
    height, width = marks.shape
    small_width, small_height = picture_size(width, height)
    rows, columns = _starts(height, small_height), _starts(width, small_width)
    shrunk: npt.NDArray[np.bool_] = np.logical_or.reduceat(np.logical_or.reduceat(marks, rows, axis=0), columns, axis=1)
    return shrunk


def _starts(long: int, short: int) -> npt.NDArray[np.int64]:
    return np.arange(short, dtype=np.int64) * long // short


def data_uri(image: Image.Image, *, photograph: bool = False) -> str:
    """Return an image as a ``data:`` URI: JPEG for a photograph, PNG for a drawing. It holds no metadata."""
    buffer = io.BytesIO()
    if photograph:
        image.save(buffer, format="JPEG", quality=80)
    else:
        image.save(buffer, format="PNG", optimize=True)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
