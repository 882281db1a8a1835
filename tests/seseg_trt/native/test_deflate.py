"""Test that zlib reads the compiled encoder's output, in each of the three block formats."""

from __future__ import annotations

import threading
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt import native

from .content import KINDS, content

BLOCK = 1 << 18
Pixels = npt.NDArray[np.uint8]


def compressed(rows: Pixels) -> bytes:
    assert native.MODULE is not None, "the extension was not built: pip install --editable . says why"
    return bytes(native.MODULE.compress_rows(rows))


def read(stream: bytes, width: int) -> Pixels:
    inflater = zlib.decompressobj()  # checks the Adler-32
    filtered = np.frombuffer(inflater.decompress(stream), np.uint8).reshape(-1, width + 1)
    assert inflater.eof and not inflater.unused_data
    assert (filtered[:, 0] == 2).all()
    return np.cumsum(filtered[:, 1:], axis=0, dtype=np.uint8)


def first_block(stream: bytes) -> str:
    return ("stored", "fixed", "dynamic")[stream[2] >> 1 & 3]


@pytest.mark.parametrize("kind", KINDS)
@given(height=st.integers(1, 60), width=st.integers(1, 400), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_rows_come_back(kind: str, height: int, width: int, seed: int) -> None:
    rows = content(kind, height, width, seed)
    assert np.array_equal(read(compressed(rows), width), rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1),
        (1, BLOCK - 2),
        (1, BLOCK - 1),
        (1, BLOCK),
        (1, BLOCK + 1),
        (3, 2 * BLOCK + 17),
        (BLOCK + 5, 1),
        (511, 1024),
        (513, 511),
    ],
)
def test_the_ends_of_blocks_and_rows(kind: str, height: int, width: int) -> None:
    rows = content(kind, height, width, 1)
    assert np.array_equal(read(compressed(rows), width), rows)


@pytest.mark.parametrize("run", [*range(1, 24), 257, 258, 259, 260, 261, 262, 515, 516, 517, 518, 519, 774, 100_000])
@pytest.mark.parametrize("offset", range(9))
def test_runs_of_every_length_and_alignment(run: int, offset: int) -> None:
    row = np.random.default_rng(run).integers(0, 256, (1, offset + run + 40), np.uint8)
    row[0, offset : offset + run] = 7
    assert np.array_equal(read(compressed(row), row.shape[1]), row)


def test_each_way_of_writing_a_block_is_taken_where_it_is_the_shortest() -> None:
    noise = content("noise", 100, 3000, 1)
    assert first_block(compressed(noise)) == "stored" and len(compressed(noise)) < noise.nbytes + 500
    assert first_block(compressed(np.full((1, 30), 3, np.uint8))) == "fixed"
    steps = content("steps", 100, 3000, 1)
    assert first_block(compressed(steps)) == "dynamic"
    flat = np.zeros((1000, 1000, 3), np.uint8).reshape(1000, 3000)
    assert len(compressed(flat)) < flat.nbytes / 500


def test_codes_that_would_be_longer_than_the_limit() -> None:
    # Fibonacci numbers as frequencies make the deepest tree, about 24 levels here.
    counts = [1, 1]
    while sum(counts) < 200_000:
        counts.append(counts[-1] + counts[-2])
    values = np.repeat(np.arange(len(counts), dtype=np.uint8) * 9 % 251, counts)
    rows = np.random.default_rng(0).permutation(values)[np.newaxis]
    assert len(counts) > 20
    stream = compressed(np.ascontiguousarray(rows))
    assert first_block(stream) == "dynamic" and np.array_equal(read(stream, rows.shape[1]), rows)
    assert len(stream) < 1.1 * len(zlib.compress(rows.tobytes(), 1))


def test_it_is_about_as_small_as_zlib() -> None:
    for kind in ("steps", "sparse"):
        rows = content(kind, 700, 900, 3)
        filtered = np.diff(rows, axis=0, prepend=np.zeros((1, 900), np.uint8))
        deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        assert len(compressed(rows)) < 1.15 * len(deflate.compress(filtered.tobytes()) + deflate.flush())


def test_threads_give_the_bytes_of_one() -> None:
    images = [content(kind, 90 + 7 * i, 400 + i, i) for i, kind in enumerate(KINDS * 3)]
    alone = [compressed(image) for image in images]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(np.repeat(np.arange(len(images)), 5)):
            if compressed(images[index]) != alone[index]:
                wrong.append(int(index))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (np.zeros((0, 4), np.uint8), ValueError),
        (np.zeros((4, 0), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (np.zeros((2, 2, 3), np.uint8), ValueError),
        (np.zeros((2, 2), np.uint16), ValueError),
        (np.zeros((4, 4), np.uint8)[:, ::2], ValueError),
        ([[1, 2]], TypeError),
    ],
)
def test_what_is_no_rows_is_refused(rows: Any, error: type[Exception]) -> None:
    assert native.MODULE is not None
    with pytest.raises(error):
        native.MODULE.compress_rows(rows)
