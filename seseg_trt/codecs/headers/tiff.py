"""Read TIFF headers (TIFF 6.0, Adobe's technical notes, BigTIFF), and write a directory of the tags that pixels need.

A decoder gets the file with that directory in place of its own. So text, profiles and damaged private tags never reach it, and a
BigTIFF becomes a TIFF.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from .base import ORIENTATION_TAG, Header, cut_off, damaged
from .kinds import Kind, unsupported

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, T4, T6, PREDICTOR = 273, 277, 278, 279, 284, 292, 293, 317
COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES = 320, 322, 323, 324, 325, 330
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 332, 338, 339, 347, 530
KEPT = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, T4, T6}
    | {PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING}
)
READ = KEPT | {SUBFILE, OLD_SUBFILE, SUB_DIRECTORIES, INK_SET, ORIENTATION_TAG}

FIELDS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}
"""The struct codes of the field types that these tags have: BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8, IFD8."""
COLORS = {
    0: ("white is zero", 1),
    1: ("grey", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    5: ("CMYK", 4),
    6: ("YCbCr", 3),
    8: ("CIELAB", 3),
    9: ("ICCLAB", 3),
    10: ("ITULAB", 3),
    32803: ("colour filter array", 1),
    32844: ("LogL", 1),
    32845: ("LogLuv", 3),
    34892: ("linear raw", 3),
}
COMPRESSIONS = {
    1: "uncompressed",
    2: "fax RLE",
    3: "fax group 3",
    4: "fax group 4",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
SAMPLE_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "undefined", 5: "complex int", 6: "complex float"}
MOST_PAGES = 10_000

Values = tuple[int, ...]


class _Place(NamedTuple):
    """Where numbers lie, and how they are written."""

    order: str
    big: bool


def read_directory(data: bytes, wanted: frozenset[int], at: int | None = None) -> tuple[dict[int, Values], int]:
    """Return the wanted tags of one directory, by default the first, and the offset of the next one (0: none).

    Raises:
        BadImage: ``truncated`` or ``decode_error``.
        struct.error: the directory lies beyond the end of the file.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    if at is None:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    assert at is not None
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    size, first = (20, at + 8) if big else (12, at + 2)
    if first + size * count > len(data):
        raise cut_off("TIFF", "its directory is not whole")
    found: dict[int, Values] = {}
    for entry in range(first, first + size * count, size):
        tag, field = struct.unpack_from(order + "HH", data, entry)
        if tag not in wanted:
            continue
        if tag in found:
            raise damaged(f"the TIFF's directory names its tag {tag} twice")
        found[tag] = _values(data, entry, tag, field, _Place(order, big))
    end = first + size * count
    following = data[end : end + (8 if big else 4)]
    return found, int.from_bytes(following, "little" if order == "<" else "big")


def _values(data: bytes, entry: int, tag: int, field: int, place: _Place) -> Values:
    code = FIELDS.get(field)
    if code is None:
        raise damaged(f"the TIFF's tag {tag} has the field type {field}, which it can't have")
    count = struct.unpack_from(place.order + ("Q" if place.big else "I"), data, entry + 4)[0]
    where, room = (entry + 12, 8) if place.big else (entry + 8, 4)
    size = count * struct.calcsize(code)
    if size > room:
        where = struct.unpack_from(place.order + ("Q" if place.big else "I"), data, where)[0]
    if where + size > len(data):
        raise cut_off("TIFF", f"its tag {tag} is not whole")
    return struct.unpack_from(f"{place.order}{count}{code}", data, where)


def read(data: bytes) -> Header:
    """Return the header of a TIFF's first page that is neither a thumbnail nor a mask.

    Raises:
        BadImage: ``truncated``, ``decode_error`` or ``unsupported``.
    """
    pages, hidden = _pages(data)
    if not pages:
        raise unsupported("a TIFF whose first directory is a thumbnail (a raw photograph, or a file without its main picture)")
    page = _Page(data, pages[0])
    return Header(
        page.kind,
        page.width,
        page.height,
        page.stripped,
        page.orientation,
        pictures=len(pages) + hidden,
        regular=False,
    )


