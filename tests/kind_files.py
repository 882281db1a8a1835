"""Write a small file of every kind of samples that is decoded, with the samples that it holds.

The writers are independent of the decoders under test: TIFF, PNG, BMP, ICO and PNM files are put together here, JPEG 2000 and AVIF come
from imagecodecs, HEIF from pillow-heif. Pillow writes JPEG, WebP and GIF.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from seseg_trt.codecs.headers.kinds import Kind
from seseg_trt.codecs.headers.png import INTERLACED

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 53, 37
PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3))


@dataclasses.dataclass(frozen=True)
class Sample:
    """A file, and what is known of its picture.

    Attributes:
        label: for the name of a test.
        kind: what the header should say.
        data: the file.
        rgb: uint8 [H, W, 3], the picture by the stated rule.
        tolerance: how far a decoded pixel may be from ``rgb``; 0 for lossless kinds.
    """

    label: str
    kind: Kind
    data: bytes
    rgb: Array
    tolerance: int = 0


def samples_of(channels: int, depth: int) -> Array:
    """Return a picture of unsigned samples: [H, W] or [H, W, C], with all values of a small depth in it."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    stack = np.stack([(x * 997 * (channel + 1) + y * 2311) % (1 << depth) for channel in range(channels)], axis=-1)
    stack = stack.astype(np.uint16 if depth > 8 else np.uint8)
    return stack[..., 0] if channels == 1 else stack


