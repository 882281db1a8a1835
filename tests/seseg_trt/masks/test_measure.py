from __future__ import annotations

import numpy as np
import pytest

from seseg_trt.masks.measure import measure_mask


@pytest.mark.parametrize("threshold", [None, 0, 50, 80, 100])
def test_figures_are_those_that_a_loop_finds(threshold: int | None) -> None:
    rng = np.random.default_rng(2)
    for height, width in ((1, 1), (1, 9), (7, 1), (13, 20), (40, 31)):
        opacity = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        opacity[top:bottom, left:right] = rng.integers(0, 256, (bottom - top, right - left))
        found = measure_mask(opacity, threshold)
        explicit = [
            (x, y) for y in range(height) for x in range(width) if opacity[y, x] > 255 * (50 if threshold is None else threshold) / 100
        ]
        assert (found["width"], found["height"]) == (width, height)
        assert found["mean"] == pytest.approx(opacity.mean() / 255) and found["max"] == opacity.max() / 255
        assert found["share"] == pytest.approx(opacity.mean() / 255 if threshold is None else len(explicit) / opacity.size)
        if not explicit:
            assert found["bbox"] is None
            continue
        x, y = min(x for x, _ in explicit), min(y for _, y in explicit)
        assert found["bbox"] == [x, y, max(x for x, _ in explicit) - x + 1, max(y for _, y in explicit) - y + 1]
        assert all(type(value) is int for value in found["bbox"]) and "rle" not in found


def test_a_box_is_where_the_explicit_pixels_are() -> None:
    opacity = np.zeros((10, 20), np.uint8)
    opacity[3:7, 5:19] = 200
    assert measure_mask(opacity, 50)["bbox"] == [5, 3, 14, 4]
    assert measure_mask(opacity, 50)["share"] == 4 * 14 / 200


def test_run_lengths_are_asked_for() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    opacity = np.zeros((10, 20), np.uint8)
    opacity[3:7, 5:19] = 200
    found = measure_mask(opacity, 50, rle=True)
    assert coco.area({"size": [10, 20], "counts": found["rle"].encode()}) == 4 * 14


def test_run_lengths_are_those_of_the_explicit_pixels() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    opacity = np.random.default_rng(3).integers(0, 256, (23, 31), dtype=np.uint8)
    for threshold in (None, 0, 70):
        found = measure_mask(opacity, threshold, rle=True)
        explicit = opacity > 255 * (50 if threshold is None else threshold) / 100
        assert found["rle"] == coco.encode(np.asfortranarray(explicit, np.uint8))["counts"].decode()


def test_without_a_threshold_one_half_is_explicit_and_the_share_is_the_mean() -> None:
    found = measure_mask(np.array([[127, 128]], np.uint8), None)
    assert found == {"width": 2, "height": 1, "share": 0.5, "mean": 0.5, "max": 128 / 255, "bbox": [1, 0, 1, 1]}
    assert [type(found[name]) for name in ("share", "mean", "max")] == [float] * 3
    assert type(measure_mask(np.array([[127, 128]], np.uint8), 1)["share"]) is float


def test_run_lengths_are_asked_for_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        measure_mask(np.zeros((2, 2), np.uint8), 50, True)  # type: ignore[misc]
