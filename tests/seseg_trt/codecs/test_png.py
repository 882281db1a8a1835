from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from seseg_trt import native
from seseg_trt.codecs import png
from seseg_trt.errors import BadImage
from tests.corpus import scene

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into chunks; fail on a wrong length or checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, offset = [], 8
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, offset + 8 + length)
        assert len(body) == length and checksum == zlib.crc32(kind + body)
        found.append((kind, body))
        offset += 12 + length
    return found


def read(data: bytes) -> np.ndarray:
    """Decode a PNG of filter "Up" with zlib alone."""
    parts = chunks(data)
    assert [kind for kind, _ in parts if kind != b"IDAT"] == [b"IHDR", b"IEND"]
    width, height, bits, color, *rest = struct.unpack(">IIBBBBB", parts[0][1])
    assert bits == 8 and color in (0, 2) and rest == [0, 0, 0]
    rows = np.frombuffer(zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT")), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all()
    pixels = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return pixels if color == 0 else pixels.reshape(height, width, 3)


LIBRARIES = ["native", "zlib_ng", "zlib"]


def choose(library: str, patch: pytest.MonkeyPatch) -> None:
    """Hide the libraries that the writer would prefer to this one."""
    assert native.MODULE is not None and png._zlib_ng is not None, "the one is built by pip, the other a dependency of the core"
    if library != "native":
        patch.setattr(native, "MODULE", None)
    if library == "zlib":
        patch.setattr(png, "_zlib_ng", None)


@pytest.fixture(params=LIBRARIES)
def deflate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(request.param, monkeypatch)


class TestEncodePng:
    @pytest.mark.parametrize("library", LIBRARIES)
    @given(st.data())
    @settings(max_examples=80, deadline=None)
    def test_round_trip(self, library: str, data: st.DataObject) -> None:
        pixels = data.draw(hnp.arrays(np.uint8, SHAPES))
        with pytest.MonkeyPatch.context() as patch:
            choose(library, patch)
            encoded = png.encode_png(pixels)
        assert np.array_equal(read(encoded), pixels)
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.mode == ("L" if pixels.ndim == 2 else "RGB") and not image.info
            assert np.array_equal(np.asarray(image), pixels)

    @pytest.mark.usefixtures("deflate")
    @pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (641, 479)])
    def test_sizes_and_content(self, size: tuple[int, int]) -> None:
        rgb = scene(*size)
        mask = np.where(rgb[..., 0] > 127, np.uint8(255), np.uint8(0))
        for pixels in (rgb, rgb[..., 1], mask, np.zeros_like(rgb), np.full_like(mask, 255)):
            with Image.open(io.BytesIO(png.encode_png(pixels))) as image:
                assert np.array_equal(np.asarray(image), pixels)

    @pytest.mark.usefixtures("deflate")
    def test_pixels_need_not_be_contiguous_nor_writeable(self) -> None:
        for pixels in (scene()[::-1, ::2], scene()[..., 1], scene().transpose(1, 0, 2), np.asarray(Image.fromarray(scene()))):
            assert np.array_equal(read(png.encode_png(pixels)), pixels)

    @pytest.mark.usefixtures("deflate")
    @pytest.mark.parametrize("band", [1, 151, 500, 1_510, 7_549, 7_550, 10_000])
    def test_bands_leave_no_seam(self, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
        monkeypatch.setattr(png, "BAND_BYTES", band)
        encoded = png.encode_png(pixels)
        assert all(body for kind, body in chunks(encoded) if kind == b"IDAT")
        assert np.array_equal(read(encoded), pixels)

    @pytest.mark.usefixtures("deflate")
    def test_more_than_one_chunk(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (1_200, 1_000, 3), dtype=np.uint8)
        encoded = png.encode_png(pixels)
        assert len([kind for kind, _ in chunks(encoded) if kind == b"IDAT"]) > 2
        assert np.array_equal(read(encoded), pixels)

    def test_all_libraries_compress_alike(self) -> None:
        pixels = scene(400, 300)
        sizes = []
        for library in LIBRARIES:
            with pytest.MonkeyPatch.context() as patch:
                choose(library, patch)
                sizes.append(len(png.encode_png(pixels)))
        assert max(sizes) < 1.3 * min(sizes) and max(sizes) < pixels.nbytes

    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((4, 4), np.uint16),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 1), np.uint8),
            np.zeros(4, np.uint8),
            np.zeros((2, 2)),
        ],
    )
    def test_other_arrays_are_refused(self, pixels: Any) -> None:
        with pytest.raises(ValueError, match="a PNG is made of uint8"):
            png.encode_png(pixels)

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 4, 3)])
    def test_no_pixels(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(BadImage) as caught:
            png.encode_png(np.zeros(shape, np.uint8))
        assert caught.value.reason == "encode_error"
