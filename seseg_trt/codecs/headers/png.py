"""Read PNG headers (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib

from ...errors import BadImage
from ..png import crc32
from .base import Header, cut_off, damaged, exif_orientation
from .kinds import Kind, unsupported

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLORS = {0: ("grey", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("grey", 2), 6: ("RGB", 4)}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""(x, y, step in x, step in y) of Adam7's passes."""


def read(data: bytes) -> Header:
    """Return a PNG's header.

    Raises:
        BadImage: ``truncated``, ``decode_error`` or ``unsupported``.
    """
    if data[12:16] == b"CgBI":
        raise unsupported("a PNG in Apple's own format (CgBI)", "convert it to a PNG, as `pngcrush -revert-iphone-optimizations` does")
    length, kind = struct.unpack_from(">I4s", data, 8)
    if kind != b"IHDR" or length != 13:
        raise damaged("the PNG does not begin with its header")
    width, height, depth, color, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if _wrong_sum(data, 8, 33):
        raise damaged("the PNG's header has a wrong checksum")
    if depth not in DEPTHS.get(color, ()) or compression or filtering or interlace > 1 or max(width, height) >= 1 << 31:
        raise damaged("the PNG's header has values that the format does not know")
    chunks = _chunks(data)
    palettes = [end - start - 12 for name, start, end in chunks if name == b"PLTE"]
    if color == 3 and (len(palettes) != 1 or palettes[0] % 3 or not 3 <= palettes[0] <= 3 << depth):
        raise damaged("the PNG's palette is missing or has a wrong size")
    exif = next((data[start + 8 : end - 4] for name, start, end in chunks if name == b"eXIf"), None)
    colors, channels = COLORS[color]
    pixels = [(start, end) for name, start, end in chunks if name == b"IDAT"]
    if not pixels:
        raise cut_off("PNG", "it has no pixels")

    def stripped() -> bytes:
        kept = [data[:33]]
        for name, start, end in chunks:
            if name == b"IDAT" or (name == b"PLTE" and color == 3):
                whole = end == start + 12 + int.from_bytes(data[start : start + 4], "big")
                if whole and _wrong_sum(data, start, end):
                    raise damaged(f"the PNG is damaged: its chunk {name.decode()} has a wrong checksum")
                kept.append(data[start:end])
        return b"".join([*kept, b"\0\0\0\0IEND\xaeB`\x82"])

    def complete() -> bool:
        return _inflated(data, pixels) >= _raw_size(width, height, depth * channels, interlace)

    return Header(
        Kind("PNG", depth, "uint", colors, channels, False, "interlaced deflate" if interlace else "deflate"),
        width,
        height,
        stripped,
        exif_orientation(exif),
        pictures=_pictures(data, chunks),
        regular=chunks[-1][0] == b"IEND",
        cut=chunks[-1][0] != b"IEND",
        complete=complete,
    )


def _chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return (name, start, end) of the chunks after the header; of pixels, the first consecutive ones alone.

    Raises:
        BadImage: ``unsupported``: a critical chunk is unknown.
    """
    found: list[tuple[bytes, int, int]] = []
    at, pixels_ended = 33, False
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if name == b"IDAT":
            if not pixels_ended:
                found.append((name, at, min(end, len(data))))
        else:
            pixels_ended = any(n == b"IDAT" for n, _, _ in found[-1:]) or pixels_ended
            if end > len(data):
                break
            if not name[0] & 0x20 and name not in (b"PLTE", b"IEND"):
                raise _unknown_chunk(name)
            if name != b"PLTE" or not pixels_ended:
                found.append((name, at, end))
        if name == b"IEND":
            break
        at = end
    return found


def _unknown_chunk(name: bytes) -> BadImage:
    if name.isalpha():
        return unsupported(f"a PNG with the unknown critical chunk {name.decode()}")
    return damaged("the PNG is damaged: a chunk has no name")


def _wrong_sum(data: bytes, start: int, end: int) -> bool:
    view = memoryview(data)[start + 4 : end - 4]
    return bool(crc32(view) != struct.unpack_from(">I", data, end - 4)[0])


def _pictures(data: bytes, chunks: list[tuple[bytes, int, int]]) -> int:
    """Return the number of an APNG's frames; a still image that the animation does not show counts too."""
    names = [name for name, _, _ in chunks]
    if b"acTL" not in names:
        return 1
    start = chunks[names.index(b"acTL")][1]
    stated = struct.unpack_from(">I", data, start + 8)[0]
    hidden = b"fcTL" not in names[: names.index(b"IDAT")]
    return max(1, int(stated), names.count(b"fcTL")) + hidden


def _raw_size(width: int, height: int, bits: int, interlace: int) -> int:
    """Return the size of the filtered rows in bytes."""
    size = 0
    for x, y, dx, dy in INTERLACED if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def _inflated(data: bytes, pixels: list[tuple[int, int]]) -> int:
    """Return how many bytes the pixels inflate to."""
    inflate, size = zlib.decompressobj(), 0
    for start, end in pixels:
        piece: bytes = data[start + 8 : end - 4]
        while piece and not inflate.eof:
            size += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
    return size + len(inflate.flush())
