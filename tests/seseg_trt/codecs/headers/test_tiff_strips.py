from __future__ import annotations

import zlib

import pytest

from seseg_trt.codecs.headers import read
from seseg_trt.codecs.headers.base import Header

from .by_hand import refused, refused_later, told
from .tiff_by_hand import PIXELS, Tags, cut_off, damaged, kind, page, refusal, told_of
from .tiff_by_hand import tiff as tiff_of


class TestSegments:
    def test_tiles_have_sizes_in_sixteens(self) -> None:
        tiles: Tags = {259: 5, 322: 16, 323: 16, 324: (8, 9), 325: (1, 1)}
        for width, height, count in ((16, 16, 2), (32, 16, 1), (16, 32, 2), (65_536, 65_536, 1), (48, 16, 1)):
            there: Tags = {322: width, 323: height, 324: tuple(range(8, 8 + count)), 325: (1,) * count}
            assert told_of(tiles | there).kind == kind(compression="LZW")
        for width, height in ((0, 16), (16, 0), (8, 16), (16, 8), (17, 16), (16, 17), (1, 1), (65_552, 16), (16, 65_552), (24, 24)):
            assert refusal(tiles | {322: width, 323: height}) == damaged(f"the TIFF's tiles have {width} x {height} pixels")

    def test_a_file_with_a_tag_of_tiles_has_tiles(self) -> None:
        tags = page({324: 8, 325: 240})
        assert refused(tiff_of(PIXELS, tags)) == damaged("the TIFF's tag 322 has 0 values in place of one")
        assert refused(tiff_of(PIXELS, tags | {322: 32})) == damaged("the TIFF's tag 323 has 0 values in place of one")
        assert refused(tiff_of(PIXELS, page({322: 32, 323: 16}))) == cut_off("1 strips or tiles make its picture, and it has 0")

    def test_strips_have_rows(self) -> None:
        assert refusal({278: 0}) == damaged("the TIFF's strips have no rows")
        assert told_of({278: 1, 273: (8,) * 12, 279: (20,) * 12}).height == 12
        assert told_of({256: 1, 257: 300, 278: 1, 273: (8,) * 300, 279: (1,) * 300}).height == 300

    @pytest.mark.parametrize(("tiled", "planar", "wanted"), [(False, 1, 3), (False, 2, 9), (True, 1, 6), (True, 2, 18)])
    def test_there_are_as_many_strips_or_tiles_as_the_picture_needs(self, tiled: bool, planar: int, wanted: int) -> None:
        changed: Tags = {256: 17, 257: 33, 259: 5, 262: 2, 277: 3, 278: 16, 284: planar}
        offset_tag, count_tag = (324, 325) if tiled else (273, 279)
        tags = page(changed | ({322: 16, 323: 16} if tiled else {}))

        def of(offsets: int, counts: int) -> bytes:
            return tiff_of(PIXELS, tags | {offset_tag: (8,) * offsets, count_tag: (1,) * counts})

        assert told(read(of(wanted, wanted))) == (kind("RGB", 3, compression="LZW", planar=planar == 2), 17, 33, 1, 1, False, False)
        for offsets, counts in ((wanted - 1, wanted), (wanted, wanted - 1), (wanted - 1, wanted - 2), (wanted + 1, wanted - 1), (0, 0)):
            message = f"{wanted} strips or tiles make its picture, and it has {min(offsets, counts)}"
            assert refused(of(offsets, counts)) == cut_off(message)
        for offsets, counts in ((wanted + 1, wanted), (wanted, wanted + 1), (wanted + 1, wanted + 3)):
            message = f"{wanted} strips or tiles make the TIFF's picture, and it has {max(offsets, counts)}"
            assert refused(of(offsets, counts)) == damaged(message)

    def test_more_strips_than_the_file_has_bytes(self) -> None:
        message = f"{2**31 - 1} strips or tiles make its picture, and it has 1"
        assert refusal({257: 2**31 - 1, 278: 1, 259: 5}) == cut_off(message)

    def test_strips_hold_their_rows_and_no_more_than_the_largest_of_them(self) -> None:
        two: Tags = {278: 8, 273: (8, 168), 279: (160, 80)}
        assert told_of(two).height == 12
        assert told_of({**two, 273: (8, 88), 279: (160, 160)}).height == 12  # the last one may be padded
        for counts in ((159, 80), (160, 79), (0, 80), (160, 0)):
            assert refusal({**two, 279: counts}) == cut_off("a strip or a tile is not whole")
        for offsets, counts in (((8, 168), (161, 80)), ((8, 80), (160, 161)), ((80, 168), (161, 80))):
            assert refusal({**two, 273: offsets, 279: counts}) == damaged("the TIFF's strips or tiles hold more than its picture")

    def test_rows_are_padded_to_bytes(self) -> None:
        for depth, channels, row in ((1, 1, 3), (4, 1, 10), (16, 1, 40), (8, 3, 60), (16, 3, 120), (1, 3, 8)):
            changed: Tags = {257: 2, 258: depth, 262: 2 if channels == 3 else 1, 277: channels, 278: 2, 279: 2 * row}
            assert told_of(changed).height == 2
            assert refusal({**changed, 279: 2 * row - 1}) == cut_off("a strip or a tile is not whole")
            assert refusal({**changed, 279: 2 * row + 1}) == damaged("the TIFF's strips or tiles hold more than its picture")

    def test_planes_and_tiles_hold_their_rows(self) -> None:
        planes: Tags = {256: 5, 257: 3, 262: 2, 277: 3, 278: 2, 284: 2, 273: (8, 18, 23, 33, 38, 48), 279: (10, 5) * 3}
        assert told_of(planes).kind == kind("RGB", 3, planar=True)
        assert refusal({**planes, 279: (10, 5, 10, 5, 9, 5)}) == cut_off("a strip or a tile is not whole")
        assert refusal({**planes, 279: (10, 5, 10, 5, 10, 11)})[0] == "decode_error"
        tiles: Tags = {258: 4, 322: 16, 323: 16, 324: (8, 100), 325: (128, 128)}
        assert told_of(tiles).kind == kind(depth=4)
        assert refusal({**tiles, 325: (128, 127)}) == cut_off("a strip or a tile is not whole")
        assert refusal({**tiles, 325: (128, 129)})[0] == "decode_error"

    def test_strips_lie_within_the_file_and_behind_its_signature(self) -> None:
        size = len(tiff_of(PIXELS, page({259: 5})))
        for offset, count in ((8, 1), (8, size - 8), (size - 1, 1), (size - 240, 240)):
            assert told_of({259: 5, 273: offset, 279: count}).height == 12
        for offset, count in ((size - 8, size - 8), (7, 1), (0, 1), (8, 0), (8, size - 7), (size, 1), (size - 1, 2), (2**32 - 1, 1)):
            assert refusal({259: 5, 273: offset, 279: count}) == cut_off("a strip or a tile is not whole")


