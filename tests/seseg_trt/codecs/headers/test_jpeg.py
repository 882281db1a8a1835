from __future__ import annotations

import struct

import pytest

from seseg_trt.codecs.headers import jpeg, read
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import exif, refused, segment, told

JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
TABLE = segment(0xDB, bytes(65))
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0")
START, END = b"\xff\xd8", b"\xff\xd9"
PIXELS = b"\x12\x34\xff\0\x56" + END


def frame(width: int, height: int, ids: bytes = b"\1", marker: int = 0xC0, bits: int = 8) -> bytes:
    components = b"".join(bytes([each, 0x11, 0]) for each in ids)
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(ids)) + components)


def kind(colors: str = "grey", channels: int = 1, coding: str = "baseline", depth: int = 8) -> Kind:
    return Kind("JPEG", depth, "uint", colors, channels, False, coding)


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


PLAIN = START + TABLE + frame(300, 2) + SCAN + PIXELS


def test_what_a_plain_file_says() -> None:
    header = read(PLAIN)
    assert told(header) == (kind(), 300, 2, 1, 1, True, False) and header.complete is None
    assert header.stripped() == PLAIN


def test_tables_are_kept_and_application_data_are_dropped() -> None:
    tables = [segment(marker, b"t%d" % marker) for marker in (0xC4, 0xDB, 0xDD, 0xCC)]
    private = [segment(marker, b"p%d" % marker) for marker in (*range(0xE0, 0xF0), 0xFE)]
    for extra in private:
        data = START + tables[0] + extra + tables[1] + frame(5, 7) + tables[2] + extra + tables[3] + SCAN + PIXELS
        assert told(read(data)) == (kind(), 5, 7, 1, 1, True, False)
        assert read(data).stripped() == START + tables[0] + tables[1] + frame(5, 7) + tables[2] + tables[3] + SCAN + PIXELS


def test_a_jfif_segment_is_replaced_and_kept_once() -> None:
    assert jpeg.JFIF == JFIF
    odd = segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\1\1abc")
    header = read(START + odd + JFIF + frame(5, 7, b"RGB") + SCAN + PIXELS)
    assert header.kind == kind("YCbCr", 3) and header.stripped() == START + JFIF + frame(5, 7, b"RGB") + SCAN + PIXELS


@pytest.mark.parametrize("body", [b"JFIF\0\1\1\0\0\1\0\1\0", b"JFIX\0\1\1\0\0\1\0\1\0\0", b"AAAA\0\1\1\0\0\1\0\1\0\0"])
def test_a_jfif_segment_that_is_short_or_another_says_nothing(body: bytes) -> None:
    header = read(START + segment(0xE0, body) + frame(5, 7, b"RGB") + SCAN + PIXELS)
    assert header.kind == kind("RGB", 3) and header.stripped() == START + frame(5, 7, b"RGB") + SCAN + PIXELS


def test_a_jfif_text_in_another_segment_says_nothing() -> None:
    for marker in (0xDB, 0xE1, 0xEF, 0xFE):
        header = read(START + segment(marker, JFIF[4:]) + frame(5, 7, b"RGB") + SCAN + PIXELS)
        assert header.kind == kind("RGB", 3)


