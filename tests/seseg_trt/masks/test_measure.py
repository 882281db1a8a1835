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
