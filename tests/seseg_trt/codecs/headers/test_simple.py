"""GIF and WebP."""

from __future__ import annotations

import struct

import pytest

from seseg_trt.codecs.headers import read
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import exif, refused, riff, told

PALETTE_OF_4 = bytes(range(12))
GIF_KIND = Kind("GIF", 8, "uint", "palette", 1, False, "LZW")
CONTROL = b"!\xf9\4\5\0\0\7\0"
DATA = b"\2\3abc\1d\0"


def screen(width: int = 300, height: int = 2, flags: int = 0x81, palette: bytes = PALETTE_OF_4, name: bytes = b"GIF89a") -> bytes:
    return name + struct.pack("<HHBBB", width, height, flags, 0, 0) + palette


def image(
    left: int = 0, top: int = 0, width: int = 300, height: int = 2, flags: int = 0, palette: bytes = b"", data: bytes = DATA
) -> bytes:
    return b"," + struct.pack("<HHHHB", left, top, width, height, flags) + palette + data


class TestGif:
    @pytest.mark.parametrize("name", [b"GIF87a", b"GIF89a"])
    def test_what_a_plain_file_says(self, name: bytes) -> None:
        data = screen(name=name) + image() + b";"
        assert told(read(data)) == (GIF_KIND, 300, 2, 1, 1, False, False) and read(data).complete is None
        assert read(data).stripped() == data

    def test_the_palettes_are_as_long_as_their_flags_say(self) -> None:
        for bits in range(8):
            table = bytes(range(256))[: 3 << bits + 1].ljust(3 << bits + 1, b"p")
            for flags in (0x80 | bits, 0xF8 | bits):
                for data in (
                    screen(flags=flags, palette=table) + image(),
                    screen(flags=0, palette=b"") + image(flags=flags, palette=table),
                ):
                    assert read(data + b"!\xfe\1x\0;").stripped() == data + b";"
            for flags in (bits, 0x78 | bits):
                data = screen(flags=flags, palette=b"") + image(flags=flags) + b";"
                assert told(read(data)) == (GIF_KIND, 300, 2, 1, 1, False, False) and read(data).stripped() == data

    def test_the_screen_is_as_large_as_the_first_picture_at_least(self) -> None:
        for place, size in (
            ((0, 0, 300, 2), (300, 2)),
            ((10, 20, 300, 400), (310, 420)),
            ((0, 0, 1, 1), (300, 2)),
            ((299, 1, 1, 1), (300, 2)),
            ((300, 0, 1, 2), (301, 2)),
            ((0, 2, 300, 1), (300, 3)),
        ):
            data = screen() + image(*place) + image(0, 0, 999, 999) + b";"
            assert told(read(data)) == (GIF_KIND, *size, 1, 2, False, False)

    def test_of_several_pictures_the_first_with_the_control_before_it(self) -> None:
        comment, other = b"!\xfe\2hi\0", b"!\xf9\4\1\1\1\1\0"
        for before, control in (
            (b"", b""),
            (CONTROL, CONTROL),
            (comment + CONTROL + comment, CONTROL),
            (other + CONTROL, CONTROL),
            (comment, b""),
            (b"!\xf8\4\5\0\0\7\0!\xfa\4\5\0\0\7\0", b""),
        ):
            for behind, pictures in ((b"", 1), (image(), 2), (other + image(1, 1, 1, 1) + comment + image(), 3)):
                data = screen() + before + image() + behind + b";"
                assert told(read(data)) == (GIF_KIND, 300, 2, 1, pictures, False, False)
                assert read(data).stripped() == screen() + control + image() + b";"

    def test_long_extensions_are_passed_over(self) -> None:
        extra = b"!\xff\x0bNETSCAPE2.0\3\1\0\0" + bytes([255]) + b"," * 255 + b"\1;\0"
        data = screen() + extra + image() + b";"
        assert read(data).stripped() == screen() + image() + b";" and read(data).pictures == 1
        assert read(screen() + b"!\xfe\0" + image() + b";").stripped() == screen() + image() + b";"

    def test_what_lies_behind_the_last_picture_ends_the_list(self) -> None:
        for more in (b";", b"\0" + image(), b";" + image() + b";", b"x" + image()):
            assert read(screen() + image() + more).pictures == 1

    def test_a_file_without_an_end_is_cut(self) -> None:
        for end, cut in ((b";", False), (b";\0\0\0", False), (b"", True), (b":", True), (b"<", True), (b";x", True)):
            header = read(screen() + image() + end)
            assert told(header) == (GIF_KIND, 300, 2, 1, 1, False, cut) and header.stripped() == screen() + image() + b";"

    def test_a_file_that_ends_within_its_picture(self) -> None:
        whole = screen() + image()
        for missing in range(1, len(DATA) + 1):
            header = read(whole[:-missing])
            assert told(header) == (GIF_KIND, 300, 2, 1, 1, False, True) and header.stripped() == whole[:-missing] + b";"
        for length in range(1, 10):
            header = read((screen() + image(5, 5))[: len(screen()) + length])
            assert told(header) == (GIF_KIND, 300, 2, 1, 1, False, True) and header.stripped() == screen() + b";"

    def test_a_file_without_a_picture(self) -> None:
        for data in (
            screen(),
            screen() + b";",
            screen() + CONTROL + b";",
            screen() + b"!",
            screen() + b"x" + image(),
            screen()[:20] + b"!\xfe\2",
        ):
            assert refused(data) == ("truncated", "the GIF ends too early: it has no picture")