def smooth(channels: int, depth: int) -> Array:
    """Return a picture that a lossy codec keeps well."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    top = (1 << depth) - 1
    stack = np.stack([x * top // (WIDTH - 1), y * top // (HEIGHT - 1), (x + y) * top // (WIDTH + HEIGHT), x * 0 + top][:channels], axis=-1)
    stack = stack.astype(np.uint16 if depth > 8 else np.uint8)
    return stack[..., 0] if channels == 1 else stack


def rule(values: Array, colors: str, depth: int) -> Array:
    """Return the stated 8-bit RGB of samples: small depths are spread over 0..255, of larger ones the high 8 bits are kept."""
    if colors == "palette":
        return PALETTE[values].astype(np.uint8)
    eight = (values * (255 // ((1 << depth) - 1)) if depth <= 8 else values >> (depth - 8)).astype(np.uint8)
    if colors == "white is zero":
        eight = 255 - eight
    if colors == "CMYK":
        return np.asarray(Image.fromarray(eight, "CMYK").convert("RGB"))
    if colors in ("grey", "white is zero"):
        grey = eight if eight.ndim == 2 else eight[..., 0]
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)
    return eight[..., :3]


def packed(values: Array, depth: int, order: str = ">") -> bytes:
    """Return rows of samples, each row padded to a byte; samples under 8 and of 12 bits lie from the high bit down."""
    if depth in (8, 16):
        return values.astype(f"{order}u{depth // 8}").tobytes()
    rows = []
    for row in values:
        bits = "".join(format(int(value), f"0{depth}b") for value in np.ravel(row))
        bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
        rows.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return b"".join(rows)


def every() -> Iterator[Sample]:
    """Yield samples of all kinds, several of some."""
    for make in (tiffs, faxes, jpegs_in_tiffs, pngs, jpegs, webps, gifs, bmps, icos, pnms, jpeg2000s, avifs):
        yield from make()


# TIFF


def tiff(pieces: list[bytes], order: str, tags: dict[int, tuple[int, ...]], *, tiled: bool = False, big: bool = False) -> bytes:
    """Return a TIFF of strips or tiles. All tags are written as LONG, those of the colour map and of samples as SHORT."""
    head = 16 if big else 8
    offsets = list(itertools.accumulate([head, *map(len, pieces)]))[:-1]
    tags = {**tags, (324 if tiled else 273): tuple(offsets), (325 if tiled else 279): tuple(map(len, pieces))}
    at = head + sum(map(len, pieces))
    at += at & 1
    count, room, offset, size = ("Q", 8, "Q", 20) if big else ("H", 4, "I", 12)
    entries, far = b"", b""
    place = at + struct.calcsize(count) + size * len(tags) + room
    for tag, values in sorted(tags.items()):
        short = tag in (258, 259, 262, 274, 277, 284, 317, 320, 338, 339)
        raw = struct.pack(f"{order}{len(values)}{'H' if short else 'I'}", *values)
        entries += struct.pack(f"{order}HH{offset}", tag, 3 if short else 4, len(values))
        if len(raw) <= room:
            entries += raw.ljust(room, b"\0")
        else:
            entries += struct.pack(order + offset, place + len(far))
            far += raw + bytes(len(raw) & 1)
    first = (b"II" if order == "<" else b"MM") + (struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at))
    body = b"".join(pieces)
    return first + body + bytes(len(body) & 1) + struct.pack(order + count, len(tags)) + entries + bytes(room) + far


PACKERS = {
    "uncompressed": (1, bytes),
    "LZW": (5, imagecodecs.lzw_encode),
    "deflate": (8, zlib.compress),
    "PackBits": (32773, None),
}


def tiff_of(values: Array, kind: Kind, order: str, *, tile: int = 0, rows: int = 11, big: bool = False, extra: int = 2) -> bytes:
    """Return samples as a TIFF of a lossless kind."""
    name, predicted = kind.compression.removesuffix(" with a predictor"), "predictor" in kind.compression
    code, pack = PACKERS[name]
    planes = [values[..., channel] for channel in range(kind.channels)] if kind.planar else [values]
    pieces = []
    for plane in planes:
        if tile:
            down, across = -(-HEIGHT // tile) * tile, -(-WIDTH // tile) * tile
            padded = np.pad(plane, [(0, down - HEIGHT), (0, across - WIDTH)] + [(0, 0)] * (plane.ndim - 2))
            cut = [padded[y : y + tile, x : x + tile] for y in range(0, down, tile) for x in range(0, across, tile)]
        else:
            cut = [plane[y : y + rows] for y in range(0, HEIGHT, rows)]
        for part in cut:
            if predicted:
                part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1)
            raw = packed(part, kind.depth, order)
            if pack is not None:
                pieces.append(bytes(pack(raw)))
            else:
                length = len(raw) // len(part)
                lines = [raw[at : at + length] for at in range(0, len(raw), length)]
                pieces.append(b"".join(bytes(imagecodecs.packbits_encode(line)) for line in lines))
    photometric = {"white is zero": 0, "grey": 1, "RGB": 2, "palette": 3, "CMYK": 5}[kind.colors]
    tags: dict[int, tuple[int, ...]] = {
        256: (WIDTH,),
        257: (HEIGHT,),
        258: (kind.depth,) * kind.channels,
        259: (code,),
        262: (photometric,),
    }
    tags |= {277: (kind.channels,), 284: (2 if kind.planar else 1,), 317: (2 if predicted else 1,)}
    tags |= {322: (tile,), 323: (tile,)} if tile else {278: (rows,)}
    if kind.colors == "palette":
        tags[320] = tuple(int(v) * 257 for v in PALETTE[: 1 << kind.depth].T.ravel())
    if kind.channels in (2, 4) and kind.colors != "CMYK":
        tags[338] = (extra,)
    return tiff(pieces, order, tags, tiled=bool(tile), big=big)


def tiffs() -> Iterator[Sample]:
    """Yield TIFFs of every lossless kind, in both byte orders, in strips and tiles, and as BigTIFF."""
    from seseg_trt.codecs.headers.kinds import CHECKED

    for kind in sorted(CHECKED):
        if kind.format != "TIFF" or kind.compression == "JPEG" or kind.compression.startswith("fax"):
            continue
        values = samples_of(kind.channels, kind.depth)
        rgb = rule(values, kind.colors, kind.depth)
        for order, tile, big in (("<", 0, False), (">", 16, False), (">", 0, True), ("<", 32, True)):
            if kind.depth == 12 and order == ">":
                continue
            label = f"{'little' if order == '<' else 'big'}-endian {'tiles' if tile else 'strips'}{', BigTIFF' if big else ''}"
            yield Sample(label, kind, tiff_of(values, kind, order, tile=tile, big=big), rgb)


def faxes() -> Iterator[Sample]:
    """Yield bilevel TIFFs in the codes of fax machines."""
    values = samples_of(1, 1)
    for (name, compression), (colors, photometric) in itertools.product(
        (("fax group 3", "group3"), ("fax group 4", "group4")), (("white is zero", 0), ("grey", 1))
    ):
        buffer = io.BytesIO()
        Image.fromarray(values.astype(bool)).save(buffer, "TIFF", compression=compression, tiffinfo={262: photometric})
        yield Sample(compression, Kind("TIFF", 1, "uint", colors, 1, False, name), buffer.getvalue(), rule(values, "grey", 1))


def jpegs_in_tiffs() -> Iterator[Sample]:
    """Yield TIFFs of JPEG strips and tiles."""
    import tifffile

    for (colors, channels), tile in itertools.product((("grey", 1), ("RGB", 3), ("YCbCr", 3)), (None, (32, 32))):
        values = smooth(channels, 8)
        buffer = io.BytesIO()
        how: dict[str, Any] = {"level": 95} | ({"outcolorspace": "RGB"} if colors == "RGB" else {})
        photometric = "minisblack" if channels == 1 else "rgb"  # tifffile makes YCbCr of it unless told not to
        tifffile.imwrite(
            buffer, values, photometric=photometric, compression="jpeg", compressionargs=how, tile=tile, rowsperstrip=16, metadata=None
        )
        label = "tiles" if tile else "strips"
        yield Sample(label, Kind("TIFF", 8, "uint", colors, channels, False, "JPEG"), buffer.getvalue(), rule(values, colors, 8), 70)


# PNG


def pngs() -> Iterator[Sample]:
    """Yield PNGs of all types, interlaced and not."""
    for colors, channels, color_type, depths in (
        ("grey", 1, 0, (1, 2, 4, 8, 16)),
        ("palette", 1, 3, (1, 2, 4, 8)),
        ("grey", 2, 4, (8, 16)),
        ("RGB", 3, 2, (8, 16)),
        ("RGB", 4, 6, (8, 16)),
    ):
        for depth, interlace in itertools.product(depths, (0, 1)):
            values = samples_of(channels, depth)
            compression = "interlaced deflate" if interlace else "deflate"
            kind = Kind("PNG", depth, "uint", colors, channels, False, compression)
            yield Sample(compression, kind, png_of(values, depth, color_type, interlace), rule(values, colors, depth))


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG's chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(values: Array, depth: int, color_type: int, interlace: int) -> bytes:
    """Return samples as a PNG without filters."""
    rows = b""
    for x, y, dx, dy in INTERLACED if interlace else ((0, 0, 1, 1),):
        for row in values[y::dy, x::dx]:
            if len(row):
                rows += b"\0" + packed(row[np.newaxis], depth)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, color_type, 0, 0, interlace)
    palette = chunk(b"PLTE", PALETTE[: 1 << depth].astype(np.uint8).tobytes()) if color_type == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# JPEG, WebP, GIF


def saved(image: Image.Image, file_format: str, **parameters: Any) -> bytes:
    """Return an image as Pillow saves it."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **parameters)
    return buffer.getvalue()


