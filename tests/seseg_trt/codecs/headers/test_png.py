from __future__ import annotations

import struct
import zlib

import pytest

from seseg_trt.codecs.headers import read
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import chunk, exif, refused, refused_later, told

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND")
ROWS = chunk(b"IDAT", zlib.compress(bytes(1000)))
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
COLORS = {0: ("grey", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("grey", 2), 6: ("RGB", 4)}


def top(width: int = 300, height: int = 2, depth: int = 8, color: int = 0, *last: int) -> bytes:
    """Return the signature and the header; ``last`` are its bytes for compression, filtering and interlacing."""
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, *(last or (0, 0, 0))))


def kind(colors: str = "grey", channels: int = 1, depth: int = 8, compression: str = "deflate") -> Kind:
    return Kind("PNG", depth, "uint", colors, channels, False, compression)


def palette(entries: int) -> bytes:
    return chunk(b"PLTE", bytes(range(3)) * entries)


def test_what_a_plain_file_says() -> None:
    header = read(top() + ROWS + END)
    assert told(header) == (kind(), 300, 2, 1, 1, True, False)
    assert header.stripped() == top() + ROWS + END and header.complete is not None and header.complete()


@pytest.mark.parametrize("color", range(8))
def test_the_colours_and_depths_of_the_format_and_no_others(color: int) -> None:
    for depth in (*range(18), 32):
        data = top(5, 7, depth, color) + palette(1) + ROWS + END
        if depth in DEPTHS.get(color, ()):
            colors, channels = COLORS[color]
            assert told(read(data)) == (kind(colors, channels, depth), 5, 7, 1, 1, True, False)
            assert read(data).stripped() == top(5, 7, depth, color) + (palette(1) if color == 3 else b"") + ROWS + END
        else:
            assert refused(data) == ("decode_error", "the PNG's header has values that the format does not know")


def test_methods_that_the_format_does_not_know() -> None:
    for last in ((1, 0, 0), (0, 1, 0), (0, 0, 2), (0, 0, 3)):
        assert refused(top(5, 7, 8, 0, *last) + ROWS + END) == ("decode_error", "the PNG's header has values that the format does not know")
    assert read(top(5, 7, 8, 0, 0, 0, 1) + ROWS + END).kind == kind(compression="interlaced deflate")


def test_the_largest_sizes() -> None:
    assert told(read(top(2**31 - 1, 1) + ROWS + END))[1:3] == (2**31 - 1, 1)
    assert told(read(top(1, 2**31 - 1) + ROWS + END))[1:3] == (1, 2**31 - 1)
    for size in ((2**31, 1), (1, 2**31), (2**32 - 1, 1)):
        assert refused(top(*size) + ROWS + END) == ("decode_error", "the PNG's header has values that the format does not know")


def test_a_file_that_does_not_begin_with_its_header() -> None:
    for changed in (b"\0\0\0\x0dAAAA", b"\0\0\0\x0dzzzz", b"\0\0\0\x0cIHDR", b"\0\0\0\x0eIHDR", b"\0\0\0\0IHDR"):
        body = changed[4:] + top()[16:29]
        data = SIGNATURE + changed + body[4:] + struct.pack(">I", zlib.crc32(body)) + ROWS + END
        assert refused(data) == ("decode_error", "the PNG does not begin with its header")


