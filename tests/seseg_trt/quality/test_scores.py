"""Scores at all thresholds, against counting one threshold after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.masks.reference import apply_threshold
from seseg_trt.quality.scores import CONFIDENCES, Scores, count_levels


def _images(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        shape = rng.integers(1, 9, 2)
        levels = rng.choice(np.array([0, 1, 2, 63, 64, 127, 128, 254, 255], np.uint8), shape)
        truth = rng.random(shape) < (0.0, 0.4, 1.0)[index % 3]
        images.append((levels, truth))
    return images


def _score(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 25, 50, 100]))
def test_every_threshold_is_what_its_mask_scores(seed: int, threshold: int) -> None:
    images, scores = _images(seed, 4), Scores(threshold)
    for levels, truth in images:
        scores.add("", levels, truth)
    for row in scores.curves():
        masks = [apply_threshold(levels, row["threshold"]) > 0 for levels, _ in images]
        counts = [((m & t).sum(), (m & ~t).sum(), (~m & t).sum()) for m, (_, t) in zip(masks, images, strict=True)]
        tp, fp, fn = (int(sum(column)) for column in zip(*counts, strict=True))
        assert row["iou"] == (_score(tp, tp + fp + fn) if tp + fp + fn else 1.0)
        assert row["f1"] == (_score(2 * tp, 2 * tp + fp + fn) if tp + fp + fn else 1.0)
        assert row["precision"] == _score(tp, tp + fp)
        assert row["recall"] == _score(tp, tp + fn)
        ious = [tp / (tp + fp + fn) if tp + fp + fn else 1.0 for tp, fp, fn in counts]
        assert row["iou_mean"] == pytest.approx(np.mean(ious))
        precisions = [tp / (tp + fp) for tp, fp, _ in counts if tp + fp]
        assert row["precision_mean"] == (pytest.approx(np.mean(precisions)) if precisions else None)


def test_perfect_empty_and_nothing_to_find() -> None:
    truth = np.zeros((4, 6), bool)
    truth[1:3, 2:5] = True
    perfect = Scores(50).add("", truth.astype(np.uint8) * 255, truth)
    assert (perfect.iou, perfect.precision, perfect.recall, perfect.f1) == (1.0, 1.0, 1.0, 1.0)
    empty = Scores(50).add("", np.zeros((4, 6), np.uint8), truth)
    assert (empty.iou, empty.precision, empty.recall, empty.f1) == (0.0, None, 0.0, 0.0)
    scores = Scores(50)
    neither = scores.add("", np.zeros((4, 6), np.uint8), np.zeros((4, 6), bool))
    assert (neither.iou, neither.precision, neither.recall, neither.f1) == (1.0, None, None, 1.0)
    assert scores.empty_in_both == 1
    data = scores.as_dict()
    assert (data["iou"], data["iou_mean"], data["iou_mean_where_marked"]) == (1.0, 1.0, None)


def test_images_that_are_empty_in_both_are_counted_apart() -> None:
    scores = Scores(50)
    truth = np.array([[True, True, False, False]])
    scores.add("", np.array([[255, 0, 0, 0]], np.uint8), truth)
    scores.add("", np.zeros((1, 4), np.uint8), np.zeros((1, 4), bool))
    data = scores.as_dict()
    assert (data["iou"], data["iou_mean"], data["iou_mean_where_marked"], data["empty_in_both"]) == (0.5, 0.75, 0.5, 1)


def test_a_large_image_is_counted_in_pieces_alike() -> None:
    rng = np.random.default_rng(3)
    levels, truth = rng.integers(0, 256, (700, 3001), dtype=np.uint8), rng.random((700, 3001)) < 0.3
    counts = count_levels(levels, truth)
    assert np.array_equal(counts[1], np.bincount(levels[truth], minlength=256))
    assert np.array_equal(counts[0], np.bincount(levels[~truth], minlength=256))


def test_a_calibrated_forecast_has_no_error_and_a_sure_wrong_one_all() -> None:
    rng = np.random.default_rng(4)
    levels = rng.integers(0, 256, (1000, 1000), dtype=np.uint8)
    calibrated, wrong = Scores(50), Scores(50)
    calibrated.add("", levels, rng.random(levels.shape) < CONFIDENCES[levels])
    assert calibrated.calibration()["ece"] < 0.005
    wrong.add("", np.full((4, 4), 255, np.uint8), np.zeros((4, 4), bool))
    found = wrong.calibration()
    assert found["ece"] == 1.0
    assert found["bins"][-1] == {"from": 0.9, "to": 1.0, "pixels": 16, "confidence": 1.0, "true_share": 0.0}
    assert found["bins"][0]["confidence"] is None


def test_the_best_threshold_is_found() -> None:
    scores = Scores(50)
    scores.add("", np.array([[60, 60, 20]], np.uint8), np.array([[True, True, False]]))
    assert scores.as_dict()["best"] == {"threshold": 8, "iou": 1.0}  # 255 * 7 / 100 = 17.85 marks 20 as well, 255 * 8 / 100 = 20.4 not