def jpegs() -> Iterator[Sample]:
    """Yield JPEGs of all colours and codings."""
    for (colors, channels), coding, subsampling in itertools.product(
        (("grey", 1), ("YCbCr", 3), ("RGB", 3), ("CMYK", 4), ("YCCK", 4)), ("baseline", "extended", "progressive"), (0, 1, 2)
    ):
        if colors in ("grey", "RGB", "CMYK") and subsampling:
            continue
        values = smooth(channels, 8)
        if colors == "YCCK" and coding == "progressive":  # the samples of a CMYK file, called YCCK
            how = {"quality": 95, "subsampling": subsampling, "progressive": True}
            data = saved(Image.fromarray(values, "CMYK"), "JPEG", **how).replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
            values = 255 - np.asarray(imagecodecs.jpeg8_decode(data))
        elif colors == "YCCK":
            sampling = ("444", "422", "420")[subsampling]
            data = bytes(imagecodecs.jpeg8_encode(255 - values, level=95, colorspace="CMYK", outcolorspace="YCCK", subsampling=sampling))
        else:
            image = Image.fromarray(values, "CMYK" if channels == 4 else None)
            how = {"quality": 95, "subsampling": subsampling, "progressive": coding == "progressive", "keep_rgb": colors == "RGB"}
            data = saved(image, "JPEG", **how)
        if coding == "extended":
            data = data.replace(b"\xff\xc0\0", b"\xff\xc1\0", 1)
        kind = Kind("JPEG", 8, "uint", colors, channels, False, coding)
        yield Sample(f"4:{subsampling}", kind, data, rule(values, "CMYK" if channels == 4 else colors, 8), 30)


