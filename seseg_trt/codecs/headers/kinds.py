"""Name what a file's samples are, and list the kinds whose pixels were checked.

A library can decode a rare kind to wrong pixels without a word: Pillow 13 reads the planes of an uncompressed 16-bit TIFF as 8-bit
samples. So only a kind of :data:`CHECKED` is decoded. ``tests/seseg_trt/codecs/headers/test_kinds.py`` writes files of each and compares
the decoded pixels with the samples that it wrote and, for all formats but BMP, ICO, PNM and HEIF, with those of imagecodecs and tifffile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from ...errors import BadImage


class Kind(NamedTuple):
    """What a file's samples are.

    Attributes:
        format: the file format, a key of :data:`seseg_trt.codecs.pillow.FORMATS`.
        depth: bits of a sample.
        sample: ``uint``, ``int`` or ``float``.
        colors: what the samples mean: ``grey``, ``white is zero``, ``palette``, ``RGB``, ``YCbCr``, ``CMYK`` or another.
        channels: samples of a pixel, alpha included.
        planar: each channel lies in a plane of its own.
        compression: how the samples are packed.
    """

    format: str
    depth: int
    sample: str
    colors: str
    channels: int
    planar: bool
    compression: str

    def __str__(self) -> str:
        sample = {"uint": "", "int": "signed ", "float": "floating-point "}.get(self.sample, f"{self.sample} ")
        planes = " in planes" if self.planar else ""
        channels = f", {self.channels} channel{'s' * (self.channels != 1)}"
        return f"a {self.format} of {self.depth}-bit {sample}{self.colors} samples{planes}{channels}, {self.compression}"


def check(kind: Kind) -> None:
    """Raise BadImage (``unsupported``) unless a kind's pixels were checked."""
    if kind not in CHECKED:
        raise unsupported(f"{kind}")


def unsupported(what: str, way_out: str = "convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does") -> BadImage:
    """Return the error for a file that is not decoded: ``what`` it is, with an article, and the way out."""
    return BadImage("unsupported", f"it is {what}, which is not decoded; {way_out}")


LOSSLESS = ("uncompressed", "LZW", "LZW with a predictor", "deflate", "deflate with a predictor", "PackBits")


def _tiff() -> Iterator[tuple[int, str, int, bool, str]]:
    for colors, depths, channels in (
        ("grey", (1, 2, 4, 8, 12, 16), (1,)),
        ("white is zero", (1, 2, 4, 8), (1,)),
        ("palette", (1, 2, 4, 8), (1,)),
        ("grey", (8,), (2,)),
        ("RGB", (8, 16), (3, 4)),
        ("CMYK", (8, 16), (4,)),
    ):
        for depth, count, planar, compression in product(depths, channels, (False, True), LOSSLESS):
            predicts_bits = depth not in (8, 16) and "predictor" in compression
            # Pillow reads these planes itself, and wrongly; libtiff reads compressed ones.
            wrong_planes = planar and (count == 1 or (compression == "uncompressed" and (depth == 16 or colors == "grey")))
            if not predicts_bits and not wrong_planes:
                yield depth, colors, count, planar, compression
    for colors, compression in product(("grey", "white is zero"), ("fax group 3", "fax group 4")):
        yield 1, colors, 1, False, compression
    for colors, count in (("grey", 1), ("RGB", 3), ("YCbCr", 3)):
        yield 8, colors, count, False, "JPEG"


def _table() -> Iterator[Kind]:
    for depth, colors, channels, planar, compression in _tiff():
        yield Kind("TIFF", depth, "uint", colors, channels, planar, compression)
    for (colors, channels, depths), interlace in product(
        (
            ("grey", 1, (1, 2, 4, 8, 16)),
            ("palette", 1, (1, 2, 4, 8)),
            ("grey", 2, (8, 16)),
            ("RGB", 3, (8, 16)),
            ("RGB", 4, (8, 16)),
        ),
        ("deflate", "interlaced deflate"),
    ):
        for depth in depths:
            yield Kind("PNG", depth, "uint", colors, channels, False, interlace)
    for (colors, channels), coding in product(
        (("grey", 1), ("YCbCr", 3), ("RGB", 3), ("CMYK", 4), ("YCCK", 4)),
        ("baseline", "extended", "progressive"),
    ):
        yield Kind("JPEG", 8, "uint", colors, channels, False, coding)
    for compression, channels in product(("lossy", "lossless"), (3, 4)):
        yield Kind("WEBP", 8, "uint", "RGB", channels, False, compression)
    yield Kind("GIF", 8, "uint", "palette", 1, False, "LZW")
    for depth, colors, channels in ((1, "palette", 1), (4, "palette", 1), (8, "palette", 1), (24, "RGB", 3), (32, "RGB", 4)):
        yield Kind("BMP", depth, "uint", colors, channels, False, "uncompressed")
        yield Kind("ICO", depth, "uint", colors, channels, False, "uncompressed")
    for depth, colors in ((16, "RGB 555"), (16, "RGB 565"), (24, "RGB"), (32, "RGB"), (32, "RGBA")):
        yield Kind("BMP", depth, "uint", colors, 4 if depth == 32 else 3, False, "bit fields")
    yield Kind("BMP", 16, "uint", "RGB", 3, False, "uncompressed")
    for depth in (4, 8):
        yield Kind("BMP", depth, "uint", "palette", 1, False, "RLE")
    for (colors, channels, depths), compression in product(
        (("white is zero", 1, (1,)), ("grey", 1, (8, 16)), ("RGB", 3, (8, 16))), ("uncompressed", "text")
    ):
        for depth in depths:
            yield Kind("PPM", depth, "uint", colors, channels, False, compression)
    # Pillow rounds several channels of 16 bits, and 255.5 becomes 0.
    for depth, colors, channels in ((8, "grey", 1), (16, "grey", 1), (8, "grey", 2), (8, "RGB", 3), (8, "RGB", 4)):
        yield Kind("JPEG2000", depth, "uint", colors, channels, False, "wavelets")
    for depth, (colors, channels) in product((8, 10, 12), (("grey", 1), ("YCbCr 420", 3), ("YCbCr 422", 3), ("YCbCr 444", 3))):
        yield Kind("AVIF", depth, "uint", colors, channels, False, "AV1")
        yield Kind("HEIF", depth, "uint", colors, channels, False, "HEVC")


CHECKED: frozenset[Kind] = frozenset(_table())
"""The kinds that are decoded. An alpha channel of an AVIF or a HEIF is not counted."""
