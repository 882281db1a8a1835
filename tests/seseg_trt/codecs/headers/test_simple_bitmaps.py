"""BMP, ICO and the PNM family."""

from __future__ import annotations

import struct
import zlib

import pytest

from seseg_trt.codecs.headers import read, simple
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import chunk, refused, told

NO_IMAGE = ("not_an_image", "no decoder knows what it is")


def dib(
    width: int = 300, height: int = 2, depth: int = 24, compression: int = 0, size: int = 40, planes: int = 1, masks: tuple[int, ...] = ()
) -> bytes:
    if size == 12:
        return struct.pack("<IHHHH", 12, width, height, planes, depth) + b"pixels"
    head = struct.pack("<IiiHHI", size, width, height, planes, depth, compression).ljust(40, b"\7")
    return (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\5") + b"pixels"


def bmp(picture: bytes, size: int | None = None) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(picture) if size is None else size, 0, 0, 54) + picture


def bmp_kind(depth: int = 24, colors: str = "RGB", channels: int = 3, packed: str = "uncompressed", name: str = "BMP") -> Kind:
    return Kind(name, depth, "uint", colors, channels, False, packed)


class TestBmp:
    @pytest.mark.parametrize("size", [12, 40, 52, 56, 64, 108, 124])
    def test_a_header_of_each_size(self, size: int) -> None:
        data = bmp(dib(size=size))
        assert told(read(data)) == (bmp_kind(), 300, 2, 1, 1, False, False)
        assert read(data).stripped() == data and read(data).complete is None

    @pytest.mark.parametrize("size", [0, 11, 13, 16, 39, 41, 51, 53, 60, 63, 65, 107, 109, 123, 125, 2**32 - 1])
    def test_a_header_of_another_size_is_none(self, size: int) -> None:
        assert refused(bmp(struct.pack("<I", size) + dib()[4:])) == NO_IMAGE

    @pytest.mark.parametrize("size", [12, 40])
    def test_a_picture_has_one_plane_and_a_size(self, size: int) -> None:
        for width, height in ((1, 1), (1, 2), (2, 1)):
            assert told(read(bmp(dib(width, height, size=size))))[1:3] == (width, height)
        for width, height, planes in ((0, 1, 1), (1, 0, 1), (0, 0, 1), (1, 1, 0), (1, 1, 2), (0, 1, 2), (1, 0, 0), (0, 0, 0)):
            assert refused(bmp(dib(width, height, size=size, planes=planes))) == NO_IMAGE
        assert refused(bmp(dib(-1, 1))) == NO_IMAGE
        assert told(read(bmp(dib(7, -5))))[1:3] == (7, 5) and told(read(bmp(dib(65_535, 65_534, size=12))))[1:3] == (65_535, 65_534)

    @pytest.mark.parametrize(
        ("depth", "colors", "channels"),
        [
            *((depth, "palette", 1) for depth in (1, 2, 4, 8)),
            *((depth, "RGB", 4 if depth == 32 else 3) for depth in (9, 16, 24, 31, 32, 33)),
        ],
    )
    def test_the_colours_by_the_depth(self, depth: int, colors: str, channels: int) -> None:
        for size in (12, 40):
            assert read(bmp(dib(depth=depth, size=size))).kind == bmp_kind(depth, colors, channels)

    def test_the_compression(self) -> None:
        for code, packed in ((0, "uncompressed"), (4, "JPEG"), (5, "PNG"), (6, "compression 6"), (99, "compression 99")):
            assert read(bmp(dib(compression=code))).kind == bmp_kind(packed=packed)
        for code, depth in ((1, 8), (2, 4)):
            assert read(bmp(dib(depth=depth, compression=code))).kind == bmp_kind(depth, "palette", 1, "RLE")
        for code, depth in ((1, 4), (2, 8), (1, 24), (2, 1), (1, 9), (1, 7), (2, 3), (2, 5)):
            assert refused(bmp(dib(depth=depth, compression=code))) == ("decode_error", f"the BMP has RLE and {depth} bits a pixel")

    @pytest.mark.parametrize(
        ("depth", "masks", "colors"),
        [
            (16, (0x7C00, 0x3E0, 0x1F), "RGB 555"),
            (16, (0xF800, 0x7E0, 0x1F), "RGB 565"),
            (24, (0xFF0000, 0xFF00, 0xFF), "RGB"),
            (32, (0xFF0000, 0xFF00, 0xFF), "RGB"),
            (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), "RGBA"),
            (32, (0xFF, 0xFF00, 0xFF0000), "colours with unusual masks"),
            (16, (0xF800, 0x7E0, 0x1E), "colours with unusual masks"),
            (16, (0x7C00, 0x3E0, 0x1F, 0x8000), "colours with unusual masks"),
            (24, (0x7C00, 0x3E0, 0x1F), "colours with unusual masks"),
        ],
    )
    def test_bit_fields(self, depth: int, masks: tuple[int, ...], colors: str) -> None:
        for size in (40, 52, 56, 64, 108, 124):
            there = masks if size < 56 else (*masks, 0)[:4]
            expected = "RGB" if colors == "RGBA" and size < 56 else "RGB 555" if 0x8000 in masks and size < 56 else colors
            header = read(bmp(dib(depth=depth, compression=3, size=size, masks=there)))
            assert told(header) == (bmp_kind(depth, expected, 4 if depth == 32 else 3, "bit fields"), 300, 2, 1, 1, False, False)

    def test_a_file_that_states_more_bytes_than_it_has_is_cut(self) -> None:
        whole = len(bmp(dib()))
        for size, cut in ((0, False), (whole - 1, False), (whole, False), (whole + 1, True), (2**24, True), (2**32 - 1, True)):
            assert told(read(bmp(dib(), size))) == (bmp_kind(), 300, 2, 1, 1, False, cut)

    def test_a_file_that_ends_within_its_header(self) -> None:
        for data in (bmp(dib())[:33], bmp(dib(size=12))[:25], bmp(b"")[:14], bmp(dib(compression=3))[:60]):
            assert refused(data) == ("truncated", "the BMP ends too early: its header is not whole")
        assert read(bmp(dib(size=12))[:26]).width == read(bmp(dib())[:34]).width == 300


