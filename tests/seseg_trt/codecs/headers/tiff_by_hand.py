"""Put TIFFs together tag by tag, and read them back by other means than the package's."""

from __future__ import annotations

import struct
from typing import Any

from seseg_trt.codecs.headers import read
from seseg_trt.codecs.headers.base import Header
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import refused

PIXELS = bytes(range(240))
WAY_OUT = ", which is not decoded; convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does"

Tags = dict[int, Any]
"""The value, or the tuple of values, of each tag."""
SHORTS = (258, 259, 262, 266, 274, 277, 284, 317, 320, 332, 338, 339, 530)
CODES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}


def directory(at: int, tags: Tags, order: str = "<", big: bool = False, following: int = 0, fields: dict[int, int] | None = None) -> bytes:
    """Return a directory that lies at an offset, with the values that don't fit into it behind it. A tag of SHORTS is a SHORT, others are LONG."""
    count, offset, room, size = ("Q", "Q", 8, 20) if big else ("H", "I", 4, 12)
    place = at + struct.calcsize(count) + size * len(tags) + room
    entries, far = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        field = (fields or {}).get(tag, 3 if tag in SHORTS else 4)
        raw = struct.pack(f"{order}{len(values)}{CODES[field]}", *values)
        entries += struct.pack(f"{order}HH{offset}", tag, field, len(values))
        if len(raw) > room:
            entries += struct.pack(order + offset, place + len(far))
            far += raw + bytes(len(raw) & 1)
        else:
            entries += raw.ljust(room, b"\0")
    return struct.pack(order + count, len(tags)) + entries + struct.pack(order + offset, following) + far


def head(at: int, order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF's first bytes, which say where its first directory lies."""
    name = b"II" if order == "<" else b"MM"
    return name + (struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at))


def tiff(body: bytes, *pages: Tags, order: str = "<", big: bool = False, fields: dict[int, int] | None = None) -> bytes:
    """Return a TIFF: the body begins at 8, in a BigTIFF at 16, and the pages' directories come behind it."""
    start = 16 if big else 8
    data = head(start + len(body), order, big) + body
    for number, tags in enumerate(pages):
        length = len(directory(0, tags, order, big, 0, fields))
        data += directory(len(data), tags, order, big, len(data) + length if number + 1 < len(pages) else 0, fields)
    return data


def page(changed: Tags | None = None) -> Tags:
    """Return the tags of a grey picture of 20 x 12 pixels in one strip of 240 bytes at 8, some of them changed."""
    return {256: 20, 257: 12, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 12, 279: 240} | (changed or {})


def without(tags: Tags, *lost: int) -> Tags:
    """Return the tags but for some."""
    return {tag: value for tag, value in tags.items() if tag not in lost}


def kind(
    colors: str = "grey", channels: int = 1, depth: int = 8, compression: str = "uncompressed", planar: bool = False, sample: str = "uint"
) -> Kind:
    return Kind("TIFF", depth, sample, colors, channels, planar, compression)


def read_back(data: bytes, order: str = "<") -> tuple[int, dict[int, tuple[int, tuple[int, ...]]], int]:
    """Return where the directory of a TIFF of one page lies, its tags with their field types and values, and the next directory's offset."""
    assert data[:4] == (b"II*\0" if order == "<" else b"MM\0*")
    at = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, at)[0]
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, field, number = struct.unpack_from(order + "HHI", data, entry)
        code = f"{order}{number}{CODES[field]}"
        place = entry + 8 if struct.calcsize(code) <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        assert place == entry + 8 or (place >= at + 2 + 12 * count + 4 and place % 2 == 0)
        found[tag] = (field, struct.unpack_from(code, data, place))
    assert list(found) == sorted(found)
    return at, found, struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]


def damaged(what: str) -> tuple[str, str]:
    return "decode_error", what


def unsupported(what: str) -> tuple[str, str]:
    return "unsupported", f"it is {what}{WAY_OUT}"


def cut_off(what: str) -> tuple[str, str]:
    return "truncated", f"the TIFF ends too early: {what}"


def told_of(changed: Tags, body: bytes = PIXELS, order: str = "<") -> Header:
    """Return the header of the picture of :func:`page`, some of its tags changed."""
    header = read(tiff(body, page(changed), order=order))
    assert (header.orientation, header.pictures, header.regular, header.cut) == (1, 1, False, False)
    return header


def refusal(changed: Tags, body: bytes = PIXELS, order: str = "<", fields: dict[int, int] | None = None) -> tuple[str, str]:
    """Return the reason and the message with which the picture of :func:`page` is refused, some of its tags changed."""
    return refused(tiff(body, page(changed), order=order, fields=fields))
