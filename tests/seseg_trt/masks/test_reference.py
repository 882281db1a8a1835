from __future__ import annotations

import functools
import hashlib
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seseg_trt.masks import reference
from seseg_trt.options import OUTPUT_SUFFIX, MaskOptions, OutputKind
from tests.conftest import KERAS224
from tests.corpus import scene

from . import pillow_bicubic

NAMES = sorted(path.name.split(".")[0] for path in (KERAS224 / "inputs").iterdir())
RUNS = {
    "none": MaskOptions(),
    "t50": MaskOptions(threshold=50),
    "t25_red": MaskOptions(threshold=25, color=(255, 0, 0)),
}


@functools.cache
def stored() -> dict[str, np.ndarray]:
    with np.load(KERAS224 / "reference.npz") as file:
        return dict(file)


def random_map(seed: int, size: int = 256) -> np.ndarray:
    """Return a map with smooth parts and noise that has all levels."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (size, size), dtype=np.uint8)
    smooth = np.add.outer(np.arange(size), np.arange(size)).astype(np.uint8)
    noise[: size // 2] = smooth[: size // 2]
    return noise


class TestAgainstTheOriginalProgram:
    def test_the_fixture_has_all_inputs(self) -> None:
        assert len(NAMES) == 8

    @pytest.mark.parametrize("name", NAMES)
    def test_sampling_gives_the_stored_input(self, name: str) -> None:
        rgb, expected = stored()[f"{name}__rgb"], stored()[f"{name}__input256"]
        assert np.array_equal(reference.sample_nearest(rgb, 256), expected)
        assert np.array_equal(reference.sample_nearest(Image.fromarray(rgb), 256), expected)

    @pytest.mark.parametrize("kind", ["se", "nse", "mask"])
    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("name", NAMES)
    def test_compositing_gives_its_pixels(self, name: str, run: str, kind: OutputKind) -> None:
        options = RUNS[run]
        image = Image.fromarray(stored()[f"{name}__rgb"])
        confidence = (stored()[f"{name}__pred"] * 255).astype(np.uint8)
        mask = reference.apply_threshold(reference.resize_map(confidence, image.width, image.height), options.threshold)
        ours = reference.composite(image, mask, kind, options, name.encode())
        with Image.open(KERAS224 / run / f"{name}_{OUTPUT_SUFFIX[kind]}.png") as file:
            theirs = np.asarray(file)
        assert ours.dtype == np.uint8 and ours.shape == theirs.shape
        assert np.count_nonzero(ours != theirs) == 0

    def test_the_runs_are_those_of_the_manifest(self) -> None:
        text = json.dumps(json.loads((KERAS224 / "manifest.json").read_text()))
        assert "--threshold" in text and all((KERAS224 / run).is_dir() for run in RUNS)


class TestSampleNearest:
    @staticmethod
    def accumulated(source: int, target: int) -> list[int]:
        scale = source / target
        position, index = 0.5 * scale, []
        for _ in range(target):
            index.append(int(position))
            position += scale
        return index

    @given(st.integers(1, 30_000), st.sampled_from([256, 1, 7, 64, 224, 512]))
    @settings(max_examples=150, deadline=None)
    def test_index_is_accumulated_as_the_contract_says(self, source: int, target: int) -> None:
        index = reference.nearest_index(source, target)
        assert index.dtype == np.int64 and index.tolist() == self.accumulated(source, target)
        assert index.min() >= 0 and index.max() < source

    def test_at_a_power_of_two_it_is_an_integer_division(self) -> None:
        for source in range(1, 3_000):
            assert reference.nearest_index(source, 256).tolist() == [(2 * k + 1) * source // 512 for k in range(256)]

    def test_at_other_sizes_rounding_accumulates(self) -> None:
        exact = {source: [(2 * k + 1) * source // 448 for k in range(224)] for source in range(1, 3_000)}
        assert any(reference.nearest_index(source, 224).tolist() != index for source, index in exact.items())

    def test_index_is_shared_and_so_read_only(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            reference.nearest_index(300, 256)[0] = 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (933, 700), (257, 251), (8_191, 3), (256, 256), (255, 4_099)])
    def test_array_and_image_give_the_same(self, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        width, height = size
        rgb = scene(width, height)
        expected = rgb[self.accumulated(height, 256)][:, self.accumulated(width, 256)]
        assert np.array_equal(reference.sample_nearest(rgb, 256), expected)
        assert np.array_equal(reference.sample_nearest(Image.fromarray(rgb), 256), expected)
        monkeypatch.setattr(reference, "_pillow_agrees", lambda source, target: False)
        assert np.array_equal(reference.sample_nearest(Image.fromarray(rgb), 256), expected)

    @pytest.mark.parametrize("side", ["width", "height", "neither"])
    def test_pillow_samples_only_where_it_agrees_on_both_axes(self, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def resize(self: Image.Image, size: tuple[int, int], resample: Any) -> Image.Image:
            raise AssertionError("Pillow was asked")

        agrees = {"width": 300, "height": 200}.get(side)
        monkeypatch.setattr(reference, "_pillow_agrees", lambda source, target: source == agrees)
        monkeypatch.setattr(Image.Image, "resize", resize)
        rgb = scene(300, 200)
        assert np.array_equal(reference.sample_nearest(Image.fromarray(rgb), 64), reference.sample_nearest(rgb, 64))
        monkeypatch.setattr(reference, "_pillow_agrees", lambda source, target: True)
        with pytest.raises(AssertionError, match="Pillow was asked"):
            reference.sample_nearest(Image.fromarray(rgb), 64)

    def test_pillow_is_held_to_the_index(self, monkeypatch: pytest.MonkeyPatch) -> None:
        agrees = reference._pillow_agrees.__wrapped__
        assert agrees(300, 256) is agrees(1, 256) is agrees(5_000, 256) is True
        other = reference.nearest_index(300, 256).copy()
        other[77] += 1
        monkeypatch.setattr(reference, "nearest_index", lambda source, target: other)
        assert agrees(300, 256) is False


SIZES = [
    *[(1, 1), (1, 300), (300, 1), (2, 3), (256, 256), (256, 100), (100, 256), (255, 257), (270, 180), (1_280, 960)],
    *[(37, 53), (251, 509), (509, 251), (640, 33), (33, 640), (1_021, 7), (7, 1_021), (2_003, 128), (200, 1_999)],
]


class TestResizeMap:
    @pytest.mark.parametrize("size", SIZES)
    def test_it_is_the_integer_arithmetic_of_pillow_5(self, size: tuple[int, int]) -> None:
        confidence = random_map(hash(size) % 1_000)
        ours = reference.resize_map(confidence, *size)
        assert ours.dtype == np.uint8 and ours.shape == (size[1], size[0])
        assert np.array_equal(ours, pillow_bicubic.resize(confidence, *size))

    @given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
    @settings(max_examples=40, deadline=None)
    def test_at_any_size(self, width: int, height: int, seed: int) -> None:
        confidence = random_map(seed)
        assert np.array_equal(reference.resize_map(confidence, width, height), pillow_bicubic.resize(confidence, width, height))

    def test_the_order_of_the_passes_matters_where_the_map_gets_wider_and_lower(self) -> None:
        # This shows that the tests above detect a Pillow that runs the vertical pass first.
        confidence = random_map(1)
        other = pillow_bicubic.resize_vertical_first(confidence, 270, 180)
        assert np.count_nonzero(reference.resize_map(confidence, 270, 180) != other) > 100


class TestThreshold:
    @pytest.mark.parametrize("threshold", range(101))
    def test_every_level_exactly(self, threshold: int) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        expected = [255 if Fraction(v) > Fraction(255 * threshold, 100) else 0 for v in range(256)]
        result = reference.apply_threshold(levels, threshold)
        assert result.dtype == np.uint8 and result.ravel().tolist() == expected

    def test_zero_is_a_threshold(self) -> None:
        assert reference.apply_threshold(np.array([[0, 1, 255]], np.uint8), 0).tolist() == [[0, 255, 255]]

    def test_none_is_an_opacity_map(self) -> None:
        mask = random_map(3)
        assert reference.apply_threshold(mask, None) is mask


def blended(image: np.ndarray, color: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return Pillow's blend, computed in wide integers."""
    m = mask.astype(np.int64)[..., np.newaxis]
    a = image.astype(np.int64) * (255 - m) + color.astype(np.int64) * m + 128
    return (((a >> 8) + a) >> 8).astype(np.uint8)