def png(width: int, height: int, depth: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND")


def icon(*pictures: bytes, entry: bytes = b"\x10\x11\x12\0\1\0\x20\0", gap: bytes = b"", count: int | None = None) -> bytes:
    number = len(pictures) if count is None else count
    head, at = b"\0\0\1\0" + struct.pack("<H", number), 6 + 16 * len(pictures) + len(gap)
    for picture in pictures:
        head += entry + struct.pack("<II", len(picture), at)
        at += len(picture)
    return head + gap + b"".join(pictures)


def alone(picture: bytes, sides: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + sides + b"\x12\0\1\0\x20\0" + struct.pack("<II", len(picture), 22) + picture


class TestIco:
    def test_a_bitmap_is_half_as_high_as_it_says(self) -> None:
        for width, height, sides in (
            (5, 14, b"\5\7"),
            (256, 512, b"\0\0"),
            (255, 511, b"\xff\xff"),
            (1, 2, b"\1\1"),
            (7, 3, b"\7\1"),
            (9, -8, b"\x09\4"),
        ):
            picture = dib(width, height, 32)
            header = read(icon(picture, gap=b"gap"))
            assert told(header) == (bmp_kind(32, "RGB", 4, name="ICO"), width, abs(height) // 2, 1, 1, False, False)
            assert header.stripped() == alone(picture, sides)
        for width, height in ((257, 14), (5, 514), (257, 514), (5, 1), (5, -1), (5, 600)):
            message = f"the icon has a bitmap of {width} x {abs(height) // 2} pixels"
            assert refused(icon(dib(width, height, 32))) == ("decode_error", message)

    def test_a_png_is_what_it_says(self) -> None:
        picture = png(300, 2)
        header = read(icon(picture))
        assert told(header) == (Kind("PNG", 8, "uint", "grey", 1, False, "deflate"), 300, 2, 1, 1, True, False)
        assert header.stripped() == picture
        assert told(read(icon(png(300, 2)[:-12], png(1, 1))))[5:] == (False, True)

    def test_of_several_pictures_the_largest_then_the_deepest_then_the_first(self) -> None:
        small, wide, large = dib(4, 16, 32), dib(32, 4, 32), dib(9, 20, 4)
        shallow, other = dib(9, 20, 1), dib(10, 18, 4)
        for pictures, chosen, sides in (
            ((small, large), large, b"\x09\x0a"),
            ((large, small), large, b"\x09\x0a"),
            ((small, wide), wide, b"\x20\2"),
            ((wide, small), wide, b"\x20\2"),
            ((shallow, large), large, b"\x09\x0a"),
            ((large, shallow), large, b"\x09\x0a"),
            ((other, large), other, b"\x0a\x09"),
            ((large, other), large, b"\x09\x0a"),
            ((small, shallow, other, wide, large), other, b"\x0a\x09"),
        ):
            assert read(icon(*pictures)).stripped() == alone(chosen, sides)
        assert read(icon(large, png(10, 10))).stripped() == png(10, 10)
        assert read(icon(png(9, 9), large)).stripped() == alone(large, b"\x09\x0a")

    def test_a_directory_that_is_none(self) -> None:
        picture = dib(5, 14, 32)
        for data in (
            icon(),
            icon(count=0) + bytes(40),
            icon(picture, entry=b"\5\7\0\1\1\0\x20\0"),
            icon(picture, entry=b"\5\7\0\xff\1\0\x20\0"),
            b"\0\0\1\0\1\0" + bytes(8) + struct.pack("<II", len(picture), 21) + picture,
            b"\0\0\1\0\1\0" + bytes(8) + struct.pack("<II", 11, 22) + picture,
            b"\0\0\1\0\1\0" + bytes(8) + struct.pack("<II", 0, 22) + picture,
            icon(picture, picture[:11]),
            icon(struct.pack("<I", 41) + picture[4:]),
            icon(dib(5, 14, 32, planes=2)),
        ):
            assert refused(data) == NO_IMAGE

    def test_the_smallest_picture_is_a_header_of_twelve_bytes(self) -> None:
        picture = dib(5, 14, 4, size=12)[:12]
        assert told(read(icon(picture))) == (bmp_kind(4, "palette", 1, name="ICO"), 5, 7, 1, 1, False, False)

    def test_a_picture_that_is_not_whole(self) -> None:
        for data in (icon(dib(5, 14))[:-1], icon(dib(5, 14), png(9, 9))[:-1], icon(png(9, 9))[:-1]):
            assert refused(data) == ("truncated", "the ICO ends too early: a picture is not whole")
        assert read(icon(dib(5, 14)) + b"more").width == 5
        for data in (icon(dib(5, 14))[:21], icon(dib(5, 14))[:9], b"\0\0\1\0\1"):
            assert refused(data) == ("truncated", "the ICO ends too early: its header is not whole")


class TestPnm:
    @pytest.mark.parametrize(
        ("name", "colors", "channels", "packed"),
        [
            (b"P1", "white is zero", 1, "text"),
            (b"P2", "grey", 1, "text"),
            (b"P3", "RGB", 3, "text"),
            (b"P4", "white is zero", 1, "uncompressed"),
            (b"P5", "grey", 1, "uncompressed"),
            (b"P6", "RGB", 3, "uncompressed"),
        ],
    )
    def test_what_a_file_of_each_kind_says(self, name: bytes, colors: str, channels: int, packed: str) -> None:
        for highest, depth in ((1, 8), (255, 8), (256, 16), (65_535, 16)):
            bits = 1 if colors == "white is zero" else depth
            top = b"%s 300 2" % name + (b"" if bits == 1 else b" %d" % highest) + b"\n"
            body = bytes(2 * ((300 * bits * channels + 7) // 8)) if packed == "uncompressed" else b"text"
            header = read(top + body)
            assert told(header) == (Kind("PPM", bits, "uint", colors, channels, False, packed), 300, 2, 1, 1, False, False)
            assert header.stripped() == top + body and header.complete is None
            if packed == "uncompressed":
                assert refused(top + body[:-1]) == ("truncated", "the PPM ends too early: rows are missing")
                assert read(top + body + b"x").stripped() == top + body + b"x"

    def test_spaces_and_comments_are_dropped(self) -> None:
        for top in (
            b"P5 5 3 255\n",
            b"P5\t5\r3\n255 ",
            b"P5\n# a comment\n5 # another\n #one more\r3\f255\v",
            b"P5#\n5#\n3#\n255\f",
            b"P5\v\f 005 03\r\n255\r",
        ):
            header = read(top + bytes(15))
            assert told(header) == (Kind("PPM", 8, "uint", "grey", 1, False, "uncompressed"), 5, 3, 1, 1, False, False)
            assert header.stripped() == b"P5 5 3 255\n" + bytes(15)

    def test_a_byte_behind_the_numbers_is_no_pixel(self) -> None:
        assert read(b"P6 1 1 255\n\n \t").stripped() == b"P6 1 1 255\n\n \t"
        assert read(b"P4 1 1\n\x80").stripped() == b"P4 1 1\n\x80"

    @pytest.mark.parametrize(
        "top",
        [
            b"P5 5 3 0\n", b"P5 5 3 65536\n", b"P5 5 3 255", b"P5 5 3 255x", b"P5 5 3 255#\n", b"P5 5 3\n", b"P5 5 x 255\n", b"P5 -5 3 255\n",
            b"P5 5 3 # 255\n", b"P5 5 1234567890 255\n", b"P1 5\n", b"P4 5 \n", b"P4 5 3", b"P4 5 3x", b"P2 5 3 \n", b"P5 5 3 255\0",
        ],
    )  # fmt: skip
    def test_another_text_is_none(self, top: bytes) -> None:
        assert refused(top + (bytes(99) if top[-1:] in b"\n\0" else b"")) == NO_IMAGE

    def test_further_pictures_are_seen_behind_the_rows(self) -> None:
        top = b"P5 5 3 255\n" + bytes(15)
        for more, pictures in (
            *((b"P%d\n" % number, 2) for number in range(1, 8)),
            (top, 2),
            (top * 3, 2),
            (b"P0\n", 1),
            (b"P8\n", 1),
            (b"P5x", 1),
            (b"P5", 1),
            (b"\nP5\n", 1),
            (b"p5\n", 1),
        ):
            assert told(read(top + more))[4] == pictures
        assert read(b"P2 5 3 255\nP5\n").pictures == 1

    def test_a_size_of_nine_digits(self) -> None:
        assert told(read(b"P1 123456789 987654321\n"))[1:3] == (123_456_789, 987_654_321)
        assert refused(b"P5 123456789 987654321 255\n")[0] == "truncated"

    def test_every_kind_is_named(self) -> None:
        assert set(simple.PNM) == {b"P%d" % number for number in range(1, 7)}