@pytest.mark.parametrize(
    ("ids", "before", "colors"),
    [
        (b"\1", b"", "grey"),
        (b"\1", adobe(0), "grey"),
        (b"\1\2", b"", "unknown"),
        (b"\1\2", JFIF, "unknown"),
        (b"\1\2\3", b"", "YCbCr"),
        (b"RGB", b"", "RGB"),
        (b"RGC", b"", "YCbCr"),
        (b"ARG", b"", "YCbCr"),
        (b"\1\2\3", JFIF, "YCbCr"),
        (b"RGB", JFIF, "YCbCr"),
        (b"\1\2\3", JFIF + adobe(0), "YCbCr"),
        (b"\1\2\3", adobe(0), "RGB"),
        (b"RGB", adobe(0), "RGB"),
        (b"\1\2\3", adobe(1), "YCbCr"),
        (b"RGB", adobe(1), "YCbCr"),
        (b"\1\2\3\4", b"", "CMYK"),
        (b"\1\2\3\4", adobe(0), "CMYK"),
        (b"\1\2\3\4", adobe(1), "CMYK"),
        (b"\1\2\3\4", adobe(2), "YCCK"),
        (b"\1\2\3\4", adobe(3), "CMYK"),
        (b"\1\2\3\4\5", adobe(2), "unknown"),
        (b"", b"", "unknown"),
        (bytes(84), b"", "unknown"),
    ],
)
def test_the_colours_by_the_rules_of_libjpeg(ids: bytes, before: bytes, colors: str) -> None:
    header = read(START + before + frame(5, 7, ids) + SCAN + PIXELS)
    assert told(header) == (kind(colors, len(ids)), 5, 7, 1, 1, True, False)
    assert header.stripped() == START + before + frame(5, 7, ids) + SCAN + PIXELS  # what says the colours is kept


def test_an_adobe_text_in_another_segment_says_nothing() -> None:
    for marker in (0xDB, 0xE0, 0xED, 0xEF, 0xFE):
        header = read(START + segment(marker, adobe(0)[4:]) + frame(5, 7, b"\1\2\3") + SCAN + PIXELS)
        assert header.kind == kind("YCbCr", 3)


@pytest.mark.parametrize("body", [b"Adobe\0\x64\0\0\0\0", b"Adobf\0\x64\0\0\0\0\0", b"AAAAA\0\x64\0\0\0\0\0"])
def test_an_adobe_segment_that_is_short_or_another_says_nothing(body: bytes) -> None:
    header = read(START + segment(0xEE, body) + frame(5, 7, b"\1\2\3") + SCAN + PIXELS)
    assert header.kind == kind("YCbCr", 3) and header.stripped() == START + frame(5, 7, b"\1\2\3") + SCAN + PIXELS


@pytest.mark.parametrize(
    ("marker", "coding"),
    [
        (0xC0, "baseline"),
        (0xC1, "extended"),
        (0xC2, "progressive"),
        (0xC3, "lossless"),
        (0xC5, "differential"),
        (0xC6, "differential progressive"),
        (0xC7, "differential lossless"),
        (0xC9, "arithmetic"),
        (0xCA, "progressive arithmetic"),
        (0xCB, "lossless arithmetic"),
        (0xCD, "differential arithmetic"),
        (0xCE, "differential progressive arithmetic"),
        (0xCF, "differential lossless arithmetic"),
        (0xF7, "JPEG-LS"),
    ],
)
def test_the_coding_by_the_marker_of_the_frame(marker: int, coding: str) -> None:
    assert read(START + frame(5, 7, b"\1", marker, bits=12) + SCAN + PIXELS).kind == kind(coding=coding, depth=12)


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xC8, 0xDC, 0xDE, 0xDF, 0xF0, 0xF6, 0xF8, 0xFD])
def test_a_segment_of_an_unknown_kind(marker: int) -> None:
    data = START + segment(marker, b"ab") + frame(5, 7) + SCAN + PIXELS
    assert refused(data) == ("decode_error", f"the JPEG has a segment of the unknown kind {marker:#x}")


@pytest.mark.parametrize(
    "frames",
    [
        frame(5, 7) + frame(5, 7),
        segment(0xC0, b"\x08\0\7\0\5"),
        segment(0xC0, b"\x08\0\7\0\5\1"),
        segment(0xC0, b"\x08\0\7\0\5\1\1\x11"),
        segment(0xC0, b"\x08\0\7\0\5\1\1\x11\0\0"),
        segment(0xC0, b"\x08\0\7\0\5\0\1\x11\0"),
        segment(0xC0, b"\x08\0\7\0\5\2\1\x11\0"),
    ],
)
def test_two_frames_or_one_of_a_wrong_length(frames: bytes) -> None:
    assert refused(START + frames + SCAN + PIXELS) == ("decode_error", "the JPEG's frame header is damaged")


