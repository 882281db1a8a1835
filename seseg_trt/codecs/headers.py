"""Which files native decoders may have, and in what form: DALI's and nvImageCodec's parsers are not made for hostile bytes.

A damaged file can make them crash, and with them the whole process (nvImageCodec 0.9 does so at some JPEGs with two EXIF blocks). So
they are given only what this module understands, and only the parts that make pixels: metadata never gets there. Of a JPEG the
header is written anew, with nothing in it but tables, frame and, if the image is to be turned, an EXIF block of 36 bytes that is
made here. Of a PNG the critical chunks remain. Everything else is Pillow's: it has the pixels, or the reason why there are none.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

from ..options import DecodeOptions
from . import pillow
from .sniff import ends_early

JPEG_TABLES = frozenset({0xC4, 0xDB, 0xDD})  # DHT, DQT, DRI
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all of them Huffman-coded
JPEG_OTHER = frozenset({*range(0xE0, 0xF0), 0xFE})  # APP0 to APP15, COM
EXIF = b"Exif\0\0"

PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
PNG_DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
"""Bit depths for each colour type. Those of 16 bits are Pillow's: DALI rounds them, and the contract truncates."""
PNG_ORIENTATION = b"eXIf"

WEBP_MODES = frozenset({"RGB", "RGBA"})
"""As Pillow names them. No further format is native. TIFF and PNM come out otherwise in their variants (colour maps of 16 bits, YCbCr,
LAB, maxima other than 255), BMP needs no decoding to speak of, and nvImageCodec 0.9 can crash on a JPEG 2000 with a damaged header."""


@dataclasses.dataclass(frozen=True, slots=True)
class NativeImage:
    """Bytes that a native decoder may have, and the size that it will find: before it turns the image."""

    data: bytes
    width: int
    height: int


def native_image(data: bytes, options: DecodeOptions) -> NativeImage | None:
    """Return a file in the form that native decoders get; None where it is Pillow's to decode or to refuse.

    The orientation is in the result if ``options`` want it applied, and is not if they don't.
    """
    image: NativeImage | None
    try:
        if data[:2] == b"\xff\xd8":
            image = None if ends_early(data, "JPEG") else _jpeg(data, options)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            image = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            image = _webp(data)
        else:
            image = None
    except (struct.error, IndexError):  # a header that ends in the middle
        return None
    if image is None or not 0 < image.width * image.height <= options.max_pixels:
        return None
    return image


def probe_pixels(data: bytes) -> int:
    """Return how many pixels an image will have, read from its header; 0 where it has none that can be read. Raises nothing."""
    if data[:2] == b"\xff\xd8":
        try:
            frame = _frame(data)
        except (struct.error, IndexError):
            frame = None
        if frame is not None:
            return frame[0] * frame[1]
    return pillow.probe_pixels(data)


def _segments(data: bytes) -> list[tuple[int, int, int]] | None:
    """Return (marker, start, end) of each segment of a JPEG up to and with its first scan's header; None if they are out of order."""
    found = []
    at = 2
    while True:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0:  # fill bytes are allowed, and rare enough for Pillow
            return None
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if end > len(data) or end < at + 4:
            return None
        found.append((marker, at, end))
        if marker == 0xDA:
            return found
        at = end


def _frame(data: bytes) -> tuple[int, int] | None:
    for marker, start, _ in _segments(data) or ():
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 5)
            return width, height
    return None


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
            # CMYK and RGB in a JPEG are told from each other by conventions in which decoders differ.
            if size is not None or bits != 8 or components not in (1, 3) or len(body) != 6 + 3 * components:
                return None
            if components == 3 and body[6::3] != b"\1\2\3":
                return None
            size = width, height
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            # Its thumbnail and its pixel density make no pixels; that it is there says that the colours are YCbCr.
            if not jfif:
                kept.append(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
            jfif = True
            continue
        elif marker == 0xE1 and body[:6] == EXIF:
            exif = exif + body[6:] if exif else body  # as Pillow joins what was split
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
    # A TIFF header, and one directory of one entry: tag 274, one SHORT.
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
            return None  # a critical chunk that is not known, or a damaged one: Pillow knows what to make of it
        at = end
    wanted = [b"IHDR", b"PLTE", b"IDAT", b"IEND"] if b"PLTE" in kinds else [b"IHDR", b"IDAT", b"IEND"]
    if kinds != wanted or (color == 3) > (b"PLTE" in kinds):
        return None
    return NativeImage(b"".join(kept), width, height)


def _webp(data: bytes) -> NativeImage | None:
    header = pillow.read_header(data)
    if header is None or header.source_format != "WEBP" or header.mode not in WEBP_MODES or header.has_exif:
        return None
    return None if ends_early(data, "WEBP") else NativeImage(data, header.width, header.height)
