"""Read the headers of GIF, WebP, BMP, ICO and the PNM family."""

from __future__ import annotations

import dataclasses
import re
import struct

from . import png
from .base import Header, NotThisFormat, cut_off, damaged, exif_orientation
from .kinds import Kind


def read_gif(data: bytes) -> Header:
    """Return a GIF's header (CompuServe, GIF89a).

    Raises:
        BadImage: ``truncated``: it has no picture.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, control, pictures = [data[:at]], b"", 0
    while at < len(data) and data[at] in b"!,":
        start = at
        if data[at] == 0x21:  # an extension: the graphic control is kept, comments and others are not
            at = _after_blocks(data, at + 2)
            if data[start + 1 : start + 2] == b"\xf9":
                control = data[start:at]
            continue
        pictures += 1
        if len(data) < at + 10:
            break
        left, top, across, down, local = struct.unpack_from("<HHHHB", data, at + 1)
        at = _after_blocks(data, at + 11 + (3 << (local & 7) + 1 if local & 0x80 else 0))
        if pictures == 1:
            width, height = max(width, left + across), max(height, top + down)
            kept += [control, data[start:at]]
    if not pictures:
        raise cut_off("GIF", "it has no picture")
    kind = Kind("GIF", 8, "uint", "palette", 1, False, "LZW")
    cut = not data.rstrip(b"\0").endswith(b";")
    return Header(kind, width, height, lambda: b"".join([*kept, b";"]), pictures=pictures, regular=False, cut=cut)


def _after_blocks(data: bytes, at: int) -> int:
    """Return the offset behind a chain of a GIF's data blocks."""
    while at < len(data) and data[at]:
        at += data[at] + 1
    return min(at + 1, len(data))