class TestCodesThatEnd:
    def test_a_jpeg_ends_with_its_marker(self) -> None:
        for body in (b"x\xff\xd9", b"x\xff\xd9\0\0"):
            assert told_of({259: 7, 279: len(body)}, body).kind == kind(compression="JPEG")
        for body in (b"x\xff\xd8", b"x\xff\xd9x", b"\xff\xd9"[:1], b"\xff\xd9x\0"):
            assert refusal({259: 7, 279: len(body)}, body) == cut_off("the JPEG in a strip or a tile is not whole")
        two: Tags = {259: 7, 278: 6, 273: (8, 11), 279: (3, 3)}
        assert told_of(two, b"x\xff\xd9y\xff\xd9").height == 12
        for body in (b"x\xff\xd9y\xff\xd8", b"x\xff\xd8y\xff\xd9"):
            assert refusal(two, body) == cut_off("the JPEG in a strip or a tile is not whole")

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_fax_of_group_4_ends_with_two_codes(self, reverse: bool) -> None:
        def body_of(bits: str) -> bytes:
            bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
            return bytes(int(bits[at : at + 8][:: -1 if reverse else 1], 2) for at in range(0, len(bits), 8))

        changed: Tags = {258: 1, 259: 4, 266: 2 if reverse else 1}
        code = "000000000001"
        for bits in (code * 2, "1" + code * 2, "10110" + code * 2 + "0" * 30):
            assert told_of({**changed, 279: len(body_of(bits))}, body_of(bits)).kind == kind(depth=1, compression="fax group 4")
        for bits in ("1" + code, code[1:] + code, "1" * 20, code * 2 + "1", code + "1" + code):
            body = body_of(bits)
            assert refusal({**changed, 279: len(body)}, body) == cut_off("rows of a strip or a tile are missing, or it is no fax")
        other = bytes(int(f"{byte:08b}"[::-1], 2) for byte in body_of("1" + code * 2))
        assert refusal({**changed, 279: len(other)}, other)[0] == "truncated"

    @pytest.mark.parametrize(("code", "compression"), [(2, "fax RLE"), (3, "fax group 3")])
    def test_a_fax_of_group_3_has_a_code_for_every_row(self, code: int, compression: str) -> None:
        row = b"\0\x18"
        for rows, codes, whole in ((3, 3, True), (3, 4, True), (3, 2, False), (1, 1, True), (1, 0, False)):
            body = row * codes + b"\xff"
            changed: Tags = {257: rows, 258: 1, 259: code, 278: rows, 279: len(body)}
            if whole:
                assert told_of(changed, body).kind == kind(depth=1, compression=compression)
            else:
                assert refusal(changed, body) == cut_off("rows of a strip or a tile are missing, or it is no fax")
        two: Tags = {257: 4, 258: 1, 259: code, 278: 2, 273: (8, 12), 279: (4, 4)}
        assert told_of(two, row * 4).height == 4
        assert refusal(two, row * 3 + b"\xff\xff")[0] == "truncated"


