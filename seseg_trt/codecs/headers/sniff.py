"""Recognise a file's format by its bytes."""

from __future__ import annotations

import re

from ...errors import BadImage
from .boxes import CODESTREAM, JP2_SIGNATURE
from .kinds import unsupported

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (JP2_SIGNATURE, "JPEG2000"),
    (CODESTREAM, "JPEG2000"),
    (b"BM", "BMP"),
    (b"\0\0\1\0", "ICO"),
)
"""The first bytes of the supported formats, those of WebP, AVIF, HEIF and PNM aside."""


def file_format(data: bytes) -> str | None:
    """Return the format that a file's first bytes are of, or None. ``BMP``, ``ICO`` and ``PPM`` have weak signatures."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _brand(data)
    if re.match(rb"P[1-6][ \t\r\n\f\v#]", data[:3]):
        return "PPM"
    return next((name for magic, name in SIGNATURES if data.startswith(magic)), None)


def _brand(data: bytes) -> str | None:
    """Return AVIF or HEIF if a file of boxes says that it is one, otherwise None."""
    size = min(int.from_bytes(data[:4], "big"), 4096)
    major, others = data[8:12], {data[at : at + 4] for at in range(16, size - 3, 4)}
    if major in AVIF_BRANDS:
        return "AVIF"
    if major in HEIF_BRANDS:
        return "AVIF" if major in (b"mif1", b"msf1", b"mif2") and others & AVIF_BRANDS else "HEIF"
    return None


TAR = "a tar"

UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%!PS", "a PostScript program"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (a drawing)"),
    (40, b" EMF", "a Windows metafile (a drawing)"),
    (0, b"SIMPLE  =", "a FITS table"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 data"),
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
    (4, b"ftypcrx ", "a Canon raw photograph (CR3)"),
    (4, b"ftypjxl ", "a JPEG XL image"),
    (4, b"ftyp", "a video"),
    (4, b"moov", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"\x00\x00\x01\xba", "a video"),
    (0, b"FLV\x01", "a video"),
    (8, b"AVI LIST", "a video"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a video"),
    (0, b"OggS", "a sound or a video"),
    (0, b"ID3", "a sound"),
    (8, b"WAVEfmt", "a sound"),
    (0, b"\0\0\2\0\1\0", "a mouse cursor (CUR)"),
    (0, b"P7\n", "a PAM image"),
    (0, b"PF\n", "a floating-point image (PFM)"),
    (0, b"Pf\n", "a floating-point image (PFM)"),
    (0, b"PF4\n", "a floating-point image (PFM)"),
    (0, b"II\xbc\1", "a JPEG XR image"),
    (0, b"IIU\0", "a raw photograph"),
    (0, b"IIRO", "a raw photograph"),
    (0, b"IIRS", "a raw photograph"),
    (0, b"MMOR", "a raw photograph"),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph"),
    (0, b"FOVb", "a raw photograph"),
    (0, b"\0MRM", "a raw photograph"),
    (0, b"\x8aMNG\r\n\x1a\n", "an MNG animation"),
    (0, b"\x8bJNG\r\n\x1a\n", "a JNG image"),
    (0, b"BPG\xfb", "a BPG image"),
    (0, b"FLIF", "a FLIF image"),
    (0, b"\1\xda\0\1", "an SGI image"),
    (0, b"\1\xda\1\1", "an SGI image"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"/* XPM */", "an XPM image"),
    (0, b"#define ", "an XBM image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"Rar!\x1a\7", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"version https://git-lfs", "a Git LFS pointer"),
    (257, b"ustar", TAR),
)
"""(offset, bytes, description) of formats that users may take for images, or that contain images, but that are not decoded.

PostScript is a program that would have to be run, drawings have no pixels, and a Photoshop document may lack its flattened image.
"""


WAYS_OUT = {
    "video": "extract its frames as images first",
    "sound": "leave it out",
    "archive": "unpack it first",
    "pointer": "fetch the file with `git lfs pull`",
    "file": "unpack it first",
}
"""The way out for a kind, by the last word of its description."""


def unsupported_kind(data: bytes) -> BadImage | None:
    """Return the error for a file of an unsupported format, which names it; None if the format is unknown."""
    for offset, magic, kind in UNSUPPORTED:
        if data[offset : offset + len(magic)] == magic:
            if kind == TAR:
                return unsupported(kind, "name it itself as an input, and its entries are read")
            return unsupported(kind, WAYS_OUT.get(kind.split()[-1], "convert it to a PNG first"))
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return unsupported("an SVG drawing", "convert it to a PNG first")
    if head.startswith((b"<!doctype html", b"<html")):
        return unsupported("an HTML page", "fetch the image that it stands for")
    return None
