"""Read JPEG headers (ITU-T T.81, JFIF, CIPA DC-007 for files of several JPEGs)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .base import Header, cut_off, damaged, exif_orientation
from .kinds import Kind
from .tiff import MPF_ENTRIES, read_directory

TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xCC})  # DHT, DQT, DRI, DAC
FRAMES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "differential",
    0xC6: "differential progressive",
    0xC7: "differential lossless",
    0xC9: "arithmetic",
    0xCA: "progressive arithmetic",
    0xCB: "lossless arithmetic",
    0xCD: "differential arithmetic",
    0xCE: "differential progressive arithmetic",
    0xCF: "differential lossless arithmetic",
    0xF7: "JPEG-LS",
}
APPLICATION = frozenset({*range(0xE0, 0xF0), 0xFE})  # APP0 to APP15, COM
STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RST0 to RST7: no length follows
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
"""A JFIF segment without thumbnail and pixel density. Its presence alone says that the colours are YCbCr."""


class _Frame(NamedTuple):
    marker: int
    bits: int
    height: int
    width: int
    ids: bytes


def read(data: bytes) -> Header:
    """Return a JPEG's header. Of a file of several JPEGs (MPO) the largest is taken, the first among equals.

    Raises:
        BadImage: ``truncated`` or ``decode_error``.
    """
    header, others = _read_one(data)
    for start, end in others:
        try:
            other, _ = _read_one(data[start:end])
        except Exception:  # not the picture that a viewer shows: its damage is of no interest
            continue
        if other.width * other.height > header.width * header.height:
            header = other
    return header


def _read_one(data: bytes) -> tuple[Header, list[tuple[int, int]]]:
    """Return the first JPEG's header and where the other ones lie."""
    kept: list[bytes] = [b"\xff\xd8"]
    exif, frame, adobe, has_jfif, regular = b"", None, None, False, True
    others: list[tuple[int, int]] = []
    for marker, start, begin, end in _segments(data):
        regular = regular and begin == start + 4
        body = data[begin:end]
        if marker in FRAMES:
            if frame is not None or len(body) < 6 or len(body) != 6 + 3 * body[5]:
                raise damaged("the JPEG's frame header is damaged")
            bits, height, width = struct.unpack_from(">BHH", body)
            frame = _Frame(marker, bits, height, width, body[6::3])
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            if not has_jfif:
                kept.append(JFIF)
            has_jfif = True
            continue
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif = exif + body[6:] if exif else body  # Pillow joins split EXIF blocks in the same way
            continue
        elif marker == 0xE2 and body[:4] == b"MPF\0":
            others = _others(data, begin + 4, end)
            continue
        elif marker in APPLICATION:
            continue
        elif marker != 0xDA and marker not in TABLES:
            raise damaged(f"the JPEG has a segment of the unknown kind {marker:#x}")
        kept += [b"\xff", data[begin - 3 : end]]
    if frame is None:
        raise damaged("the JPEG has no frame header")
    kind = Kind("JPEG", frame.bits, "uint", _colors(frame, adobe, has_jfif), len(frame.ids), False, FRAMES[frame.marker])
    cut = b"\xff\xd9" not in data[-4096:]
    return Header(
        kind,
        frame.width,
        frame.height,
        lambda: b"".join([*kept, memoryview(data)[end:]]),
        exif_orientation(exif or None),
        regular=regular and not cut,
        cut=cut,
    ), others


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (marker, start, start of the body, end) of each segment up to and including the first SOS header.

    As libjpeg does, skip fill bytes and what lies between segments.
    """
    at = 2
    while True:
        start = at
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 3 > len(data):
            raise cut_off("JPEG", "its header is not whole")
        marker = data[at]
        at += 1
        if marker == 0 or marker in STANDALONE:
            continue
        if marker in (0xD8, 0xD9):
            raise damaged("the JPEG ends, or begins anew, within its header")
        length = int(struct.unpack_from(">H", data, at)[0])
        if length < 2 and marker not in APPLICATION:
            raise damaged(f"the JPEG's segment {marker:#x} has a length of {length}")
        end = at + max(2, length)
        if end > len(data):
            raise cut_off("JPEG", f"its segment {marker:#x} is not whole")
        yield marker, start, at + 2, end
        if marker == 0xDA:
            return
        at = end


def _colors(frame: _Frame, adobe: int | None, has_jfif: bool) -> str:
    """Return what the components mean, by the rules of libjpeg (``default_decompress_parms`` in jdapimin.c)."""
    if len(frame.ids) == 1:
        return "grey"
    if len(frame.ids) == 3:
        if has_jfif:
            return "YCbCr"
        return "RGB" if adobe == 0 or (adobe is None and frame.ids == b"RGB") else "YCbCr"
    if len(frame.ids) == 4:
        return "YCCK" if adobe == 2 else "CMYK"
    return "unknown"


def _others(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Return (start, end) of each further JPEG that a multi-picture segment names."""
    found = []
    try:
        entries, _ = read_directory(data[start:end], frozenset({MPF_ENTRIES}))
        block = bytes(entries.get(MPF_ENTRIES, ()))
        for at in range(0, len(block), 16):
            size, offset = struct.unpack_from(">II" if data[start : start + 2] == b"MM" else "<II", block, at + 4)
            if offset and data[start + offset : start + offset + 2] == b"\xff\xd8":
                found.append((start + offset, start + offset + size))
    except Exception:  # the segment is damaged: the first JPEG is whole without it
        return []
    return found