def packbits(raw: bytes) -> bytes:
    return b"".join(bytes([len(raw[at : at + 100]) - 1]) + raw[at : at + 100] for at in range(0, len(raw), 100))


class TestSurplus:
    """libtiff ignores what a strip holds beyond its rows; a wrong width or height would give a sheared picture."""

    MESSAGE = ("decode_error", "the TIFF's strips or tiles hold more than its picture")

    @staticmethod
    def strips(sizes: tuple[int, ...], code: int, rows: int = 5) -> Header:
        pieces = [packbits(bytes(size)) if code == 32773 else zlib.compress(bytes(size)) for size in sizes]
        offsets = tuple(8 + sum(map(len, pieces[:number])) for number in range(len(pieces)))
        return told_of({259: code, 278: rows, 273: offsets, 279: tuple(map(len, pieces))}, b"".join(pieces))

    @pytest.mark.parametrize("code", [8, 32946, 32773])
    def test_the_first_strip_holds_its_rows_at_most(self, code: int) -> None:
        for size in (1, 99, 100):
            assert self.strips((size, 100, 40), code).stripped()
        for size in (101, 120, 5_000):
            assert refused_later(self.strips((size, 100, 40), code)) == self.MESSAGE
        assert self.strips((100, 5_000, 40), code).stripped()

    @pytest.mark.parametrize("code", [8, 32946, 32773])
    def test_the_last_strip_holds_its_rows_or_as_many_as_the_others(self, code: int) -> None:
        for size in (1, 39, 40, 100):
            assert self.strips((100, 100, size), code).stripped()
        for size in (41, 60, 99, 101, 5_000):
            assert refused_later(self.strips((100, 100, size), code)) == self.MESSAGE

    @pytest.mark.parametrize("code", [8, 32773])
    def test_strips_of_the_same_rows_are_asked_by_the_first_one(self, code: int) -> None:
        assert self.strips((240,), code, rows=12).stripped()
        assert refused_later(self.strips((241,), code, rows=12)) == self.MESSAGE
        for size in (80, 81, 500):
            assert self.strips((80, 80, size), code, rows=4).stripped()

    def test_other_compressions_are_not_asked(self) -> None:
        for code, body in ((7, b"x\xff\xd9"), (50000, zlib.compress(bytes(999))), (34925, packbits(bytes(999)))):
            assert told_of({259: code, 279: len(body)}, body).stripped()
        assert told_of({278: 8, 273: (8, 8), 279: (160, 100)}).stripped()
        for predictor, refusing in ((1, True), (2, False)):
            body = zlib.compress(bytes(999))
            header = told_of({259: 8, 279: len(body), 317: predictor}, body)
            if refusing:
                assert refused_later(header) == self.MESSAGE
            else:
                assert header.kind.compression == "deflate with a predictor"
