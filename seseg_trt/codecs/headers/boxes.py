"""Read the headers of formats made of boxes: JPEG 2000 (ITU-T T.800), AVIF and HEIF (ISO/IEC 14496-12, 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .base import Header, cut_off, damaged
from .kinds import Kind, unsupported

CODESTREAM = b"\xff\x4f\xff\x51"
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
JP2_COLORS = {16: "RGB", 17: "grey", 18: "YCbCr", 12: "CMYK"}
MOST_BOXES = 100_000


class Box(NamedTuple):
    """A box: its name, and where its content begins and ends."""

    name: bytes
    start: int
    end: int


def boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two offsets; the last one may reach beyond ``end``."""
    for _ in range(MOST_BOXES):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
            start += 8
        elif size == 0:  # to the end
            size = end - at
        if size < start - at:
            return
        yield Box(name, start, at + size)
        at += size


def _inside(data: bytes, parent: Box, name: bytes, skip: int = 0) -> Box | None:
    return next((box for box in boxes(data, parent.start + skip, parent.end) if box.name == name), None)


def read_jpeg2000(data: bytes) -> Header:
    """Return the header of a JPEG 2000 file or codestream.

    Raises:
        BadImage: ``truncated``, ``decode_error`` or ``unsupported``.
    """
    if data[:4] == CODESTREAM:
        return _codestream(data, 0, None, 1, lambda: data)
    top = list(boxes(data, 0, len(data)))
    streams = [box for box in top if box.name == b"jp2c"]
    head = next((box for box in top if box.name == b"jp2h"), None)
    if head is None or not streams:
        raise cut_off("JPEG2000", "it has no picture")
    inner = list(boxes(data, head.start, head.end))
    colors = [data[box.start : box.end] for box in inner if box.name == b"colr"]
    stated = next((int.from_bytes(color[3:7], "big") for color in colors if color[:1] == b"\1"), None)
    if any(box.name == b"pclr" for box in inner):
        meaning: str | None = "palette"
    elif stated is not None:
        meaning = JP2_COLORS.get(stated, f"colour space {stated}")
    else:
        meaning = None

    def stripped() -> bytes:
        kept = [data[box.start - 8 : box.end] for box in inner if box.name in (b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef")]
        header = b"".join(kept)
        stream = data[streams[0].start : streams[0].end]
        return b"".join([data[:12], FTYP, struct.pack(">I4s", 8 + len(header), b"jp2h"), header, b"\0\0\0\0jp2c", stream])

    return _codestream(data, streams[0].start, meaning, len(streams), stripped)


FTYP = b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "


def _codestream(data: bytes, at: int, colors: str | None, pictures: int, stripped: Callable[[], bytes]) -> Header:
    if data[at : at + 4] != CODESTREAM:
        raise damaged("the JPEG 2000 has no codestream where it states one")
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    channels = struct.unpack_from(">H", data, at + 40)[0]
    parts = [struct.unpack_from("BBB", data, at + 42 + 3 * channel) for channel in range(channels)]
    if not parts or right <= left or bottom <= top:
        raise damaged("the JPEG 2000 states no size")
    meaning = colors or ("grey" if channels < 3 else "RGB")
    if len(set(parts)) > 1:
        raise unsupported("a JPEG 2000 whose channels differ in their samples or sizes")
    bits, across, down = parts[0]
    cut = not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if (across, down) != (1, 1):
        raise unsupported("a JPEG 2000 whose channels are smaller than the picture")
    kind = Kind("JPEG2000", (bits & 0x7F) + 1, "int" if bits & 0x80 else "uint", meaning, channels, False, "wavelets")
    return Header(kind, right - left, bottom - top, stripped, pictures=pictures, regular=False, cut=cut)


def read_heif(data: bytes, file_format: str) -> Header:
    """Return the header of an AVIF or a HEIF file's primary image.

    Args:
        data: the whole file.
        file_format: ``AVIF`` or ``HEIF``.

    Raises:
        BadImage: ``truncated``, ``decode_error`` or ``unsupported``.
    """
    top = list(boxes(data, 0, len(data)))
    if any(box.end > len(data) for box in top if box.name in (b"ftyp", b"meta", b"mdat", b"moov")):
        raise cut_off(file_format, "a part is not whole")
    meta = next((box for box in top if box.name == b"meta"), None)
    frames = max((_samples(data, box) for box in top if box.name == b"moov"), default=0)
    if meta is None:
        raise unsupported(f"{'an' if file_format == 'AVIF' else 'a'} {file_format} sequence without a still image")
    properties = _properties(data, meta)
    size = next((data[box.start + 4 : box.end] for box in properties if box.name == b"ispe"), None)
    coded = next((data[box.start : box.end] for box in properties if box.name in (b"av1C", b"hvcC")), None)
    if size is None or coded is None:
        raise damaged(f"the {file_format} does not say what its image is")
    width, height = struct.unpack_from(">II", size)
    depth, colors = _av1(coded) if file_format == "AVIF" else _hevc(coded)
    kind = Kind(file_format, depth, "uint", colors, 1 if colors == "grey" else 3, False, "AV1" if file_format == "AVIF" else "HEVC")
    return Header(kind, width, height, lambda: data, orientation=0, pictures=max(1, frames), regular=False)


CHROMA = {(1, 1): "YCbCr 420", (1, 0): "YCbCr 422", (0, 0): "YCbCr 444"}


def _av1(record: bytes) -> tuple[int, str]:
    """Return the depth and the colours that an AV1 configuration record states."""
    flags = record[2]
    depth = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return depth, "grey" if flags & 0x10 else CHROMA.get((flags >> 3 & 1, flags >> 2 & 1), "YCbCr")


def _hevc(record: bytes) -> tuple[int, str]:
    """Return the depth and the colours that an HEVC configuration record states."""
    chroma = record[16] & 3
    return (record[17] & 7) + 8, ("grey", "YCbCr 420", "YCbCr 422", "YCbCr 444")[chroma]


def _properties(data: bytes, meta: Box) -> list[Box]:
    """Return the properties of the primary item; the coding of a grid is that of its first tile."""
    primary, container = _inside(data, meta, b"pitm", 4), _inside(data, meta, b"iprp", 4)
    listed = _inside(data, container, b"ipco") if container else None
    mapped = _inside(data, container, b"ipma") if container else None
    if primary is None or listed is None or mapped is None:
        return []
    every = list(boxes(data, listed.start, listed.end))
    item = int.from_bytes(data[primary.start + 4 : primary.start + (6 if data[primary.start] == 0 else 8)], "big")
    own = [every[index - 1] for index in _associations(data, mapped).get(item, ()) if 0 < index <= len(every)]
    return own + [box for box in every if box.name in (b"av1C", b"hvcC")]


def _associations(data: bytes, box: Box) -> dict[int, list[int]]:
    """Return the numbers of each item's properties (the box ``ipma``)."""
    version, flags = data[box.start], data[box.start + 3]
    count = struct.unpack_from(">I", data, box.start + 4)[0]
    at, found = box.start + 8, {}
    for _ in range(min(count, MOST_BOXES)):
        item = struct.unpack_from(">I" if version else ">H", data, at)[0]
        at += 4 if version else 2
        width = 2 if flags & 1 else 1
        numbers = [int.from_bytes(data[at + 1 + k * width : at + 1 + (k + 1) * width], "big") for k in range(data[at])]
        found[item] = [number & (0x7FFF if width == 2 else 0x7F) for number in numbers]
        at += 1 + len(numbers) * width
    return found


def _samples(data: bytes, moov: Box) -> int:
    """Return the number of frames of a sequence's longest track."""
    most = 0
    for track in boxes(data, moov.start, moov.end):
        box: Box | None = track if track.name == b"trak" else None
        for name in (b"mdia", b"minf", b"stbl", b"stsz"):
            box = _inside(data, box, name) if box else None
        if box is not None:
            most = max(most, int.from_bytes(data[box.start + 8 : box.start + 12], "big"))
    return most