def webps() -> Iterator[Sample]:
    """Yield WebPs, lossy and lossless."""
    for lossless, channels in itertools.product((False, True), (3, 4)):
        values = smooth(channels, 8)
        if channels == 4:
            values[..., 3] = samples_of(1, 8) | 1  # libwebp drops the colours of what is fully transparent
        data = saved(Image.fromarray(values), "WEBP", lossless=lossless, quality=95, exact=True)
        kind = Kind("WEBP", 8, "uint", "RGB", channels, False, "lossless" if lossless else "lossy")
        yield Sample(f"{channels} channels", kind, data, values[..., :3], 0 if lossless else 40)


def gifs() -> Iterator[Sample]:
    """Yield GIFs, interlaced and not."""
    values = samples_of(1, 8)
    image = Image.fromarray(values, "P")
    image.putpalette(PALETTE.astype(np.uint8).tobytes())
    for interlace in (0, 1):
        data = saved(image, "GIF", interlace=interlace, optimize=False)
        yield Sample(f"interlace {interlace}", Kind("GIF", 8, "uint", "palette", 1, False, "LZW"), data, PALETTE[values].astype(np.uint8))


# BMP and ICO


def bitmap(
    values: Array, depth: int, *, compression: int = 0, masks: tuple[int, ...] = (), rows: bytes | None = None, icon: bool = False
) -> bytes:
    """Return a device-independent bitmap, its rows from the bottom up."""
    height, width = values.shape[:2]
    if rows is None:
        body = b""
        for row in values[::-1]:
            if depth <= 8:
                line = packed(row[np.newaxis], depth)
            elif depth == 16:
                line = row.astype("<u2").tobytes()
            else:
                line = np.ascontiguousarray(row[..., [2, 1, 0, 3][: depth // 8]]).astype(np.uint8).tobytes()
            body += line.ljust(-(-len(line) // 4) * 4, b"\0")
        rows = body
    if icon:
        rows += bytes(height * (-(-width // 32) * 4))
    palette = b"".join(struct.pack("BBBB", *PALETTE[k][::-1], 0) for k in range(1 << depth)) if depth <= 8 else b""
    header = struct.pack(
        "<IiiHHIIiiII",
        40 + 16 * (len(masks) == 4),
        width,
        height * (1 + icon),
        1,
        depth,
        compression,
        len(rows),
        0,
        0,
        len(palette) // 4,
        0,
    )
    return header + struct.pack(f"<{len(masks)}I", *masks) + palette + rows


def bmp(dib: bytes, depth: int, masks: int = 0) -> bytes:
    """Return a bitmap as a file."""
    offset = 14 + 40 + 4 * masks + (4 << depth if depth <= 8 else 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(dib), 0, 0, offset) + dib


def bmps() -> Iterator[Sample]:
    """Yield bitmaps, packed with palettes, bit fields and run lengths."""
    for depth, colors, channels in ((1, "palette", 1), (4, "palette", 1), (8, "palette", 1), (24, "RGB", 3), (32, "RGB", 4)):
        values = samples_of(channels, min(depth, 8))
        rgb = rule(values, colors, min(depth, 8))
        yield Sample("plain", Kind("BMP", depth, "uint", colors, channels, False, "uncompressed"), bmp(bitmap(values, depth), depth), rgb)
        dib = bitmap(values[:, :], depth, icon=True)
        icon = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, depth, len(dib), 22) + dib
        yield Sample("plain", Kind("ICO", depth, "uint", colors, channels, False, "uncompressed"), icon, rgb)
    five = np.stack([samples_of(1, 5), samples_of(1, 6) >> 1, samples_of(1, 5)[::-1]], axis=-1).astype(int)
    spread = (five * 255 // 31).astype(np.uint8)
    for name, masks, shifts in (
        ("RGB 555", (0x7C00, 0x3E0, 0x1F), (10, 5, 0)),
        ("RGB 565", (0xF800, 0x7E0, 0x1F), (11, 5, 0)),
    ):
        green = samples_of(1, 6).astype(int) if name == "RGB 565" else five[..., 1]
        values = five[..., 0] << shifts[0] | green << shifts[1] | five[..., 2]
        rgb = spread.copy()
        rgb[..., 1] = green * 255 // (63 if name == "RGB 565" else 31)
        data = bmp(bitmap(values, 16, compression=3, masks=masks), 16, 3)
        yield Sample("plain", Kind("BMP", 16, "uint", name, 3, False, "bit fields"), data, rgb)
        if name == "RGB 555":
            yield Sample("plain", Kind("BMP", 16, "uint", "RGB", 3, False, "uncompressed"), bmp(bitmap(values, 16), 16), rgb)
    four = samples_of(4, 8)
    for depth, name, masks in (
        (24, "RGB", (0xFF0000, 0xFF00, 0xFF)),
        (32, "RGB", (0xFF0000, 0xFF00, 0xFF)),
        (32, "RGBA", (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    ):
        data = bmp(bitmap(four[..., : depth // 8], depth, compression=3, masks=masks), depth, len(masks))
        yield Sample("plain", Kind("BMP", depth, "uint", name, depth // 8, False, "bit fields"), data, four[..., :3])
    for depth, compression in ((8, 1), (4, 2)):
        values = samples_of(1, depth)
        values[:, :20] = values[:, :1]
        rows = b""
        for row in values[::-1]:
            for value, run in itertools.groupby(int(v) for v in row):
                rows += bytes([len(list(run)), value if depth == 8 else value << 4 | value])
            rows += b"\0\0"
        data = bmp(bitmap(values, depth, compression=compression, rows=rows + b"\0\1"), depth)
        yield Sample("plain", Kind("BMP", depth, "uint", "palette", 1, False, "RLE"), data, rule(values, "palette", depth))


def icos() -> Iterator[Sample]:
    """Yield icons of PNGs; those of bitmaps come with :func:`bmps`."""
    values = samples_of(4, 8)
    picture = png_of(values, 8, 6, 0)
    data = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, 32, len(picture), 22) + picture
    yield Sample("icon", Kind("PNG", 8, "uint", "RGB", 4, False, "deflate"), data, values[..., :3])


# PNM


def pnms() -> Iterator[Sample]:
    """Yield PBM, PGM and PPM files, raw and as text, with several maxima."""
    for (colors, channels, raw, text), maxima in (
        (("white is zero", 1, b"P4", b"P1"), (1,)),
        (("grey", 1, b"P5", b"P2"), (255, 65_535, 100, 1, 1023)),
        (("RGB", 3, b"P6", b"P3"), (255, 65_535, 100, 1, 1023)),
    ):
        for highest in maxima:
            depth = 1 if colors == "white is zero" else 16 if highest > 255 else 8
            values = samples_of(channels, 16 if highest > 255 else 8).astype(int) % (highest + 1)
            if depth == 1:
                rgb, top = rule(values, colors, 1), b"%d %d" % (WIDTH, HEIGHT)
            else:
                # Grey of 16 bits is scaled to them and cut to 8; three channels are scaled to 8 bits at once.
                cut = 8 if depth == 16 and channels == 1 else 0
                wide = np.round(values / highest * (65_535 if cut else 255)).astype(int) >> cut
                rgb, top = rule(wide.astype(np.uint8), colors, 8), b"%d %d\n%d" % (WIDTH, HEIGHT, highest)
            body = packed(values, depth)
            data = raw + b"\n# a comment\n" + top + b"\n" + body
            yield Sample(f"maximum {highest}", Kind("PPM", depth, "uint", colors, channels, False, "uncompressed"), data, rgb)
            words = text + b"\n" + top + b"\n" + b" ".join(b"%d" % value for value in values.ravel())
            yield Sample(f"maximum {highest}", Kind("PPM", depth, "uint", colors, channels, False, "text"), words, rgb)


# JPEG 2000, AVIF, HEIF


def jpeg2000s() -> Iterator[Sample]:
    """Yield JPEG 2000 files and codestreams without loss."""
    for (colors, channels, depth), container in itertools.product(
        (("grey", 1, 8), ("grey", 1, 16), ("grey", 2, 8), ("RGB", 3, 8), ("RGB", 4, 8)), ("jp2", "j2k")
    ):
        values = samples_of(channels, depth)
        data = bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat=container, mct=False))
        yield Sample(container, Kind("JPEG2000", depth, "uint", colors, channels, False, "wavelets"), data, rule(values, colors, depth))


def avifs() -> Iterator[Sample]:
    """Yield AVIFs of all depths and chroma subsamplings."""
    for depth, (colors, layout) in itertools.product(
        (8, 10, 12), (("grey", "400"), ("YCbCr 420", "420"), ("YCbCr 422", "422"), ("YCbCr 444", "444"))
    ):
        channels = 1 if layout == "400" else 3
        values = smooth(channels, depth)
        data = bytes(
            imagecodecs.avif_encode(
                values, level=95, speed=9, bitspersample=depth, pixelformat=int(imagecodecs.AVIF.PIXEL_FORMAT[f"YUV{layout}"])
            )
        )
        kind = Kind("AVIF", depth, "uint", colors, channels, False, "AV1")
        yield Sample(layout, kind, data, rule(values, "grey" if channels == 1 else "RGB", depth), 24)


def heifs() -> Iterator[Sample]:
    """Yield HEIFs of all depths and chroma subsamplings."""
    import pillow_heif

    for depth, (colors, layout) in itertools.product(
        (8, 10, 12), (("grey", None), ("YCbCr 420", "420"), ("YCbCr 422", "422"), ("YCbCr 444", "444"))
    ):
        channels = 1 if layout is None else 3
        values = smooth(channels, depth)
        buffer = io.BytesIO()
        mode = "L" if channels == 1 else "RGB"
        raw = values.tobytes() if depth == 8 else (values << (16 - depth)).astype("<u2").tobytes()
        mode += "" if depth == 8 else ";16"
        pillow_heif.options.SAVE_HDR_TO_12_BIT = depth == 12
        pillow_heif.encode(mode, (WIDTH, HEIGHT), raw, buffer, quality=95, **({"chroma": int(layout)} if layout else {}))
        kind = Kind("HEIF", depth, "uint", colors, channels, False, "HEVC")
        yield Sample(layout or "400", kind, buffer.getvalue(), rule(values, "grey" if channels == 1 else "RGB", depth), 30)