def _pages(data: bytes) -> tuple[list[dict[int, Values]], int]:
    """Return the directories of whole pictures, and how many more there are in sub-directories."""
    pages: list[dict[int, Values]] = []
    hidden, at, seen = 0, None, set[int]()
    while at is None or (0 < at < len(data) and at not in seen and len(seen) < MOST_PAGES):
        if at is not None:
            seen.add(at)
        try:
            tags, at = read_directory(data, READ, at)
        except Exception:
            if not pages:
                raise
            break  # a page that nobody can read
        if not _is_reduced(tags):
            pages.append(tags)
            for below in tags.get(SUB_DIRECTORIES, ()):
                try:
                    inner, _ = read_directory(data, READ, below)
                except Exception:  # a page that nobody can read
                    continue
                hidden += not _is_reduced(inner)
    return pages, hidden


def _is_reduced(tags: dict[int, Values]) -> bool:
    """Return whether a directory is a thumbnail or a transparency mask."""
    return bool(tags.get(SUBFILE, (0,))[0] & 0b101) or tags.get(OLD_SUBFILE, (1,))[0] == 2


class _Page:
    """One picture of a TIFF, its tags checked against each other and against the file."""

    def __init__(self, data: bytes, tags: dict[int, Values]) -> None:
        self._data, self._tags = data, tags
        self._order = "<" if data[:2] == b"II" else ">"
        self.width, self.height = self._one(WIDTH), self._one(HEIGHT)
        if not 0 < self.width < 1 << 31 or not 0 < self.height < 1 << 31:
            raise damaged(f"the TIFF states a size of {self.width} x {self.height} pixels")
        self.orientation = tags.get(ORIENTATION_TAG, (1,))[0] if tags.get(ORIENTATION_TAG) else 1
        self.channels = self._one(SAMPLES, 1)
        compression = self._one(COMPRESSION, 1)
        self.compression = COMPRESSIONS.get(compression, f"compression {compression}")
        self.planar = self.channels > 1 and self._one(PLANAR, 1) == 2
        self.depth = self._same(BITS, 1)
        self.kind = self._kind()
        self._check_extras()
        self._segments = self._check_segments()

    def _one(self, tag: int, default: int | None = None) -> int:
        values = self._tags.get(tag, () if default is None else (default,))
        if len(values) != 1:
            raise damaged(f"the TIFF's tag {tag} has {len(values)} values in place of one")
        return values[0]

    def _same(self, tag: int, default: int) -> int:
        """Return the value that a tag has for every channel."""
        values = self._tags.get(tag, (default,))
        if len(values) not in (1, self.channels) or len(set(values)) != 1:
            raise unsupported("a TIFF whose channels differ in their samples")
        return values[0]

    def _kind(self) -> Kind:
        photometric = self._one(PHOTOMETRIC)
        colors, base = COLORS.get(photometric, (f"photometric {photometric}", self.channels))
        sample = SAMPLE_FORMATS.get(self._same(SAMPLE_FORMAT, 1), "unknown")
        compression = self.compression
        predictor = self._one(PREDICTOR, 1)
        if predictor != 1:
            compression += " with a predictor" if predictor == 2 else f" with the predictor {predictor}"
        self._extra = self.channels - base
        if self._extra < 0:
            raise damaged(f"the TIFF has {self.channels} channels of {colors}")
        return Kind("TIFF", self.depth, sample, colors, self.channels, self.planar, compression)

    def _check_extras(self) -> None:
        """Refuse what changes the meaning of samples and is not part of the kind."""
        tags, colors = self._tags, self.kind.colors
        extra = tags.get(EXTRA_SAMPLES, (0,) * self._extra)
        if len(extra) != self._extra:
            raise damaged(f"the TIFF names {len(extra)} extra channels and has {self._extra}")
        if any(value not in (0, 2) for value in extra):
            raise unsupported("a TIFF whose colours are multiplied by its alpha channel")
        if self._one(INK_SET, 1) != 1 and colors == "CMYK":
            raise unsupported("a TIFF of other inks than CMYK")
        if self._one(PLANAR, 1) not in (1, 2):
            raise damaged(f"the TIFF's planes are arranged in the unknown way {self._one(PLANAR, 1)}")
        if self.depth == 12 and self._order == ">":
            raise unsupported("a big-endian TIFF of 12-bit samples")
        fill = self._one(FILL_ORDER, 1)
        fax = self.compression.startswith("fax")
        if fill != 1 and not (fill == 2 and (fax or (self.compression == "uncompressed" and self.depth < 8 and colors != "palette"))):
            raise unsupported(f"a TIFF whose bits are in the order {fill}")
        if colors == "palette":
            table = tags.get(COLOR_MAP, ())
            if self.depth > 16 or len(table) != 3 << self.depth:
                raise damaged("the TIFF's palette is missing or has a wrong size")
            if 0 < max(table) < 256:
                raise unsupported("a TIFF whose palette has 8 bits in place of 16")

    def _check_segments(self) -> tuple[tuple[int, Values], tuple[int, Values]]:
        """Return the tags and values of the offsets and sizes of strips or tiles, after a check that they hold all rows."""
        tags, tiled = self._tags, TILE_WIDTH in self._tags or TILE_OFFSETS in self._tags
        planes = self.channels if self.planar else 1
        if tiled:
            width, height = self._one(TILE_WIDTH), self._one(TILE_HEIGHT)
            if not 0 < width <= 1 << 16 or not 0 < height <= 1 << 16 or width % 16 or height % 16:
                raise damaged(f"the TIFF's tiles have {width} x {height} pixels")
            across, down = -(-self.width // width), -(-self.height // height)
            offset_tag, count_tag = TILE_OFFSETS, TILE_COUNTS
        else:
            width, height = self.width, min(self._one(ROWS_PER_STRIP, self.height), self.height)
            if height < 1:
                raise damaged("the TIFF's strips have no rows")
            across, down = 1, -(-self.height // height)
            offset_tag, count_tag = STRIP_OFFSETS, STRIP_COUNTS
        wanted = across * down * planes
        offsets, counts = tags.get(offset_tag, ()), tags.get(count_tag)
        row = (width * self.depth * (self.channels // planes) + 7) // 8
        rows = [height if tiled else min(height, self.height - top * height) for top in range(down)] if wanted <= len(self._data) else []
        sizes = tuple(row * count for count in rows for _ in range(across)) * planes
        if counts is None and self.compression == "uncompressed":  # libtiff reckons them as well
            counts = sizes
        if len(offsets) < wanted or counts is None or len(counts) < wanted:
            raise cut_off("TIFF", f"{wanted} strips or tiles make its picture, and it has {min(len(offsets), len(counts or ()))}")
        if len(offsets) > wanted or len(counts) > wanted:
            raise damaged(f"{wanted} strips or tiles make the TIFF's picture, and it has {max(len(offsets), len(counts))}")
        for offset, count, size in zip(offsets, counts, sizes, strict=True):
            missing = count < size if self.compression == "uncompressed" else count < 1
            if missing or offset < 8 or offset + count > len(self._data):
                raise cut_off("TIFF", "a strip or a tile is not whole")
            if self.compression == "JPEG" and not self._data[offset : offset + count].rstrip(b"\0").endswith(b"\xff\xd9"):
                raise cut_off("TIFF", "the JPEG in a strip or a tile is not whole")
        return (offset_tag, offsets), (count_tag, counts)

    def stripped(self) -> bytes:
        """Return the file with a directory of the tags that the pixels need, and of this picture alone."""
        place = (len(self._data) + 1) & ~1
        tags: dict[int, tuple[str, Values]] = {}
        for tag in KEPT & self._tags.keys():
            long = tag in (WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT, T4, T6)
            tags[tag] = "B" if tag == JPEG_TABLES else "I" if long else "H", self._tags[tag]
        for tag, values in self._segments:
            tags[tag] = "I", values
        if ROWS_PER_STRIP in tags:
            tags[ROWS_PER_STRIP] = "I", (min(self._tags[ROWS_PER_STRIP][0], self.height),)
        tags[BITS] = "H", (self.depth,) * self.channels
        tags[SAMPLE_FORMAT] = "H", (1,) * self.channels
        directory, far, at = b"", b"", place + 2 + 12 * len(tags) + 4
        codes = {"B": 7, "H": 3, "I": 4}
        try:
            for tag, (code, numbers) in sorted(tags.items()):
                raw: Any = struct.pack(f"{self._order}{len(numbers)}{code}", *numbers)
                entry = struct.pack(self._order + "HHI", tag, codes[code], len(numbers))
                if len(raw) > 4:
                    directory += entry + struct.pack(self._order + "I", at + len(far))
                    far += raw + bytes(len(raw) & 1)
                else:
                    directory += entry + raw.ljust(4, b"\0")
            head = self._data[:2] + struct.pack(self._order + "HI", 42, place)
        except struct.error:
            raise unsupported("a TIFF of over 4 GiB, or with a tag out of its range") from None
        count = struct.pack(self._order + "H", len(tags))
        return b"".join([head, memoryview(self._data)[8:], bytes(place - len(self._data)), count, directory, bytes(4), far])
