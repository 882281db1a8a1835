"""Decide which files the native decoders (DALI, nvImageCodec) get.

The parsers of these libraries are not hardened. They therefore get only files of the usual kinds and structure, without metadata but
for an EXIF block of 36 bytes in a JPEG that is to be turned. Pillow decodes all other files, or reports what is wrong with them.
"""

from __future__ import annotations

import dataclasses
import struct

from ..errors import BadImage
from ..options import DecodeOptions
from . import headers, pillow
from .headers.jpeg import JFIF

CODINGS = frozenset({"baseline", "extended", "progressive", "deflate", "interlaced deflate", "lossy", "lossless"})
COLORS = {"JPEG": ("grey", "YCbCr"), "PNG": ("grey", "palette", "RGB"), "WEBP": ("RGB",)}
"""The accepted colours of each format.

Decoders disagree on how to recognise CMYK and RGB JPEGs. Pillow decodes 16-bit PNGs: DALI rounds them to 8 bits, and the output must be
truncated. The native decoders differ from Pillow on variants of TIFF and PNM (16-bit colour maps, YCbCr, LAB, maxima other than 255), BMP
needs next to no decoding, and nvImageCodec 0.9 can crash on a JPEG 2000 with a damaged header.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class NativeImage:
    """A file for a native decoder.

    Attributes:
        data: the file's bytes, without metadata.
        width, height: the size in pixels, before the orientation is applied.
    """

    data: bytes
    width: int
    height: int


def native_image(data: bytes, options: DecodeOptions) -> NativeImage | None:
    """Return a file in the form for native decoders, or None if Pillow must decode it.

    The result states an orientation only if ``options`` ask to apply it.
    """
    try:
        header = headers.read(data)
        pillow.check(header, options)
        kind = header.kind
        orientation = header.orientation if options.exif_orientation else 1
        if not header.regular or kind.depth > 8 or kind.colors not in COLORS.get(kind.format, ()) or kind.compression not in CODINGS:
            return None
        if orientation != 1 and kind.format != "JPEG":
            return None
        stripped = header.stripped()
    except BadImage:
        return None
    if orientation != 1:
        at = 2 + len(JFIF) if stripped.startswith(JFIF, 2) else 2
        stripped = b"".join([stripped[:at], _exif_segment(orientation), memoryview(stripped)[at:]])
    return NativeImage(stripped, header.width, header.height)


def probe_pixels(data: bytes) -> int:
    """Return an image's pixel count from its header, or 0 if the header can't be read. Never raises."""
    try:
        header = headers.read(data)
    except BadImage:
        return 0
    return max(0, header.width) * max(0, header.height)


def _exif_segment(orientation: int) -> bytes:
    # A TIFF header and one directory with one entry: tag 274 (Orientation), one SHORT.
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block