def test_no_frame() -> None:
    assert refused(START + TABLE + SCAN + PIXELS) == ("decode_error", "the JPEG has no frame header")


def test_the_end_is_looked_for_in_the_last_4096_bytes() -> None:
    head = START + frame(5, 7) + SCAN
    for behind, cut in ((0, False), (4094, False), (4095, True), (9_000, True)):
        data = head + END + bytes(behind)
        assert told(read(data)) == (kind(), 5, 7, 1, 1, not cut, cut) and read(data).stripped() == data
    assert read(head + b"\xff\xd8").cut and read(head + b"\xfe\xd9").cut


def test_what_lies_between_segments_is_dropped_and_makes_a_file_unusual() -> None:
    for between in (b"\xff", b"\xff\xff\xff", b"\0", b"lost", b"\xff\0\xff\0 "):
        for data in (
            START + between + TABLE + frame(5, 7) + SCAN + PIXELS,
            START + TABLE + between + frame(5, 7) + SCAN + PIXELS,
            START + TABLE + frame(5, 7) + between + SCAN + PIXELS,
        ):
            header = read(data)
            assert told(header) == (kind(), 5, 7, 1, 1, False, False)
            assert header.stripped() == START + TABLE + frame(5, 7) + SCAN + PIXELS


@pytest.mark.parametrize("marker", [0x00, 0x01, *range(0xD0, 0xD8)])
def test_a_marker_without_a_length_is_passed_over(marker: int) -> None:
    header = read(START + TABLE + bytes([0xFF, marker]) + frame(5, 7) + SCAN + PIXELS)
    assert header.stripped() == START + TABLE + frame(5, 7) + SCAN + PIXELS


@pytest.mark.parametrize("marker", [0xD8, 0xD9])
def test_a_file_that_ends_or_begins_anew_within_its_header(marker: int) -> None:
    data = START + TABLE + bytes([0xFF, marker]) + frame(5, 7) + SCAN + PIXELS
    assert refused(data) == ("decode_error", "the JPEG ends, or begins anew, within its header")
    assert read(START + frame(5, 7) + SCAN + bytes([0xFF, marker]) + PIXELS).width == 5  # behind the header it is none of its business


@pytest.mark.parametrize("length", [0, 1])
def test_a_segment_shorter_than_its_own_length(length: int) -> None:
    for marker in (0xDB, 0xC4, 0xC0, 0xDA, 0xDD):
        data = START + segment(marker, b"", length) + frame(5, 7) + SCAN + PIXELS
        assert refused(data) == ("decode_error", f"the JPEG's segment {marker:#x} has a length of {length}")
    for marker in (0xE0, 0xEF, 0xFE):
        header = read(START + segment(marker, b"", length) + frame(5, 7) + SCAN + PIXELS)
        assert told(header) == (kind(), 5, 7, 1, 1, True, False)


def test_a_segment_of_nothing_but_its_length() -> None:
    data = START + segment(0xDB) + frame(5, 7) + SCAN + PIXELS
    assert told(read(data)) == (kind(), 5, 7, 1, 1, True, False) and read(data).stripped() == data


def test_a_file_that_ends_within_its_header() -> None:
    head = START + TABLE + frame(5, 7)
    for data in (
        head,
        START,
        START + TABLE,
        START + segment(0xDB, b"\xff"),
        head + b"\xff",
        head + b"\xff\xda",
        head + b"\xff\xda\0",
        head + bytes(9),
    ):
        assert refused(data) == ("truncated", "the JPEG ends too early: its header is not whole")
    assert refused(head + SCAN[:-1]) == ("truncated", "the JPEG ends too early: its segment 0xda is not whole")
    assert refused(START + TABLE[:-1]) == ("truncated", "the JPEG ends too early: its segment 0xdb is not whole")
    for scan in (SCAN, segment(0xDA)):
        assert told(read(head + scan)) == (kind(), 5, 7, 1, 1, False, True)
        assert read(head + scan).stripped() == head + scan