def read_webp(data: bytes) -> Header:
    """Return a WebP's header (Google, WebP container specification).

    Raises:
        BadImage: ``truncated`` or ``decode_error``.
    """
    chunks = _riff_chunks(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")))
    names = [name for name, _, _ in chunks]
    if not names:
        raise cut_off("WEBP", "it has no picture")
    orientation, animated = 1, b"ANMF" in names
    inner = chunks
    if animated:
        start, end = next((start, end) for name, start, end in chunks if name == b"ANMF")
        inner = _riff_chunks(data, start + 8 + 16, end)
    image = next(((name, start + 8) for name, start, _ in inner if name in (b"VP8 ", b"VP8L")), None)
    if image is None:
        raise cut_off("WEBP", "it has no picture")
    width, height, alpha = _webp_size(data, *image)
    kept: list[bytes] = []
    for name, start, end in chunks:
        chunk = data[start:end]
        if name == b"VP8X":
            flags = chunk[8] & 0b00010010  # alpha and animation
            alpha = bool(flags & 0x10)
            width, height = (int.from_bytes(chunk[at : at + 3], "little") + 1 for at in (12, 15))
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        elif name == b"EXIF":
            orientation = exif_orientation(chunk[8:])
            continue
        elif name not in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            continue
        kept.append(chunk + bytes(len(chunk) & 1))

    def stripped() -> bytes:
        body = b"WEBP" + b"".join(kept)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    kind = Kind("WEBP", 8, "uint", "RGB", 4 if alpha else 3, False, "lossless" if image[0] == b"VP8L" else "lossy")
    return Header(kind, width, height, stripped, orientation, pictures=max(1, names.count(b"ANMF")), regular=not animated)


def _riff_chunks(data: bytes, at: int, end: int) -> list[tuple[bytes, int, int]]:
    """Return (name, start, end) of each whole chunk."""
    found = []
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > len(data):
            raise cut_off("WEBP", f"its chunk {name.decode('latin-1')!r} is not whole")
        found.append((name, at, at + 8 + size))
        at += 8 + size + (size & 1)
    return found


def _webp_size(data: bytes, name: bytes, at: int) -> tuple[int, int, bool]:
    if name == b"VP8L":
        bits = struct.unpack_from("<I", data, at + 1)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    width, height = struct.unpack_from("<HH", data, at + 6)
    return width & 0x3FFF, height & 0x3FFF, False


def read_bmp(data: bytes) -> Header:
    """Return the header of a Windows or OS/2 bitmap.

    Raises:
        NotThisFormat: it is none.
        BadImage: ``truncated`` or ``decode_error``.
    """
    header = _bitmap(data, "BMP", 14)
    return dataclasses.replace(header, cut=int.from_bytes(data[2:6], "little") > len(data))


def _bitmap(data: bytes, file_format: str, at: int) -> Header:
    """Return the header of a device-independent bitmap at an offset."""
    size = struct.unpack_from("<I", data, at)[0]
    if size == 12:
        width, height, planes, depth = struct.unpack_from("<HHHH", data, at + 4)
        compression = 0
    elif size in (40, 52, 56, 64, 108, 124):
        width, height, planes, depth, compression = struct.unpack_from("<iiHHI", data, at + 4)
        height = abs(height)
    else:
        raise NotThisFormat
    if planes != 1 or width < 1 or height < 1:
        raise NotThisFormat
    colors, channels = ("palette", 1) if depth <= 8 else ("RGB", 4 if depth == 32 else 3)
    packed = {0: "uncompressed", 1: "RLE", 2: "RLE", 3: "bit fields", 4: "JPEG", 5: "PNG"}.get(compression, f"compression {compression}")
    if compression == 3:
        masks = struct.unpack_from("<IIII" if size >= 56 else "<III", data, at + 40)
        colors = BIT_FIELDS.get((depth, *masks), "colours with unusual masks")
    elif compression in (1, 2) and depth != (8 if compression == 1 else 4):
        raise damaged(f"the {file_format} has RLE and {depth} bits a pixel")
    kind = Kind(file_format, depth, "uint", colors, channels, False, packed)
    return Header(kind, width, height, lambda: data, regular=False)


BIT_FIELDS = {
    (16, 0x7C00, 0x03E0, 0x001F): "RGB 555",
    (16, 0x7C00, 0x03E0, 0x001F, 0): "RGB 555",
    (16, 0xF800, 0x07E0, 0x001F): "RGB 565",
    (16, 0xF800, 0x07E0, 0x001F, 0): "RGB 565",
    (24, 0xFF0000, 0xFF00, 0xFF): "RGB",
    (24, 0xFF0000, 0xFF00, 0xFF, 0): "RGB",
    (32, 0xFF0000, 0xFF00, 0xFF): "RGB",
    (32, 0xFF0000, 0xFF00, 0xFF, 0): "RGB",
    (32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000): "RGBA",
}
"""(bits, masks of red, green, blue and alpha) of the bit fields that are decoded."""


def read_ico(data: bytes) -> Header:
    """Return the header of an icon's largest picture.

    Raises:
        NotThisFormat: it is none.
        BadImage: ``truncated`` or ``decode_error``.
    """
    count = struct.unpack_from("<H", data, 4)[0]
    best: Header | None = None
    for at in range(6, 6 + 16 * count, 16):
        size, offset = struct.unpack_from("<II", data, at + 8)
        if data[at + 3] or offset < 6 + 16 * count or size < 12:
            raise NotThisFormat
        if offset + size > len(data):
            raise cut_off("ICO", "a picture is not whole")
        found = _icon_picture(data[at : at + 8], data[offset : offset + size])
        if best is None or (found.width * found.height, found.kind.depth) > (best.width * best.height, best.kind.depth):
            best = found
    if best is None:
        raise NotThisFormat
    return best


def _icon_picture(entry: bytes, picture: bytes) -> Header:
    """Return the header of one picture: a PNG, or a bitmap with a mask of transparent pixels below it."""
    if picture[:8] == png.SIGNATURE:
        return png.read(picture)
    header = _bitmap(picture, "ICO", 0)
    width, height = header.width, header.height // 2
    if width > 256 or height > 256 or height < 1:
        raise damaged(f"the icon has a bitmap of {width} x {height} pixels")
    entry = bytes([width & 255, height & 255]) + entry[2:]
    alone = b"\0\0\1\0\1\0" + entry + struct.pack("<II", len(picture), 22) + picture
    return Header(header.kind, width, height, lambda: alone, regular=False)


PNM = {
    b"P1": ("white is zero", 1, "text"),
    b"P2": ("grey", 1, "text"),
    b"P3": ("RGB", 3, "text"),
    b"P4": ("white is zero", 1, "uncompressed"),
    b"P5": ("grey", 1, "uncompressed"),
    b"P6": ("RGB", 3, "uncompressed"),
}
_TOKEN = re.compile(rb"(?:[ \t\r\n\f\v]+|#[^\r\n]*[\r\n])+(\d{1,9})")


def read_pnm(data: bytes) -> Header:
    """Return the header of a PBM, a PGM or a PPM (netpbm); the comments are dropped.

    Raises:
        NotThisFormat: it is none.
        BadImage: ``truncated`` or ``decode_error``.
    """
    colors, channels, packed = PNM[data[:2]]
    numbers: list[int] = []
    at = 2
    while len(numbers) < (2 if channels == 1 and colors != "grey" else 3):
        token = _TOKEN.match(data, at)
        if token is None:
            raise NotThisFormat
        numbers.append(int(token.group(1)))
        at = token.end()
    width, height, highest = (*numbers, 1)[:3]
    if not 0 < highest < 1 << 16 or data[at : at + 1] not in (b" ", b"\t", b"\r", b"\n", b"\f", b"\v"):
        raise NotThisFormat
    depth = 1 if colors == "white is zero" else 8 if highest < 256 else 16
    pictures = 1
    if packed == "uncompressed":
        end = at + 1 + height * ((width * depth * channels + 7) // 8)
        if end > len(data):
            raise cut_off("PPM", "rows are missing")
        pictures += bool(re.match(rb"P[1-7]\s", data[end : end + 3]))
    top = b"%s %d %d%s\n" % (data[:2], width, height, b"" if depth == 1 else b" %d" % highest)
    kind = Kind("PPM", depth, "uint", colors, channels, False, packed)
    return Header(kind, width, height, lambda: b"".join([top, memoryview(data)[at + 1 :]]), pictures=pictures, regular=False)
