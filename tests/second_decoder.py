"""Decode with tifffile and imagecodecs, which share no code of ours and little of Pillow's, to hold Pillow's pixels against."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from seseg_trt.codecs.headers.kinds import Kind

from .kind_files import rule

Array = npt.NDArray[Any]
READERS = {"JPEG": "jpeg8", "PNG": "png", "WEBP": "webp", "GIF": "gif", "JPEG2000": "jpeg2k", "AVIF": "avif"}


def second_picture(data: bytes, kind: Kind) -> Array | None:
    """Return a file's picture by the stated rule, uint8 [H, W, 3]; None where the second decoder has no reader for the format.

    Raises:
        Exception: it can't be decoded.
    """
    if kind.compression.startswith("fax") and not hasattr(imagecodecs, "CCITTFAX3"):  # an older one
        return None
    if kind.format == "TIFF":
        return tiff_picture(data)
    if kind.format not in READERS or data[:4] == b"\0\0\1\0":
        return None
    values = np.asarray(getattr(imagecodecs, f"{READERS[kind.format]}_decode")(data))
    if kind.format == "GIF":
        return np.asarray(values if values.ndim == 3 else values[0])
    if kind.format == "JPEG" and kind.channels == 4:
        return rule(255 - values, "CMYK", 8)  # Adobe's CMYK is inverted
    depth = 8 if values.dtype == np.uint8 else 16 if kind.format == "PNG" else kind.depth
    if kind.format == "PNG" and kind.colors == "palette":
        return np.asarray(values[..., :3])
    return rule(values, "grey" if values.ndim == 2 or values.shape[2] < 3 else "RGB", depth)


def tiff_picture(data: bytes) -> Array:
    """Return the picture of a TIFF's first page."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        values = np.asarray(page.asarray())
        values = values.astype(np.uint8) if values.dtype == bool else values
        channels, depth = page.samplesperpixel, page.bitspersample
        values = values.reshape(
            (channels, page.imagelength, page.imagewidth) if page.planarconfig == 2 else (page.imagelength, page.imagewidth, -1)
        )
        if page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        if channels == 1:
            values = values[..., 0]
        if page.photometric == 3:
            return np.moveaxis(page.colormap[:, values] >> 8, 0, -1).astype(np.uint8)
        colors = {0: "white is zero", 1: "grey", 2: "RGB", 5: "CMYK", 6: "RGB"}[page.photometric]
        return rule(values, colors, depth)