def test_apples_own_format() -> None:
    reason, message = refused(SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\2") + top()[8:] + ROWS + END)
    assert reason == "unsupported" and message == (
        "it is a PNG in Apple's own format (CgBI), which is not decoded; convert it to a PNG, as `pngcrush -revert-iphone-optimizations` does"
    )


def test_a_header_with_a_wrong_checksum() -> None:
    for at in (16, 28, 29, 32):
        data = bytearray(top() + ROWS + END)
        data[at] ^= 1
        assert refused(bytes(data)) == ("decode_error", "the PNG's header has a wrong checksum")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_has_up_to_as_many_colours_as_the_depth_allows(depth: int) -> None:
    most = 1 << depth
    for good in (1, 2, most - 1, most):
        header = read(top(5, 7, depth, 3) + palette(good) + ROWS + END)
        assert header.kind == kind("palette", 1, depth) and header.stripped() == top(5, 7, depth, 3) + palette(good) + ROWS + END
    wrong = (b"", palette(0), palette(most + 1), palette(1) * 2, chunk(b"PLTE", b"ab"), chunk(b"PLTE", b"abcd"), chunk(b"PLTE", b"abcde"))
    for bad in wrong:
        assert refused(top(5, 7, depth, 3) + bad + ROWS + END) == ("decode_error", "the PNG's palette is missing or has a wrong size")


def test_a_palette_behind_the_pixels_is_none() -> None:
    assert refused(top(5, 7, 8, 3) + ROWS + palette(1) + END)[0] == "decode_error"
    assert read(top(5, 7, 8, 3) + palette(1) + ROWS + palette(1) + END).stripped() == top(5, 7, 8, 3) + palette(1) + ROWS + END


def test_a_palette_is_of_no_interest_to_other_colours() -> None:
    for wrong in (palette(300), palette(0), palette(1) * 2, chunk(b"PLTE", bytes(3), flip=1)):
        assert read(top(5, 7, 8, 2) + wrong + ROWS + END).stripped() == top(5, 7, 8, 2) + ROWS + END


def test_the_orientation_in_the_first_exif_chunk() -> None:
    for extra, orientation in (
        (chunk(b"eXIf", exif(6)), 6),
        (chunk(b"eXIf", exif(6)) + chunk(b"eXIf", exif(3)), 6),
        (chunk(b"eXIg", exif(6)) + chunk(b"eXIf", exif(3)), 3),
        (chunk(b"eXIe", exif(6)), 1),
        (chunk(b"tEXt", b"x") + chunk(b"eXIf", exif(8), flip=1), 8),
    ):
        for data in (top() + extra + ROWS + END, top() + ROWS + extra + END):
            assert told(read(data)) == (kind(), 300, 2, orientation, 1, True, False)
            assert read(data).stripped() == top() + ROWS + END


def test_a_file_without_pixels() -> None:
    for data in (top(), top() + END, top() + chunk(b"tEXt", b"x") + END, top() + chunk(b"IDAT")[:7], top() + END + ROWS):
        assert refused(data) == ("truncated", "the PNG ends too early: it has no pixels")
    assert refused(top()[:-1]) == ("truncated", "the PNG ends too early: its header is not whole")


def test_a_file_that_ends_within_its_pixels_is_cut() -> None:
    whole = top() + ROWS
    for data in (
        whole,
        whole[:-1],
        whole[:-9],
        top() + ROWS[:8],
        whole + ROWS[:15],
        whole + END[:7],
        whole + END[:11],
        whole + b"\0\0\0\5tEXtab",
    ):
        header = read(data)
        assert told(header) == (kind(), 300, 2, 1, 1, False, True)
        kept = data if data == whole + ROWS[:15] or len(data) < len(whole) else whole
        assert header.stripped() == kept + END


def test_a_file_that_ends_behind_another_chunk_is_cut() -> None:
    for last in (chunk(b"tEXt", b"x"), chunk(b"eXIf"), chunk(b"aaaa")):
        header = read(top() + ROWS + last)
        assert told(header) == (kind(), 300, 2, 1, 1, False, True) and header.stripped() == top() + ROWS + END


def test_ancillary_chunks_are_not_kept_beside_a_palette() -> None:
    for extra in (chunk(b"tRNS", b"x"), chunk(b"aaaa", b"x", flip=1)):
        data = top(5, 7, 8, 3) + extra + palette(1) + extra + ROWS + END
        assert read(data).stripped() == top(5, 7, 8, 3) + palette(1) + ROWS + END


def test_what_lies_behind_the_end_is_none_of_the_file() -> None:
    for more in (b"x", bytes(40), ROWS, chunk(b"eXIf", exif(6)), chunk(b"QQQQ"), chunk(b"acTL", bytes(8))):
        assert told(read(top() + ROWS + END + more)) == (kind(), 300, 2, 1, 1, True, False)
        assert read(top() + ROWS + END + more).stripped() == top() + ROWS + END


def test_of_the_pixels_the_first_consecutive_chunks() -> None:
    first, second, third = chunk(b"IDAT", b"one"), chunk(b"IDAT"), chunk(b"IDAT", b"three")
    assert read(top() + first + second + third + END).stripped() == top() + first + second + third + END
    for between in (chunk(b"tEXt", b"x"), palette(1), chunk(b"fcTL", bytes(26))):
        assert read(top() + between + first + END).stripped() == top() + first + END
        data = top() + between + first + second + between + third + between + chunk(b"IDAT", b"four") + END
        assert read(data).stripped() == top() + first + second + END


def test_an_unknown_critical_chunk() -> None:
    for name in (b"ABCD", b"IDAU", b"IDAS", b"QeQe", b"IHDR"):
        for data in (top() + chunk(name, b"x") + ROWS + END, top() + ROWS + chunk(name, b"x") + END):
            assert refused(data) == (
                "unsupported",
                f"it is a PNG with the unknown critical chunk {name.decode()}, which is not decoded; "
                "convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does",
            )
    for name in (b"aBCD", b"zZZZ", b"idat"):
        assert read(top() + chunk(name, b"x") + ROWS + END).stripped() == top() + ROWS + END
    for name in (b"\0\0\0\0", b"AB1D", b"\xd0BCD", b"A CD"):
        assert refused(top() + ROWS + chunk(name, b"x") + END) == ("decode_error", "the PNG is damaged: a chunk has no name")


def test_a_wrong_checksum_of_what_is_kept() -> None:
    pixels = struct.pack(">I", 3)
    for data, name in (
        (top() + chunk(b"IDAT", pixels, flip=1) + END, "IDAT"),
        (top() + ROWS + chunk(b"IDAT", pixels, flip=1 << 31) + END, "IDAT"),
        (top() + chunk(b"tEXt", bytes(500)) + chunk(b"IDAT", pixels, flip=1) + END, "IDAT"),
        (top(5, 7, 8, 3) + chunk(b"PLTE", bytes(3), flip=1) + ROWS + END, "PLTE"),
    ):
        assert refused_later(read(data)) == ("decode_error", f"the PNG is damaged: its chunk {name} has a wrong checksum")


def test_the_checksum_of_pixels_that_are_cut_is_not_asked_for() -> None:
    data = top() + chunk(b"IDAT", b"pixels", flip=1)
    assert refused_later(read(data))[0] == "decode_error"
    for missing in (1, 4, 5):
        assert read(data[:-missing]).stripped() == data[:-missing] + END


def control(number: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 300, 2, 0, 0, 1, 1, 0, 0))


