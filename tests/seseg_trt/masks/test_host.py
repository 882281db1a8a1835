"""Test that the compiled extension equals the reference, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seseg_trt import native
from seseg_trt.masks import host, reference
from seseg_trt.options import MaskOptions
from tests.corpus import scene


def random_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (256, 256), np.uint8)


SIDES = st.one_of(st.integers(1, 40), st.integers(200, 300), st.integers(1, 900))


@pytest.fixture(autouse=True)
def _built() -> None:
    assert native.MODULE is not None


@given(size=st.sampled_from([1, 2, 3, 8, 64, 224, 256]), width=SIDES, height=SIDES, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_maps_are_resized_to_the_same_bytes(size: int, width: int, height: int, seed: int) -> None:
    confidence = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
    expected = reference.resize_map(confidence, width, height)
    assert np.array_equal(host.resize_map(confidence, width, height), expected)


def test_a_map_need_not_be_contiguous_nor_writeable() -> None:
    confidence = random_map(3).T
    confidence.flags.writeable = False
    assert np.array_equal(host.resize_map(confidence, 300, 200), reference.resize_map(np.ascontiguousarray(confidence), 300, 200))


@pytest.mark.parametrize("kind", ["se", "nse"])
def test_every_blend_there_is(kind: Any) -> None:
    """All 2^24 triples of pixel, colour and mask: 256 images, one for each colour."""
    levels = np.arange(256, dtype=np.uint8)
    image = np.repeat(np.broadcast_to(levels[:, np.newaxis], (256, 256))[..., np.newaxis], 3, 2)
    mask = np.broadcast_to(levels, (256, 256))
    picture = Image.fromarray(image)
    for level in range(256):
        options = MaskOptions(color=(level, 255 - level, level ^ 0x55))
        expected = reference.composite(picture, mask, kind, options, b"x")
        assert np.array_equal(host.composite(picture, mask, kind, options, b"x"), expected), level


@pytest.mark.parametrize("kind", ["se", "nse", "mask"])
@pytest.mark.parametrize("color", [(3, 200, 17), "random"])
@pytest.mark.parametrize("threshold", [None, 40])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (333, 257), (1023, 2), (1025, 3)])
def test_outputs_are_the_reference_s(kind: Any, color: Any, threshold: int | None, size: tuple[int, int]) -> None:
    image = Image.fromarray(scene(*size))
    mask = reference.apply_threshold(reference.resize_map(random_map(1), *size), threshold)
    options = MaskOptions(color=color, threshold=threshold, seed=5)
    expected = reference.composite(image, mask, kind, options, b"a/b.jpg")
    assert np.array_equal(host.composite(image, mask, kind, options, b"a/b.jpg"), expected)
    assert np.array_equal(host.composite(np.asarray(image), mask, kind, options, b"a/b.jpg"), expected)


def test_an_image_whose_memory_is_in_pieces() -> None:
    size = 3000, 2000  # more than one of Pillow's memory blocks of 16 MiB
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8))
    mask = host.resize_map(random_map(2), *size)
    with pytest.raises(ValueError, match=r"contiguous|blocks"):
        image.__arrow_c_array__()
    expected = reference.composite(image, mask, "se", MaskOptions(), b"x")
    assert np.array_equal(host.composite(image, mask, "se", MaskOptions(), b"x"), expected)


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="needs Pillow 13, which needs Python 3.11")
def test_this_pillow_lends_its_memory() -> None:
    assert host._lends_memory()
    image, result = Image.fromarray(scene(40, 30)), np.zeros((30, 40, 3), np.uint8)
    assert host._cover_memory(image, np.zeros((30, 40), np.uint8), "nse", MaskOptions(), result)
    assert np.array_equal(result, scene(40, 30))


@pytest.mark.parametrize("why", ["old", "padded", "another layout"])
def test_a_pillow_that_does_not_lend_its_memory(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Image.Image) -> Any:
        raise ValueError("Image rows are not contiguous in memory.")

    def other(self: Image.Image) -> Any:
        return lent(self.convert("L"))

    lent = Image.Image.__arrow_c_array__
    monkeypatch.setattr(host, "_lends_memory", lambda: why != "old")
    if why != "old":
        monkeypatch.setattr(Image.Image, "__arrow_c_array__", refused if why == "padded" else other)
    image, mask = Image.fromarray(scene(333, 211)), host.resize_map(random_map(2), 333, 211)
    expected = reference.composite(image, mask, "nse", MaskOptions(), b"x")
    assert np.array_equal(host.composite(image, mask, "nse", MaskOptions(), b"x"), expected)


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MODULE", None)
    image = Image.fromarray(scene(70, 50))
    mask = host.resize_map(random_map(2), 70, 50)
    assert np.array_equal(mask, reference.resize_map(random_map(2), 70, 50))
    expected = reference.composite(image, mask, "se", MaskOptions(), b"x")
    assert np.array_equal(host.composite(image, mask, "se", MaskOptions(), b"x"), expected)
    assert np.array_equal(host.composite(np.asarray(image), mask, "se", MaskOptions(), b"x"), expected)


def test_an_image_of_another_size_or_memory_is_refused() -> None:
    assert native.MODULE is not None
    mask, result = np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="the mask is"):
        host.composite(Image.new("RGB", (4, 5)), mask, "se", MaskOptions(), b"x")
    with pytest.raises(BufferError, match="4 bytes a pixel"):
        native.MODULE.cover(Image.new("L", (5, 4)).__arrow_c_array__()[1], mask, (0, 0, 0), True, result)
    with pytest.raises(BufferError, match="4 bytes a pixel"):
        native.MODULE.cover(Image.new("RGB", (4, 4)).__arrow_c_array__()[1], mask, (0, 0, 0), True, result)
    with pytest.raises(ValueError, match="the image is not"):
        native.MODULE.cover(np.zeros((4, 4, 3), np.uint8), mask, (0, 0, 0), True, result)
    with pytest.raises(ValueError, match="the result not"):
        native.MODULE.cover(result, mask, (0, 0, 0), True, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises((ValueError, BufferError)):
        frozen = np.zeros((4, 5, 3), np.uint8)
        frozen.flags.writeable = False
        native.MODULE.cover(result, mask, (0, 0, 0), True, frozen)
    with pytest.raises(ValueError, match="map is not"):
        native.MODULE.resize_map(np.zeros((4, 5), np.uint8), mask)


@pytest.mark.parametrize("version", ["11.1.0", "12.0.0", "12.9.1", "13.0.0", "13.1.dev0", "14.0", "20.2"])
def test_pillow_lends_its_memory_since_13(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL, "__version__", version)
    assert host._lends_memory.__wrapped__() is (int(version[:2]) >= 13)


@pytest.mark.parametrize(("band", "rows"), [(999, 3), (1_000, 3), (332, 1), (333, 1), (1, 1), (333 * 300, 211)])
def test_an_image_that_is_not_lent_is_copied_in_bands(band: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    crops: list[Any] = []

    def crop(self: Image.Image, box: Any) -> Image.Image:
        crops.append(box)
        return whole_crop(self, box)

    image, mask = Image.fromarray(scene(333, 211)), host.resize_map(random_map(2), 333, 211)
    expected = reference.composite(image, mask, "se", MaskOptions(), b"x")
    whole_crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", crop)
    monkeypatch.setattr(host, "_lends_memory", lambda: False)
    monkeypatch.setattr(host, "BAND_PIXELS", band)
    assert np.array_equal(host.composite(image, mask, "se", MaskOptions(), b"x"), expected)
    assert crops == [(0, top, 333, min(top + rows, 211)) for top in range(0, 211, rows)]


def test_options_may_be_any_equal_strings() -> None:
    """Strings that were read are equal to those of the code, and not the same objects."""
    image, mask = Image.fromarray(scene(70, 50)), host.resize_map(random_map(2), 70, 50)
    for kind in ("se", "nse", "mask"):
        for color in ((9, 8, 7), "random"):
            read = "".join(list(kind)), color if isinstance(color, tuple) else "".join(list(color))
            expected = reference.composite(image, mask, kind, MaskOptions(color=color), b"x")
            assert np.array_equal(host.composite(image, mask, read[0], MaskOptions(color=read[1]), b"x"), expected)
            assert np.array_equal(reference.composite(image, mask, read[0], MaskOptions(color=read[1]), b"x"), expected)


def test_a_mask_need_not_be_contiguous() -> None:
    image, mask = scene(70, 50), random_map(2)[:140:2, :50].T
    expected = reference.composite(Image.fromarray(image), mask, "nse", MaskOptions(), b"x")
    for picture in (image, np.asfortranarray(image), Image.fromarray(image)):
        assert np.array_equal(host.composite(picture, mask, "nse", MaskOptions(), b"x"), expected)


@pytest.mark.parametrize("shape", [(50, 71), (51, 70), (49, 70), (50, 69), (70, 50)])
def test_a_mask_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    for image in (scene(70, 50), Image.fromarray(scene(70, 50))):
        with pytest.raises(ValueError, match=r"the image \(height, width\) \(50, 70\)"):
            host.composite(image, np.zeros(shape, np.uint8), "se", MaskOptions(), b"x")