class TestComposite:
    EVERY_PAIR = np.mgrid[0:256, 0:256].astype(np.uint8)  # image levels in rows, mask levels in columns

    @pytest.mark.parametrize("color", [(127, 127, 127), (255, 0, 0), (1, 254, 77), (0, 0, 0), (255, 255, 255)])
    @pytest.mark.parametrize("kind", ["se", "nse"])
    def test_blends_every_level_with_every_opacity(self, kind: OutputKind, color: tuple[int, int, int]) -> None:
        levels, mask = self.EVERY_PAIR
        pixels = np.stack([levels, 255 - levels, levels // 2], axis=-1)
        result = reference.composite(Image.fromarray(pixels), mask, kind, MaskOptions(color=color), b"x")
        cover = mask if kind == "nse" else 255 - mask
        assert np.array_equal(result, blended(pixels, np.array(color), cover))

    @pytest.mark.parametrize("two_level", [False, True])
    @pytest.mark.parametrize("kind", ["se", "nse"])
    def test_random_color_is_blended_too(self, kind: OutputKind, two_level: bool) -> None:
        levels, mask = self.EVERY_PAIR
        mask = reference.apply_threshold(mask, 40) if two_level else mask
        pixels = np.stack([levels] * 3, axis=-1)
        options = MaskOptions(color="random", seed=5)
        result = reference.composite(Image.fromarray(pixels), mask, kind, options, b"a/b.jpg")
        color = reference.random_color(256, 256, 5, b"a/b.jpg", kind)
        assert np.array_equal(result, blended(pixels, color, mask if kind == "nse" else 255 - mask))

    @pytest.mark.parametrize("levels", [(0, 255), (0,), (255,), (0, 254), (1, 255), (0, 128, 255)])
    @pytest.mark.parametrize("kind", ["se", "nse"])
    def test_masks_of_few_levels(self, kind: OutputKind, levels: tuple[int, ...]) -> None:
        mask = np.random.default_rng(0).choice(np.array(levels, np.uint8), (50, 70))
        result = reference.composite(Image.fromarray(scene(70, 50)), mask, kind, MaskOptions(color=(9, 8, 7)), b"x")
        assert np.array_equal(result, blended(scene(70, 50), np.array((9, 8, 7)), mask if kind == "nse" else 255 - mask))

    def test_mask_is_the_mask_and_the_image_stays(self) -> None:
        image, mask = Image.fromarray(scene()), random_map(2)[:80, :120]
        before = image.tobytes()
        assert reference.composite(image, mask, "mask", MaskOptions(), b"x") is mask
        reference.composite(image, mask, "se", MaskOptions(), b"x")
        assert image.tobytes() == before

    @pytest.mark.parametrize("color", [(9, 8, 7), "random"])
    @pytest.mark.parametrize("threshold", [None, 50])
    @pytest.mark.parametrize("band", [1, 300, 1_000, 70 * 50])
    def test_bands_leave_no_seam(self, band: int, threshold: int | None, color: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        image, options = Image.fromarray(scene(70, 50)), MaskOptions(color=color)
        mask = reference.apply_threshold(random_map(4)[100:150, :70], threshold)
        whole = reference.composite(image, mask, "se", options, b"x")
        monkeypatch.setattr(reference, "BAND_PIXELS", band)
        assert np.array_equal(reference.composite(image, mask, "se", options, b"x"), whole)

    @pytest.mark.parametrize(
        ("levels", "converted"), [((0, 255), 4), ((0,), 4), ((255,), 4), ((0, 254), 0), ((1, 255), 0), ((0, 9, 255), 0)]
    )
    def test_a_mask_of_two_levels_is_pasted_as_1_bit_in_bands(
        self, levels: tuple[int, ...], converted: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes: list[str] = []

        def convert(image: Image.Image, mode: str, **more: Any) -> Image.Image:
            modes.append(mode)
            assert more == {"dither": Image.Dither.NONE}
            return real(image, mode, **more)

        real = Image.Image.convert
        monkeypatch.setattr(Image.Image, "convert", convert)
        monkeypatch.setattr(reference, "BAND_PIXELS", 70 * 15 + 69)  # bands of 15, 15, 15 and 5 rows
        mask = np.resize(np.array(levels, np.uint8), (50, 70))
        reference.composite(Image.fromarray(scene(70, 50)), mask, "se", MaskOptions(), b"x")
        assert modes == ["1"] * converted
        monkeypatch.setattr(reference, "BAND_PIXELS", 1)
        reference.composite(Image.fromarray(scene(70, 50)), mask, "se", MaskOptions(), b"x")
        assert modes == ["1"] * (converted + 50 * bool(converted)), "a band has at least one row"

    def test_a_mask_of_another_size_is_refused(self) -> None:
        for shape in ((80, 119), (80, 121), (79, 120), (81, 120), (120, 80)):
            with pytest.raises(ValueError, match=r"the image \(height, width\) \(80, 120\)"):
                reference.composite(Image.fromarray(scene()), np.zeros(shape, np.uint8), "se", MaskOptions(), b"x")


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Return a block of Philox4x64-10, implemented after the paper."""
    word = 2**64 - 1
    for _ in range(10):
        first, second = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [(second >> 64) ^ counter[1] ^ key[0], second & word, (first >> 64) ^ counter[3] ^ key[1], first & word]
        key = [(key[0] + 0x9E3779B97F4A7C15) & word, (key[1] + 0xBB67AE8584CAA73B) & word]
    return counter


class TestRandomColor:
    def test_it_is_what_the_docstring_says(self) -> None:
        digest = hashlib.sha256(b"seseg_trt random colour 1\x0042\0nse\0a/\xff\0b.jpg").digest()
        key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
        stream = b"".join(word.to_bytes(8, "little") for block in range(20) for word in philox4x64([block + 1, 0, 0, 0], list(key)))
        color = reference.random_color(13, 16, 42, b"a/\xff\0b.jpg", "nse")
        assert color.shape == (16, 13, 3) and color.dtype == np.uint8
        assert color.tobytes() == stream[: 13 * 16 * 3]

    def test_each_argument_counts(self) -> None:
        arguments: list[tuple[int, bytes, OutputKind]] = [
            *[(0, b"a.jpg", "se"), (0, b"a.jpg", "nse"), (1, b"a.jpg", "se"), (-1, b"a.jpg", "se"), (0, b"b.jpg", "se"), (0, b"", "se")],
            *[(2**70, b"a.jpg", "se"), (0, b"se\0a.jpg", "se")],
        ]
        colors = {reference.random_color(4, 4, *given).tobytes() for given in arguments}
        assert len(colors) == len(arguments)

    def test_again_the_same_and_uniform(self) -> None:
        color = reference.random_color(300, 200, 0, b"a.jpg", "se")
        assert np.array_equal(color, reference.random_color(300, 200, 0, b"a.jpg", "se"))
        counts = np.bincount(color.ravel(), minlength=256)
        expected = color.size / 256
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert 170 < chi_squared < 360  # 255 degrees of freedom: the probability beyond each bound is 1e-5

    def test_one_pixel(self) -> None:
        assert reference.random_color(1, 1, 0, b"a", "se").shape == (1, 1, 3)
