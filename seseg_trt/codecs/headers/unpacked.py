"""Count the bytes that a strip or a tile of a TIFF unpacks to (TIFF 6.0, sections 9 and 13), without unpacking more than is asked.

libtiff ignores what a strip holds beyond its rows. So a wrong width gives a picture of sheared rows, without an error.
"""

from __future__ import annotations

import zlib

LARGEST = 1 << 15
"""The largest piece in bytes that is counted in Python, at some 5 MB a second. Most programs write strips of 8 KiB before compression."""


def unpacked_size(piece: bytes, compression: str, most: int) -> int:
    """Return the size that a piece unpacks to, in bytes; counting may end at ``most`` or more. 0: not known.

    Args:
        piece: the bytes of a strip or a tile.
        compression: ``deflate``, ``LZW`` or ``PackBits``.
        most: what is to be told apart from less.
    """
    if compression == "deflate":
        try:
            return len(zlib.decompressobj().decompress(piece, most))
        except zlib.error:
            return 0  # the decoder says so
    if len(piece) > LARGEST:
        return 0
    return _packbits_size(piece) if compression == "PackBits" else _lzw_size(piece, most)


def _packbits_size(piece: bytes) -> int:
    at, size = 0, 0
    while at < len(piece):
        count = piece[at]
        if count < 128:
            size += count + 1
            at += count + 2
        else:
            size += 257 - count if count > 128 else 0
            at += 2 if count > 128 else 1
    return size


def _lzw_size(piece: bytes, most: int) -> int:
    clear, end = 256, 257
    lengths: list[int] = []
    width, held, bits, size, previous = 9, 0, 0, 0, 0
    for byte in piece:
        held = (held << 8 | byte) & 0xFFFFFF
        bits += 8
        if bits < width:
            continue
        bits -= width
        code = held >> bits & ((1 << width) - 1)
        if code == end or size >= most:
            break
        if code == clear:
            lengths, width, previous = [1] * 258, 9, 0
            continue
        if code > len(lengths) or not lengths:
            return 0  # the decoder says so
        if previous:
            lengths.append(previous + 1)
        previous = lengths[code] if code < len(lengths) else previous + 1
        size += previous
        if len(lengths) + 1 >= 1 << width and width < 12:  # the encoder widens one code early
            width += 1
    return size