@pytest.mark.parametrize(
    ("extra", "behind", "pictures"),
    [
        (b"", b"", 1),
        (control(), control(), 1),
        (chunk(b"acTL", struct.pack(">II", 1, 0)) + control(), b"", 1),
        (chunk(b"acTL", struct.pack(">II", 0, 0)) + control(), b"", 1),
        (chunk(b"acTL", struct.pack(">II", 2, 0)) + control(), control(1), 2),
        (chunk(b"acTL", struct.pack(">II", 5, 9)) + control(), control(1), 5),
        (chunk(b"acTL", struct.pack(">II", 1, 9)) + control(), control(1) + control(2), 3),
        (chunk(b"acTL", struct.pack(">II", 1, 0)), control(), 2),
        (chunk(b"acTL", struct.pack(">II", 0, 0)), b"", 2),
        (chunk(b"acTL", struct.pack(">II", 3, 0)), control(), 4),
        (chunk(b"tEXt", b"x") + chunk(b"acTL", struct.pack(">II", 4, 0)) + control(), b"", 4),
    ],
)
def test_the_number_of_frames(extra: bytes, behind: bytes, pictures: int) -> None:
    data = top() + extra + ROWS + behind + END
    assert told(read(data)) == (kind(), 300, 2, 1, pictures, True, False) and read(data).stripped() == top() + ROWS + END


ADAM7 = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")
"""The pass of each pixel of an 8 x 8 block, as the PNG specification draws them."""


def raw_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return the bytes of a picture's rows, each with its filter byte, counted pixel by pixel."""
    lengths: dict[tuple[int, int], int] = {}
    for y in range(height):
        for x in range(width):
            row = (int(ADAM7[y % 8][x % 8]) if interlaced else 0, y)
            lengths[row] = lengths.get(row, 0) + 1
    return sum(1 + -(-length * bits // 8) for length in lengths.values())


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "color", "bits"), [(1, 0, 1), (4, 0, 4), (8, 2, 24), (16, 6, 64)])
def test_the_rows_are_complete_from_their_exact_size_on(interlaced: bool, depth: int, color: int, bits: int) -> None:
    for width, height in [(w, h) for w in range(1, 10) for h in range(1, 10)] + [(17, 3), (3, 17)]:
        size = raw_size(width, height, bits, interlaced)
        for there, expected in ((size - 1, False), (size, True), (size + 1, True)):
            complete = read(
                top(width, height, depth, color, 0, 0, int(interlaced)) + chunk(b"IDAT", zlib.compress(bytes(there))) + END
            ).complete
            assert complete is not None and complete() is expected, (width, height)


def test_rows_in_several_chunks_and_of_megabytes() -> None:
    for width, height in ((1023, 5), (2047, 1024), (2047, 2048)):
        for missing in (0, 1):
            stream = zlib.compress(bytes(height * (1 + width) - missing))
            half = len(stream) // 2
            pieces = chunk(b"IDAT", stream[:half]) + chunk(b"IDAT") + chunk(b"IDAT", stream[half:] + b"behind") + chunk(b"IDAT", b"more")
            complete = read(top(width, height) + pieces + END).complete
            assert complete is not None and complete() is not bool(missing)


def test_rows_of_a_megabyte_and_some_bytes_without_their_checksum() -> None:
    for more in (0, 1, 100, 200, 258, 300):
        width = (1 << 20) - 1 + more
        for missing in (0, 1):
            complete = read((top(width, 1) + chunk(b"IDAT", zlib.compress(bytes(1 + width - missing))))[:-4]).complete
            assert complete is not None and complete() is not bool(missing), more


def test_rows_of_pixels_that_are_cut() -> None:
    stream = zlib.compress(bytes(range(250)) * 4, 0)
    data = top(999, 1) + chunk(b"IDAT", stream)
    for missing, expected in ((0, True), (1, True), (4, True), (12, False)):
        complete = read(data[: len(data) - missing]).complete
        assert complete is not None and complete() is expected, missing
