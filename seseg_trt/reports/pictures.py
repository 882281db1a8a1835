"""Draw small pictures of images and masks for a page, as data URIs. A blurred picture holds only a few of their pixels."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

SIDE = 288
"""The longest side of a picture, in pixels."""

BLURRED_SIDE = 12
"""The longest side that a blurred picture is reduced to, in pixels. The blur can't be undone: the other pixels are gone."""

LOST: Color = (224, 32, 32)
GAINED: Color = (32, 96, 240)
BACKGROUND = 40
MARKED = 235


class Picture(NamedTuple):
    """A picture on a page. A drawing is enlarged without smoothing."""

    uri: str
    caption: str
    drawing: bool = False


class Case(NamedTuple):
    """The pictures of one image, side by side. ``problem`` says why they can't be shown."""

    title: str
    pictures: list[Picture]
    problem: str = ""


def legend(lost: str, gained: str, both: str) -> list[tuple[Color, str]]:
    """Return the colours of :func:`difference_picture` and what each means."""
    return [(LOST, lost), (GAINED, gained), ((MARKED,) * 3, both)]


def photograph(image: Image.Image, caption: str, *, blur: bool) -> Picture:
    """Return a decoded image as a picture, blurred or clear. Decoding dropped its metadata."""
    return Picture(_data_uri(thumbnail(image, blur=blur), "JPEG", quality=80), caption)


def compared(image: Image.Image, masks: dict[str, Pixels], difference: str, *, blur: bool) -> list[Picture]:
    """Return the pictures of an image, of two masks of it, and of where these differ.

    Args:
        image: of the masks' size.
        masks: two captions with their masks, 0 or 255, the reference first.
        difference: the caption of the last picture.
        blur: blur the image.
    """
    reference, candidate = masks.values()
    drawings = {**{caption: mask_picture(mask) for caption, mask in masks.items()}, difference: difference_picture(reference, candidate)}
    return [
        photograph(image, "image, blurred" if blur else "image", blur=blur),
        *(Picture(_data_uri(drawn, "PNG", optimize=True), caption, drawing=True) for caption, drawn in drawings.items()),
    ]


def thumbnail(image: Image.Image, *, blur: bool) -> Image.Image:
    """Scale an image down to the size of a picture, blurred or clear. Smaller images keep their size."""
    from PIL import Image

    size = picture_size(image.width, image.height)
    if blur:
        image = image.resize(picture_size(*size, side=BLURRED_SIDE), Image.Resampling.BOX)
        return image.resize(size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image


def picture_size(width: int, height: int, side: int = SIDE) -> tuple[int, int]:
    """Scale (width, height) down so that the longest side is at most ``side``. Each stays at least 1."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def mask_picture(mask: Pixels) -> Image.Image:
    """Draw a mask (0 or 255) at the size of a picture. A pixel is white where any of the mask's pixels in it is marked."""
    from PIL import Image

    return Image.fromarray(shrink_marks(mask > 0).astype(np.uint8) * 255)


def difference_picture(reference: Pixels, candidate: Pixels) -> Image.Image:
    """Draw where two masks (0 or 255) differ: :data:`LOST` is marked by the reference alone, :data:`GAINED` by the candidate alone.

    A single pixel of a large image stays visible: it colours the whole pixel of the picture that contains it.
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
    """Scale bool [H, W] down to the size of a picture. A pixel is True where any pixel of its block is."""
    height, width = marks.shape
    small_width, small_height = picture_size(width, height)
    rows, columns = _starts(height, small_height), _starts(width, small_width)
    shrunk: npt.NDArray[np.bool_] = np.logical_or.reduceat(np.logical_or.reduceat(marks, rows, axis=0), columns, axis=1)
    return shrunk


def _starts(long: int, short: int) -> npt.NDArray[np.int64]:
    return np.arange(short, dtype=np.int64) * long // short


def _data_uri(image: Image.Image, file_format: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