def webp(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def lossy(width: int = 300, height: int = 2, scale: int = 0) -> bytes:
    return riff(b"VP8 ", b"\x30\1\2\x9d\1\x2a" + struct.pack("<HH", width | scale << 14, height | scale << 14) + b"pixels")


def lossless(width: int = 300, height: int = 2, alpha: int = 0, version: int = 0) -> bytes:
    return riff(b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14 | alpha << 28 | version << 29) + b"pixels!")


def extended(flags: int, width: int = 300, height: int = 2, reserved: bytes = bytes(3)) -> bytes:
    return riff(b"VP8X", bytes([flags]) + reserved + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def frame(*inside: bytes) -> bytes:
    return riff(b"ANMF", b"ANIMATEDxxxxxxxx" + b"".join(inside))


def webp_kind(channels: int = 3, compression: str = "lossy") -> Kind:
    return Kind("WEBP", 8, "uint", "RGB", channels, False, compression)


class TestWebp:
    @pytest.mark.parametrize("scale", [0, 1, 3])
    @pytest.mark.parametrize("size", [(300, 2), (1, 1), (16_383, 16_383), (2, 300)])
    def test_a_lossy_picture(self, size: tuple[int, int], scale: int) -> None:
        data = webp(lossy(*size, scale=scale))
        assert told(read(data)) == (webp_kind(), *size, 1, 1, True, False)
        assert read(data).stripped() == data and read(data).complete is None

    @pytest.mark.parametrize("alpha", [0, 1])
    @pytest.mark.parametrize("version", [0, 7])
    @pytest.mark.parametrize("size", [(300, 2), (1, 1), (16_384, 16_384), (2, 300), (16_384, 1), (1, 16_384)])
    def test_a_lossless_picture(self, size: tuple[int, int], alpha: int, version: int) -> None:
        data = webp(lossless(*size, alpha, version))
        assert told(read(data)) == (webp_kind(3 + alpha, "lossless"), *size, 1, 1, True, False) and read(data).stripped() == data

    def test_the_extended_header_says_the_size_and_the_alpha(self) -> None:
        for flags in (0, 0x02, 0x10, 0x12, 0xFF, 0xED):
            for picture, name in ((lossy(), "lossy"), (lossless(alpha=1), "lossless"), (lossless(), "lossless")):
                header = read(webp(extended(flags, 70_000, 66_000, b"abc"), picture))
                assert told(header) == (webp_kind(4 if flags & 0x10 else 3, name), 70_000, 66_000, 1, 1, True, False)
                assert header.stripped() == webp(extended(flags & 0x12, 70_000, 66_000, b"abc"), picture)

    def test_what_pixels_need_is_kept(self) -> None:
        kept = [extended(0x10), riff(b"ALPH", b"alpha"), lossy()]
        for name in (b"ICCP", b"XMP ", b"EXIF", b"junk", b"AAAA", b"zzzz", b"VP8M", b"VP8\x1f", b"ALPI", b"ALPG", b"ANIL", b"ANMG"):
            lost = riff(name, b"odd")
            header = read(webp(kept[0], lost, kept[1], lost, kept[2], lost))
            assert told(header) == (webp_kind(4), 300, 2, 1, 1, True, False) and header.stripped() == webp(*kept)

    def test_the_orientation_in_an_exif_chunk(self) -> None:
        for block, orientation in ((exif(6), 6), (exif(8, prefix=True), 8), (b"no", 1)):
            for data in (webp(extended(8), riff(b"EXIF", block), lossy()), webp(extended(8), lossy(), riff(b"EXIF", block))):
                assert told(read(data)) == (webp_kind(), 300, 2, orientation, 1, True, False)
                assert read(data).stripped() == webp(extended(0), lossy())
        for name in (b"EXIE", b"EXIG", b"XMP "):
            assert read(webp(riff(name, exif(6)), lossy())).orientation == 1

    def test_an_animation(self) -> None:
        first, second = frame(riff(b"ALPH", b"a"), lossy(9, 9)), frame(lossless(5, 5))
        loop = riff(b"ANIM", b"loops.")
        for frames, pictures in (((first,), 1), ((first, second), 2), ((first, second, second), 3)):
            data = webp(extended(2), loop, *frames)
            assert told(read(data)) == (webp_kind(), 300, 2, 1, pictures, False, False) and read(data).stripped() == data
        data = webp(loop, first, second)
        assert told(read(data)) == (webp_kind(), 9, 9, 1, 2, False, False)
        data = webp(riff(b"junk", b"x"), second, first)
        assert told(read(data)) == (webp_kind(3, "lossless"), 5, 5, 1, 2, False, False)
        assert read(data).stripped() == webp(second, first)

    def test_a_file_without_a_picture(self) -> None:
        for data in (webp(), webp(riff(b"junk", b"x")), webp(extended(0)), webp(frame(riff(b"ALPH", b"a")), lossy()), webp(b"VP8 \0\0\0")):
            assert refused(data) == ("truncated", "the WEBP ends too early: it has no picture")

    def test_a_chunk_that_is_not_whole(self) -> None:
        assert refused(webp(lossy())[:-1]) == ("truncated", "the WEBP ends too early: its chunk 'VP8 ' is not whole")
        assert refused(webp(lossy(), riff(b"J\xfc K", bytes(4))[:-1])) == (
            "truncated",
            "the WEBP ends too early: its chunk 'Jü K' is not whole",
        )
        inner = frame(riff(b"junk", bytes(40))[:-20])
        assert refused(webp(inner, riff(b"ANMF", b"")[:4])) == ("truncated", "the WEBP ends too early: its chunk 'junk' is not whole")

    def test_the_padding_of_the_last_chunk_may_be_missing(self) -> None:
        odd = riff(b"VP8 ", lossy()[8:] + b"x")
        assert read(webp(odd)[:-1]).stripped() == webp(odd)

    def test_what_lies_behind_the_stated_size_is_none_of_the_file(self) -> None:
        size = len(webp(lossy())) - 8
        for more in (lossless(5, 5), riff(b"EXIF", exif(6)), b"VP8L\xff\xff\xff\xff", b"x"):
            header = read(webp(lossy(), more, size=size))
            assert told(header) == (webp_kind(), 300, 2, 1, 1, True, False) and header.stripped() == webp(lossy())
        for larger in (2**24, 2**31, 2**32 - 1):
            assert read(webp(lossy(), size=larger)).width == 300
        assert read(webp(lossy(), riff(b"EXIF", exif(6)), size=size + 8)).orientation == 6
        assert read(webp(lossy(), riff(b"EXIF", exif(6)), size=size + 7)).orientation == 1

    def test_a_chunk_of_nothing_is_a_chunk(self) -> None:
        assert read(webp(lossy(), riff(b"ALPH", b""))).stripped() == webp(lossy(), riff(b"ALPH", b""))
        assert refused(webp(riff(b"VP8L", b""))) == ("truncated", "the WEBP ends too early: its header is not whole")
