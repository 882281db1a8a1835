"""What a file is by its bytes, where decoding did not tell: kinds that are not decoded, and files that end too early."""

from __future__ import annotations

import struct

TAR = "a tar archive"

UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%!PS", "a PostScript program"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (a drawing)"),
    (40, b" EMF", "a Windows metafile (a drawing)"),
    (0, b"SIMPLE  =", "a FITS table"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"GRIB", "a GRIB weather field"),
    (0, b"BUFR", "a BUFR weather report"),
    (0, b"DDS ", "a DirectDraw texture"),
    (0, b"qoif", "a QOI image"),
    (0, b"icns", "an Apple icon"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (4, b"ftypheic", "a HEIF image (HEIC)"),
    (4, b"ftypheix", "a HEIF image (HEIC)"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image sequence"),
    (4, b"ftyp", "a video"),
    (4, b"moov", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"\x00\x00\x01\xba", "a video"),
    (0, b"FLV\x01", "a video"),
    (8, b"AVI LIST", "a video"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (257, b"ustar", TAR),
)
"""(offset, bytes there, what it is): formats that are pictures to a user, or hold some, but are not decoded here.

Programs (PostScript) would have to be run, drawings have no pixels, and a Photoshop document need not hold its flattened image.
"""

TIFF_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value of each of TIFF's types."""


def unsupported_kind(data: bytes) -> str | None:
    """Return what a file is that is not decoded here, in words; None if it is unknown."""
    if data[4:11] == b"ftypavi":  # AVIF is decoded; one that is damaged is no video
        return None
    for offset, magic, kind in UNSUPPORTED:
        if data[offset : offset + len(magic)] == magic:
            return kind
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "an SVG drawing"
    return None


def ends_early(data: bytes, source_format: str) -> bool:
    """Whether the structure of a file of a known format says that bytes are missing at its end.

    It is asked only of files that did not decode, to name the reason. False also where the structure can't be read.
    """
    try:
        if source_format == "WEBP":
            return len(data) < 12 or _little32(data, 4) + 8 > len(data)
        if source_format == "JPEG2000":
            return not data.rstrip(b"\0").endswith(b"\xff\xd9")
        if source_format == "JPEG":
            return b"\xff\xd9" not in data[-4096:]
        if source_format == "PNG":
            return b"IEND" not in data[-4096:]
        if source_format == "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        if source_format == "BMP":
            return len(data) < 26 or _little32(data, 2) > len(data)
        if source_format == "TIFF":
            return _tiff_ends_early(data)
        if source_format == "AVIF":
            return _boxes_end_early(data)
        if source_format == "ICO":
            return _icon_ends_early(data)
    except (struct.error, IndexError, OverflowError):
        return True  # the structure itself goes beyond the end
    return False


def _little32(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])


def _icon_ends_early(data: bytes) -> bool:
    for index in range(struct.unpack_from("<H", data, 4)[0]):
        size, offset = struct.unpack_from("<II", data, 6 + 16 * index + 8)
        if offset + size > len(data):
            return True
    return False


def _boxes_end_early(data: bytes) -> bool:
    """Whether the top-level boxes of an ISO base media file (AVIF) reach beyond its end."""
    offset = 0
    while offset < len(data):
        size = struct.unpack_from(">I", data, offset)[0]
        if size == 0:  # the box reaches to the end of the file, wherever that is
            return False
        if size == 1:
            size = struct.unpack_from(">Q", data, offset + 8)[0]
        if size < 8:
            return False
        offset += size
    return offset > len(data)


def _tiff_ends_early(data: bytes) -> bool:
    """Whether the first directory of a TIFF, or a strip or tile that it names, lies beyond the file's end."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] != 42:
        return False
    directory = struct.unpack_from(order + "I", data, 4)[0]
    found: dict[int, list[int]] = {}
    for index in range(struct.unpack_from(order + "H", data, directory)[0]):
        entry = directory + 2 + 12 * index
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        size = count * TIFF_TYPE_SIZES.get(kind, 0)
        where = entry + 8 if size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        if where + size > len(data):
            return True
        if tag in (273, 279, 324, 325) and kind in (3, 4):
            found[tag] = list(struct.unpack_from(f"{order}{count}{'H' if kind == 3 else 'I'}", data, where))
    for offsets, counts in ((273, 279), (324, 325)):
        pairs = zip(found.get(offsets, []), found.get(counts, []), strict=False)
        if any(offset + count > len(data) for offset, count in pairs):
            return True
    return False