def test_the_orientation_in_one_exif_block_or_in_its_pieces() -> None:
    block = exif(6)
    for pieces in ((block,), (block[:9], block[9:]), (block[:4], block[4:11], block[11:])):
        extra = b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces)
        header = read(START + extra + frame(5, 7) + SCAN + PIXELS)
        assert told(header) == (kind(), 5, 7, 6, 1, True, False) and header.stripped() == START + frame(5, 7) + SCAN + PIXELS
    for marker, name in ((0xE1, b"Exif\0\1"), (0xE1, b"Abcd\0\0"), (0xE2, b"Exif\0\0"), (0xE0, b"Exif\0\0")):
        assert read(START + segment(marker, name + block) + frame(5, 7) + SCAN + PIXELS).orientation == 1
    for marker, name in ((0xE1, b"Exig\0\0"), (0xE1, b"AAAA\0\0"), (0xE2, b"Exif\0\0"), (0xE0, b"Exif\0\0")):
        split = segment(0xE1, b"Exif\0\0" + block[:9]) + segment(marker, name + block[9:])
        assert read(START + split + frame(5, 7) + SCAN + PIXELS).orientation == 1


def several(
    first: bytes, others: list[bytes], order: str = ">", *, more: bytes = b"", name: bytes = b"MPF\0", behind: bytes = b""
) -> bytes:
    """Return a file of several JPEGs: its segment names the first one, whose place is 0, and the others."""
    count = 16 * (1 + len(others)) + len(more)
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8)
    directory = struct.pack(order + "HHHIII", 1, 0xB002, 7, count, 26, 0)
    start, size = 2 + 4 + 4, 4 + 4 + 26 + count + len(first) - 2 + 2
    block, at = struct.pack(order + "IIII", 0, size, 0, 0), size - start
    for other in others:
        block += struct.pack(order + "IIII", 0, len(other), at, 0)
        at += len(other)
    return START + segment(0xE2, name + head + directory + block + more) + first[2:] + b"".join(others) + behind


def whole(width: int, height: int) -> bytes:
    return START + frame(width, height) + SCAN + PIXELS


@pytest.mark.parametrize("order", [">", "<"])
def test_of_several_jpegs_the_largest_and_the_first_among_equals(order: str) -> None:
    big, wide, small = whole(30, 20), whole(60, 10), whole(20, 29)
    for first, others, chosen in (
        (small, [big], big),
        (small, [small, big], big),
        (small, [big, small], big),
        (small, [wide, big], wide),
        (small, [big, wide], big),
    ):
        header = read(several(first, others, order, behind=b"behind"))
        assert told(header) == told(read(chosen)) and header.stripped() == chosen
    for others in ([small], [wide], [small, wide]):
        data = several(big, others, order)
        assert told(read(data)) == (kind(), 30, 20, 1, 1, True, False)
        assert read(data).stripped() == big + b"".join(others)  # the scan's decoder ends where the first one ends


def test_another_jpeg_that_is_damaged_or_none_is_passed_over() -> None:
    small, big = whole(20, 10), whole(30, 20)
    for lost in (START + b"damaged" * 9, big[2:], b"\0\0" + big[2:], b"\xff\xd9" + big[2:], START):
        assert read(several(small, [lost])).width == 20
        assert read(several(small, [lost, big])).stripped() == big


def test_a_damaged_list_of_further_jpegs_costs_nothing() -> None:
    small, big = whole(20, 10), whole(30, 20)
    assert read(several(small, [big], more=b"")).width == 30
    assert read(several(small, [big], more=b"x")).width == 20
    for name in (b"MPG\0", b"AAA\0"):
        assert read(several(small, [big], name=name)).width == 20
    moved = several(small, [big])
    assert read(moved[:3] + b"\xe3" + moved[4:]).width == 20
    assert read(moved.replace(b"\xb0\x02", b"\xb0\x01")).width == 20
    assert read(moved.replace(b"MM\0*\0\0\0\x08", b"MM\0*\0\0\xff\x08")).width == 20
