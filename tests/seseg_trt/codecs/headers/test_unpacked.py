from __future__ import annotations

import zlib
from collections.abc import Callable

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
