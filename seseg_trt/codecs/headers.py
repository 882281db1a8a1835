"""Decide which files the native decoders (DALI, nvImageCodec) get, and strip everything but pixel data from them.

The parsers of these libraries are not hardened: a damaged file can crash the whole process (nvImageCodec 0.9 crashes on some JPEGs with
two EXIF blocks). They therefore get only files whose structure this module has checked, without metadata:

- A JPEG gets a new header: tables, frame and, if the image is to be rotated, a new EXIF block of 36 bytes.
- A PNG keeps its critical chunks alone.
- Pillow decodes all other files, or reports what is wrong with them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib

from ..options import DecodeOptions
from . import pillow
from .sniff import ends_early

JPEG_TABLES = frozenset({0xC4, 0xDB, 0xDD})  # DHT, DQT, DRI
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # SOF0 (baseline), SOF1 (extended), SOF2 (progressive), all Huffman-coded
JPEG_OTHER = frozenset({*range(0xE0, 0xF0), 0xFE})  # APP0 to APP15, COM
EXIF = b"Exif\0\0"

PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
PNG_DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
"""The accepted bit depths of each colour type. Pillow decodes 16-bit PNGs: DALI rounds them to 8 bits, and the output must be truncated."""
PNG_ORIENTATION = b"eXIf"

WEBP_MODES = frozenset({"RGB", "RGBA"})
"""Pillow's modes of the accepted WebP files.

Pillow decodes all other formats. The native decoders differ from Pillow on variants of TIFF and PNM (16-bit colour maps, YCbCr, LAB,
maxima other than 255), BMP needs next to no decoding, and nvImageCodec 0.9 can crash on a JPEG 2000 with a damaged header.
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
    image: NativeImage | None = None
    try:
        if data[:2] == b"\xff\xd8" and not ends_early(data, "JPEG"):
            image = _jpeg(data, options)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            image = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            image = _webp(data)
    except (struct.error, IndexError):  # the header is truncated
        return None
    if image is None or not 0 < image.width * image.height <= options.max_pixels:
        return None
    return image


def probe_pixels(data: bytes) -> int:
    """Return an image's pixel count from its header, or 0 if the header can't be read. Never raises."""
    if data[:2] == b"\xff\xd8":
        with contextlib.suppress(struct.error, IndexError):
            for marker, start, _ in _segments(data) or ():
                if marker in JPEG_FRAMES:
                    height, width = struct.unpack_from(">HH", data, start + 5)
                    return int(width * height)
    return pillow.probe_pixels(data)


def _segments(data: bytes) -> list[tuple[int, int, int]] | None:
    """Return (marker, start, end) of each JPEG segment up to and including the first SOS header, or None if the structure is unusual."""
    found = []
    at = 2
    while True:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0:  # fill bytes are valid but rare: leave them to Pillow
            return None
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if end > len(data) or end < at + 4:
            return None
        found.append((marker, at, end))
        if marker == 0xDA:
            return found
        at = end


def _jpeg(data: bytes, options: DecodeOptions) -> NativeImage | None:
    segments = _segments(data)
    if segments is None:
        return None
    kept, exif, size = [b"\xff\xd8"], b"", None
    jfif = False
    for marker, start, end in segments:
        body = data[start + 4 : end]
        if marker in JPEG_FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", body)
            # Decoders disagree on how to recognise CMYK and RGB JPEGs, so accept greyscale and YCbCr alone.
            if size is not None or bits != 8 or components not in (1, 3) or len(body) != 6 + 3 * components:
                return None
            if components == 3 and body[6::3] != b"\1\2\3":
                return None
            size = width, height
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            # A JFIF segment marks the colours as YCbCr. Replace it by one without thumbnail and pixel density.
            if not jfif:
                kept.append(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
            jfif = True
            continue
        elif marker == 0xE1 and body[:6] == EXIF:
            exif = exif + body[6:] if exif else body  # Pillow joins split EXIF blocks in the same way
            continue
        elif marker == 0xEE and body[:5] == b"Adobe":
            if len(body) < 12 or body[11] != 1:
                return None
        elif marker in JPEG_OTHER:
            continue
        elif marker != 0xDA and marker not in JPEG_TABLES:
            return None
        kept.append(data[start:end])
    if size is None:
        return None
    orientation = pillow.exif_orientation(exif) if exif and options.exif_orientation else 1
    if 2 <= orientation <= 8:
        kept.insert(2 if jfif else 1, _exif_segment(orientation))
    return NativeImage(b"".join([*kept, data[segments[-1][2] :]]), *size)


def _exif_segment(orientation: int) -> bytes:
    # A TIFF header and one directory with one entry: tag 274 (Orientation), one SHORT.
    block = EXIF + b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block


def _png(data: bytes) -> NativeImage | None:
    width, height, bits, color, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if data[12:16] != b"IHDR" or bits not in PNG_DEPTHS.get(color, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        return None
    kept, at = [data[:8]], 8
    kinds: list[bytes] = []
    while not kinds or kinds[-1] != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data) or kind == PNG_ORIENTATION:
            return None
        if kind in PNG_KEPT:
            kept.append(data[at:end])
            if kind != b"IDAT" or kinds[-1:] != [kind]:
                kinds.append(kind)
        elif not kind[0] & 0x20 or zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return None  # an unknown critical chunk or a wrong checksum
        at = end
    wanted = [b"IHDR", b"PLTE", b"IDAT", b"IEND"] if b"PLTE" in kinds else [b"IHDR", b"IDAT", b"IEND"]
    if kinds != wanted or (color == 3) > (b"PLTE" in kinds):
        return None
    return NativeImage(b"".join(kept), width, height)


def _webp(data: bytes) -> NativeImage | None:
    header = pillow.read_header(data)
    if header is None or ends_early(data, "WEBP"):
        return None
    source_format, image = header
    if source_format != "WEBP" or image.mode not in WEBP_MODES or "exif" in image.info:
        return None
    return NativeImage(data, *image.size)
