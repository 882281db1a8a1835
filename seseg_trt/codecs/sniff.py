"""Recognise unsupported and truncated files by their bytes, to give a precise reason when decoding fails."""

from __future__ import annotations

import struct
from collections.abc import Callable

TAR = "a tar"

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
"""(offset, bytes, description) of formats that users may take for images, or that contain images, but that are not decoded.

PostScript is a program that would have to be run, drawings have no pixels, and a Photoshop document may lack its flattened image.
"""

TIFF_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""The size in bytes of a value of each TIFF field type."""


def unsupported_kind(data: bytes) -> str | None:
    """Describe a file of an unsupported format, as in "a PDF document"; return None if the format is unknown."""
    if data[4:11] == b"ftypavi":  # AVIF is supported: don't call a damaged one a video
        return None
    for offset, magic, kind in UNSUPPORTED:
        if data[offset : offset + len(magic)] == magic:
            return kind
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "an SVG drawing"
    return None


def ends_early(data: bytes, source_format: str) -> bool:
    """Return whether a file's structure shows that bytes are missing at its end.

    Args:
        data: the whole file.
        source_format: a key of :data:`seseg_trt.codecs.pillow.FORMATS`.

    Returns:
        False also for formats whose structure does not tell.
    """
    try:
        return source_format in _ENDS_EARLY and _ENDS_EARLY[source_format](data)
    except (struct.error, IndexError, OverflowError):
        return True  # the structure itself is cut off


def _icon_ends_early(data: bytes) -> bool:
    count = struct.unpack_from("<H", data, 4)[0]
    return any(sum(struct.unpack_from("<II", data, 6 + 16 * index + 8)) > len(data) for index in range(count))


def _boxes_end_early(data: bytes) -> bool:
    """Return whether the top-level boxes of an ISO base media file (AVIF) reach beyond its end."""
    offset = 0
    while offset < len(data):
        size = struct.unpack_from(">I", data, offset)[0]
        if size == 0:  # ISO/IEC 14496-12: the box extends to the end of the file
            return False
        if size == 1:
            size = struct.unpack_from(">Q", data, offset + 8)[0]
        if size < 8:
            return False
        offset += size
    return offset > len(data)


def _tiff_ends_early(data: bytes) -> bool:
    """Return whether a TIFF's first directory, or a strip or tile that it references, lies beyond the file's end."""
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


_ENDS_EARLY: dict[str, Callable[[bytes], bool]] = {
    "WEBP": lambda data: len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data),
    "JPEG2000": lambda data: not data.rstrip(b"\0").endswith(b"\xff\xd9"),
    "JPEG": lambda data: b"\xff\xd9" not in data[-4096:],
    "PNG": lambda data: b"IEND" not in data[-4096:],
    "GIF": lambda data: not data.rstrip(b"\0").endswith(b";"),
    "BMP": lambda data: len(data) < 26 or int.from_bytes(data[2:6], "little") > len(data),
    "TIFF": _tiff_ends_early,
    "AVIF": _boxes_end_early,
    "ICO": _icon_ends_early,
}
