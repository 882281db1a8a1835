"""The very bytes of a PNG: its bounds, its chunks, and what the compressor is asked for."""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest

from seseg_trt import native
from seseg_trt.codecs import png
from seseg_trt.errors import BadImage
from tests.corpus import scene
from tests.seseg_trt.codecs.test_png import LIBRARIES, choose, chunks

LONGEST = 2**31 - 1


def filtered(pixels: np.ndarray) -> bytes:
    rows = pixels.reshape(len(pixels), -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    return np.hstack([np.full((len(rows), 1), 2, np.uint8), rows - above]).tobytes()


@pytest.mark.parametrize("library", ["zlib", "zlib_ng"])
def test_the_compressor_looks_for_runs_alone_at_its_first_level(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(library, monkeypatch)
    pixels = scene(300, 200)
    module: Any = zlib if library == "zlib" else png._zlib_ng
    compressor = module.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    expected = compressor.compress(filtered(pixels)) + compressor.flush()
    assert b"".join(body for kind, body in chunks(png.encode_png(pixels)) if kind == b"IDAT") == expected


@pytest.mark.parametrize("shape", [(1, LONGEST), (LONGEST, 1), (LONGEST, LONGEST), (1, LONGEST, 3), (LONGEST, 1, 3)])
def test_the_longest_side_is_that_of_the_format(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_compressed", lambda rows: [b"data"])
    tiny: Any = np.broadcast_to(np.uint8(0), shape)  # a byte, however long its sides are
    if shape[:2] == (LONGEST, LONGEST) or len(shape) == 3:
        monkeypatch.setattr(png, "np", Flat)
        tiny = Flat(shape)
    found = chunks(png.encode_png(tiny))
    color = 2 if len(shape) == 3 else 0
    assert found == [(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], 8, color, 0, 0, 0)), (b"IDAT", b"data"), (b"IEND", b"")]


class Flat:
    """An array of a shape alone."""

    uint8 = np.uint8
    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim = shape, len(shape)

    def reshape(self, height: int, width: int) -> Flat:
        assert (height, width) == (self.shape[0], -1)
        return self


@pytest.mark.parametrize("shape", [(LONGEST + 1, 1), (1, LONGEST + 1), (0, 1), (1, 0), (0, 0), (0, 1, 3), (1, LONGEST + 1, 3)])
def test_a_side_of_no_pixels_or_too_many_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadImage) as caught:
        png.encode_png(Flat(shape))  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.message) == (
        "encode_error",
        f"an image of {shape[1]} x {shape[0]} pixels can't be a PNG",
    )


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2), (2, 2, 4), (2, 2, 3, 1), (2, 2, 1, 3)])
def test_only_grey_and_rgb_are_written(shape: tuple[int, ...]) -> None:
    for dtype in (np.uint8, np.uint16):
        with pytest.raises(ValueError, match="not of ") as caught:
            png.encode_png(np.zeros(shape, dtype))  # type: ignore[arg-type]
        assert str(caught.value) == f"a PNG is made of uint8 [H, W] or [H, W, 3], not of {np.dtype(dtype)} {shape}"
    for right in ((2, 2), (2, 2, 3)):
        with pytest.raises(ValueError, match="not of int8"):
            png.encode_png(np.zeros(right, np.int8))  # type: ignore[arg-type]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_chunk_is_as_long_as_a_band_and_none_is_empty(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(library, monkeypatch)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 100), dtype=np.uint8)
    monkeypatch.setattr(png, "BAND_BYTES", 1000)
    sizes = [len(body) for kind, body in chunks(png.encode_png(pixels)) if kind == b"IDAT"]
    assert all(sizes)
    if library == "native":
        assert len(sizes) > 5 and set(sizes[:-1]) == {1000} and sizes[-1] <= 1000


def test_zlib_gets_as_many_whole_rows_as_a_band_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MODULE", None)
    real: Any = png._zlib_ng
    bands: list[int] = []

    class Compressor:
        def __init__(self, *arguments: int) -> None:
            self.real = real.compressobj(*arguments)

        def compress(self, data: Any) -> bytes:
            bands.append(memoryview(data).nbytes)
            return bytes(self.real.compress(data))

        def flush(self) -> bytes:
            return bytes(self.real.flush())

    class Library:
        compressobj = Compressor

    monkeypatch.setattr(png, "_zlib_ng", Library)
    pixels = scene(33, 10)  # rows of 100 bytes with their filter
    for band, rows in ((1, [1] * 10), (99, [1] * 10), (100, [1] * 10), (199, [1] * 10), (200, [2] * 5), (300, [3, 3, 3, 1]), (5000, [10])):
        monkeypatch.setattr(png, "BAND_BYTES", band)
        bands.clear()
        png.encode_png(pixels)
        assert bands == [100 * count for count in rows]


def test_a_band_is_about_a_mebibyte() -> None:
    assert png.BAND_BYTES == 1 << 20


def test_a_row_that_equals_the_one_above_is_zeros_but_for_its_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES:
        with pytest.MonkeyPatch.context() as patch:
            choose(library, patch)
            patch.setattr(png, "BAND_BYTES", 20)
            pixels = np.full((4, 9), 7, np.uint8)
            data = b"".join(body for kind, body in chunks(png.encode_png(pixels)) if kind == b"IDAT")
            assert zlib.decompress(data) == b"\2" + b"\7" * 9 + (b"\2" + bytes(9)) * 3


def test_without_zlib_ng_the_writer_falls_back_to_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    spec = importlib.util.spec_from_file_location("seseg_trt.codecs.png_without_zlib_ng", png.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._zlib_ng is None and module.crc32 is zlib.crc32
    monkeypatch.setattr(native, "MODULE", None)
    assert chunks(module.encode_png(scene())) != []
    assert png._zlib_ng is not None and png.crc32 is png._zlib_ng.crc32
