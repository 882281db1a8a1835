"""Read TIFF headers (TIFF 6.0, Adobe's technical notes, BigTIFF), and write a directory of the tags that pixels need.

A decoder gets the file with that directory in place of its own. So text, profiles and damaged private tags never reach it, and a
BigTIFF becomes a TIFF.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from .base import ORIENTATION_TAG, Header, cut_off, damaged
from .kinds import Kind, unsupported
from .unpacked import unpacked_size

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, T4, T6, PREDICTOR = 273, 277, 278, 279, 284, 292, 293, 317
COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES = 320, 322, 323, 324, 325, 330
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 332, 338, 339, 347, 530
MPF_ENTRIES = 0xB002
"""A tag of files of several JPEGs."""
KEPT = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, T4, T6}
    | {PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING}
)
LONG = frozenset({WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT, T4, T6, STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS})
READ = KEPT | {SUBFILE, OLD_SUBFILE, SUB_DIRECTORIES, INK_SET, ORIENTATION_TAG}

NUMBERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
BYTES = {1: "B", 7: "B"}
"""The struct codes of the field types that these tags have: SHORT, LONG, IFD, LONG8, IFD8, and BYTE and UNDEFINED."""
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
MOST_CHANNELS = 64

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
    order, big = _place(data)
    if at is None:
        at = _first_directory(data)
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


def _place(data: bytes) -> _Place:
    order = "<" if data[:2] == b"II" else ">"
    return _Place(order, struct.unpack_from(order + "H", data, 2)[0] == 43)


def _first_directory(data: bytes) -> int:
    order, big = _place(data)
    return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _values(data: bytes, entry: int, tag: int, field: int, place: _Place) -> Values:
    code = (BYTES if tag in (JPEG_TABLES, MPF_ENTRIES) else NUMBERS).get(field)
    if code is None or (tag == COLOR_MAP and field != 3):
        raise damaged(f"the TIFF's tag {tag} has the field type {field}, which it can't have")
    count = struct.unpack_from(place.order + ("Q" if place.big else "I"), data, entry + 4)[0]
    where, room = (entry + 12, 8) if place.big else (entry + 8, 4)
    size = count * struct.calcsize(code)
    if size > room:
        where = struct.unpack_from(place.order + ("Q" if place.big else "I"), data, where)[0]
    if where < 8:
        raise damaged(f"the TIFF's tag {tag} lies within the file's signature")
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
    hidden, at, seen = 0, _first_directory(data), set[int]()
    while (0 < at < len(data) or not seen) and at not in seen and len(seen) < MOST_PAGES:
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
        turned = tags.get(ORIENTATION_TAG, ())[:1]
        self.orientation = turned[0] if turned and 1 <= turned[0] <= 8 else 1
        self.channels = self._one(SAMPLES, 1)
        if not 0 < self.channels <= MOST_CHANNELS:
            raise unsupported(f"a TIFF of {self.channels} channels")
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
        offsets, counts = tags.get(offset_tag, ()), tags.get(count_tag, ())
        row = (width * self.depth * (self.channels // planes) + 7) // 8
        rows = [height if tiled else min(height, self.height - top * height) for top in range(down)] if wanted <= len(self._data) else []
        sizes = tuple(row * count for count in rows for _ in range(across)) * planes
        self._sizes = sizes
        if len(offsets) < wanted or len(counts) < wanted:
            raise cut_off("TIFF", f"{wanted} strips or tiles make its picture, and it has {min(len(offsets), len(counts))}")
        if len(offsets) > wanted or len(counts) > wanted:
            raise damaged(f"{wanted} strips or tiles make the TIFF's picture, and it has {max(len(offsets), len(counts))}")
        for offset, count, size in zip(offsets, counts, sizes, strict=True):
            raw = self.compression == "uncompressed"
            if (count < size if raw else count < 1) or offset < 8 or offset + count > len(self._data):
                raise cut_off("TIFF", "a strip or a tile is not whole")
            if raw and count > max(sizes):
                raise damaged("the TIFF's strips or tiles hold more than its picture")
            if not _fax_is_whole(self.compression, self._data[offset : offset + count], self._tags, rows[0]):
                raise cut_off("TIFF", "rows of a strip or a tile are missing, or it is no fax")
            if self.compression == "JPEG" and not self._data[offset : offset + count].rstrip(b"\0").endswith(b"\xff\xd9"):
                raise cut_off("TIFF", "the JPEG in a strip or a tile is not whole")
        return (offset_tag, offsets), (count_tag, counts)

    def stripped(self) -> bytes:
        """Return the file with a directory of the tags that the pixels need, and of this picture alone."""
        if self._has_surplus():
            raise damaged("the TIFF's strips or tiles hold more than its picture")
        kept = {tag: self._tags[tag] for tag in KEPT & self._tags.keys()} | dict(self._segments)
        if ROWS_PER_STRIP in kept:
            kept[ROWS_PER_STRIP] = (min(kept[ROWS_PER_STRIP][0], self.height),)
        kept |= {BITS: (self.depth,) * self.channels, SAMPLE_FORMAT: (1,) * self.channels, PLANAR: (2 if self.planar else 1,)}
        if self._extra:
            kept[EXTRA_SAMPLES] = (2,) * self._extra  # alpha, which is dropped, whatever the file calls it
        return self._file(kept, self._data)

    def _has_surplus(self) -> bool:
        """Return whether the first strip or tile holds more bytes than its rows have, or the last strip more and yet not all rows."""
        compression = self.compression
        if compression not in ("LZW", "deflate", "PackBits"):
            return False
        (_, offsets), (_, counts) = self._segments
        first, last = (self._data[offsets[index] : offsets[index] + counts[index]] for index in (0, -1))
        full, rest = self._sizes[0], self._sizes[-1]
        if unpacked_size(first, compression, full + 1) > full:
            return True
        return rest < full and rest < unpacked_size(last, compression, full + 1) != full

    def _file(self, values: dict[int, Values], data: bytes) -> bytes:
        """Return a file with a directory of these tags behind the data, whose first 8 bytes are replaced."""
        place = (len(data) + 1) & ~1
        tags = {tag: ("B" if tag == JPEG_TABLES else "I" if tag in LONG else "H", numbers) for tag, numbers in values.items()}
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
        return b"".join([head, memoryview(data)[8:], bytes(place - len(data)), count, directory, bytes(4), far])


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
END_OF_LINE = "000000000001"


def _fax_is_whole(compression: str, piece: bytes, tags: dict[int, Values], rows: int) -> bool:
    """Return whether a strip's codes end as ITU-T T.6 or T.4 asks. libtiff fills rows that are not there, with a warning."""
    if not compression.startswith("fax"):
        return True
    if tags.get(FILL_ORDER) == (2,):
        piece = piece.translate(REVERSED)
    bits = f"{int.from_bytes(piece, 'big'):0{8 * len(piece)}b}"
    if compression == "fax group 4":
        return bits.rstrip("0").endswith(END_OF_LINE * 2)
    return bits.count(END_OF_LINE) >= rows
