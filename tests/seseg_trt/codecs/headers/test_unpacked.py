from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from seseg_trt.codecs.headers.unpacked import LARGEST, unpacked_size

imagecodecs = pytest.importorskip("imagecodecs", reason="it packs the pieces")

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "LZW": imagecodecs.lzw_encode,
    "PackBits": imagecodecs.packbits_encode,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("compression", PACKERS)
@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 255, 256, 257, 300, 4_000, 20_000])
def test_is_the_size_that_was_packed(compression: str, size: int) -> None:
    rng = np.random.default_rng(size)
    for raw in (
        bytes(size),
        rng.integers(0, 256, size, np.uint8).tobytes(),
        (np.cumsum(rng.integers(-2, 3, size)) % 256).astype(np.uint8).tobytes(),
    ):
        packed = bytes(PACKERS[compression](raw))
        assert unpacked_size(packed, compression, size + 1) == size
        assert unpacked_size(packed, compression, max(1, size // 2)) >= max(1, size // 2)


@pytest.mark.parametrize("compression", PACKERS)
def test_noise_is_counted_as_something_or_nothing(compression: str) -> None:
    rng = np.random.default_rng(1)
    for size in range(60):
        assert unpacked_size(rng.integers(0, 256, size, np.uint8).tobytes(), compression, 1 << 20) >= 0


@pytest.mark.parametrize("compression", ["LZW", "PackBits"])
def test_a_large_piece_is_not_counted(compression: str) -> None:
    assert unpacked_size(b"\x80" * (LARGEST + 1), compression, 1) == 0


def test_a_piece_of_the_largest_size_is_counted() -> None:
    literals = b"\0x" * (LARGEST // 2)
    assert LARGEST == 32_768 and unpacked_size(literals, "PackBits", 1) == LARGEST // 2
    assert unpacked_size(literals + b"\x80", "PackBits", 1) == 0
    codes = lzw([CLEAR, *b"abc", END]).ljust(LARGEST, b"\0")
    assert unpacked_size(codes, "LZW", 99) == 3 and unpacked_size(codes + b"\0", "LZW", 99) == 0
    stored = zlib.compress(bytes(LARGEST + 5), 0)
    assert unpacked_size(stored, "deflate", LARGEST + 9) == LARGEST + 5


def test_deflate_ends_at_what_is_asked_for_and_knows_damage() -> None:
    packed = zlib.compress(bytes(1_000))
    assert [unpacked_size(packed, "deflate", most) for most in (1, 999, 1_000, 1_001, 5_000)] == [1, 999, 1_000, 1_000, 1_000]
    assert unpacked_size(zlib.compress(bytes(100), 0)[:-20], "deflate", 999) == 84
    assert unpacked_size(packed + b"behind", "deflate", 5_000) == 1_000
    for damaged in (b"none", b"\xff" * 9, packed[:2] + b"\xff" * 9):
        assert unpacked_size(damaged, "deflate", 999) == 0


@pytest.mark.parametrize(
    ("piece", "size"),
    [
        (b"", 0),
        (b"\0a", 1),
        (b"\1ab", 2),
        (b"\x7f" + b"a" * 128, 128),
        (b"\x80", 0),
        (b"\x80\x80\0a", 1),
        (b"\x80\1ab", 2),
        (b"\x81a", 128),
        (b"\xffa", 2),
        (b"\xfea", 3),
        (b"\xff\x7f\0a", 3),
        (b"\x81\xff\x81\xff", 256),
        (b"\2\xff\xff\xff\1ab\x80\xfda\0z", 10),
        (b"\x7f" + b"\xff" * 128 + b"\xff\x05", 130),
    ],
)
def test_packbits_runs_and_literals(piece: bytes, size: int) -> None:
    assert unpacked_size(piece, "PackBits", 1) == size


CLEAR, END = 256, 257


def lzw(codes: Sequence[int]) -> bytes:
    """Return codes packed as TIFF asks: of 9 bits after a clear code, and one bit more when the table has 510, 1022 and 2046 entries."""
    bits, entries, first = "", 258, True
    for code in codes:
        width = 9 if entries < 511 else 10 if entries < 1023 else 11 if entries < 2047 else 12
        bits += format(code, f"0{width}b")
        if code == CLEAR:
            entries, first = 258, True
        else:
            entries += not first
            first = False
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize(
    ("codes", "size"),
    [
        ([CLEAR, 97, END], 1),
        ([CLEAR, 97, 98, 99, END], 3),
        ([CLEAR, 97], 1),
        ([CLEAR, 97, 258, END], 3),
        ([CLEAR, 97, 258, 259, 260, END], 10),
        ([CLEAR, 97, 98, 258, 259, 260, END], 9),
        ([CLEAR, 97, 98, 258, 258, 260, 97, END], 10),
        ([CLEAR, 97, 258, CLEAR, 97, 258, 259, END], 9),
        ([CLEAR, CLEAR, 255, 0, END], 2),
        ([CLEAR, 97, END, 98, 99, 100], 1),
        ([CLEAR, END], 0),
        ([END], 0),
        ([97, 98], 0),
        ([0, 0, 0], 0),
        ([CLEAR, 97, 259, 97], 0),
        ([CLEAR, 97, 98, 260, 97], 0),
        ([CLEAR, 97, 300, END], 0),
    ],
)
def test_the_codes_of_lzw(codes: list[int], size: int) -> None:
    assert unpacked_size(lzw(codes), "LZW", 1_000) == size
    assert unpacked_size(lzw(codes) + b"\0\0\0" * (codes[-1] == END), "LZW", 1_000) == size


def test_lzw_ends_at_what_is_asked_for() -> None:
    codes = [CLEAR, *b"abcdef", END]
    assert [unpacked_size(lzw(codes), "LZW", most) for most in (1, 2, 5, 6, 7)] == [1, 2, 5, 6, 6]


@pytest.mark.parametrize("count", [252, 253, 254, 255, 764, 765, 766, 767, 1788, 1789, 1790, 1791, 3000, 3838, 3839])
def test_lzw_widens_its_codes_one_entry_early_and_up_to_twelve_bits(count: int) -> None:
    literals = [(7 * k + 1) % 256 for k in range(count)]
    for last, size in ((65, 1), (258 + 9, 2)):
        assert unpacked_size(lzw([CLEAR, *literals, last, END]), "LZW", 1 << 20) == count + size
        assert unpacked_size(lzw([CLEAR, *literals, last, CLEAR, *b"abc", END]), "LZW", 1 << 20) == count + size + 3
