"""Scores of masks against true masks, at all thresholds in one pass.

All that is kept of a pixel is the level of its confidence, 0..255, and whether it is truly marked: two histograms of 256 numbers hold a
whole data set, every threshold's counts are sums of their ends, and all sums are of integers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from .agreement import ratio

Levels = npt.NDArray[np.uint8]
Marks = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Curve = npt.NDArray[np.float64]

THRESHOLDS = 101
CUTS = np.array([255 * threshold // 100 + 1 for threshold in range(THRESHOLDS)])
"""The lowest level that each threshold marks: ``m > 255 t / 100`` in integers."""

CONFIDENCES = np.minimum((np.arange(256) + 0.5) / 255, 1.0)
"""What a level says: levels are truncated, so the middle of what was cut to it; 255 stands for 1 alone."""

BINS = 10
PIXELS_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """One image at the threshold. ``precision`` and ``recall`` are None where nothing is masked, or nothing is true."""

    name: str
    iou: float
    precision: float | None
    recall: float | None
    f1: float
    true_pixels: int
    masked_pixels: int
    pixels: int


def count_levels(levels: Levels, truth: Marks) -> Counts:
    """Count an image's pixels by truth and level.

    Args:
        levels: the confidence at the image's size, uint8 [H, W].
        truth: bool [H, W].

    Returns:
        int64 [2, 256]: first the pixels that are not truly marked, then those that are.
    """
    counts = np.zeros(512, np.int64)
    step = max(1, PIXELS_AT_ONCE // levels.shape[1])
    for row in range(0, levels.shape[0], step):
        joint = levels[row : row + step].astype(np.int64)
        joint += truth[row : row + step].astype(np.int64) << 8
        counts += np.bincount(joint.ravel(), minlength=512)
    return counts.reshape(2, 256)


class Confusion:
    """True positives, false positives and false negatives at each threshold: int64 [101] each."""

    def __init__(self, counts: Counts) -> None:
        above = np.zeros((2, 257), np.int64)
        above[:, :256] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        self.false_positive, self.true_positive = above[:, CUTS]
        self.positives = int(counts[1].sum())
        self.false_negative = self.positives - self.true_positive

    @property
    def iou(self) -> Curve:
        """TP / (TP + FP + FN); 1.0 where nothing is true and nothing masked."""
        return _divide(self.true_positive, self.true_positive + self.false_positive + self.false_negative, 1.0)

    @property
    def f1(self) -> Curve:
        """2 TP / (2 TP + FP + FN); 1.0 where nothing is true and nothing masked."""
        return _divide(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative, 1.0)

    @property
    def precision(self) -> Curve:
        """TP / (TP + FP); not a number where nothing is masked."""
        return _divide(self.true_positive, self.true_positive + self.false_positive, np.nan)

    @property
    def recall(self) -> Curve:
        """TP / (TP + FN); not a number where nothing is true."""
        return _divide(self.true_positive, np.full(THRESHOLDS, self.positives), np.nan)


MEASURES = ("iou", "precision", "recall", "f1")


class Scores:
    """Sums over images.

    Args:
        threshold: 0..100, the one that single figures are of.

    Attributes:
        images: how many.
        empty_in_both: at the threshold, images without a true pixel and without a masked one; their IoU counts as 1.0.
    """

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.images = 0
        self.empty_in_both = 0
        self._counts = np.zeros((2, 256), np.int64)
        self._sums = {measure: np.zeros(THRESHOLDS) for measure in MEASURES}
        self._defined = {measure: np.zeros(THRESHOLDS, np.int64) for measure in MEASURES}

    def add(self, name: str, levels: Levels, truth: Marks) -> ImageScore:
        """Count one image; see :func:`count_levels`."""
        counts = count_levels(levels, truth)
        confusion = Confusion(counts)
        self.images += 1
        self._counts += counts
        for measure in MEASURES:
            curve: Curve = getattr(confusion, measure)
            self._sums[measure] += np.nan_to_num(curve, nan=0.0)
            self._defined[measure] += ~np.isnan(curve)
        at = self.threshold
        masked = int(confusion.true_positive[at] + confusion.false_positive[at])
        self.empty_in_both += masked == 0 and confusion.positives == 0
        return ImageScore(
            name,
            float(confusion.iou[at]),
            _number(confusion.precision[at]),
            _number(confusion.recall[at]),
            float(confusion.f1[at]),
            confusion.positives,
            masked,
            int(counts.sum()),
        )

    def curves(self) -> list[dict[str, Any]]:
        """Return each threshold's pooled scores, and under ``..._mean`` their means over the images for which they are defined."""
        confusion = Confusion(self._counts)
        pooled: dict[str, Curve] = {measure: getattr(confusion, measure) for measure in MEASURES}
        rows = []
        for threshold in range(THRESHOLDS):
            row: dict[str, Any] = {"threshold": threshold}
            for measure in MEASURES:
                defined = int(self._defined[measure][threshold])
                row[measure] = _number(pooled[measure][threshold])
                row[f"{measure}_mean"] = float(self._sums[measure][threshold]) / defined if defined else None
            rows.append(row)
        return rows

    def calibration(self) -> dict[str, Any]:
        """Return how far confidences are to be believed: ``bins``, and the expected calibration error ``ece``.

        A bin holds the pixels of an equal range of confidence; ``ece`` is the mean over pixels of the distance between a bin's mean
        confidence and its share of truly marked pixels (Guo et al., "On calibration of modern neural networks", 2017).
        """
        total = self._counts.sum(axis=0)
        bin_of = np.minimum((CONFIDENCES * BINS).astype(np.int64), BINS - 1)
        bins, error = [], 0.0
        for index in range(BINS):
            inside = bin_of == index
            pixels, marked = int(total[inside].sum()), int(self._counts[1][inside].sum())
            confidence = float((total * CONFIDENCES)[inside].sum()) / pixels if pixels else None
            share = marked / pixels if pixels else None
            if confidence is not None and share is not None:
                error += pixels * abs(confidence - share)
            bins.append({"from": index / BINS, "to": (index + 1) / BINS, "pixels": pixels, "confidence": confidence, "true_share": share})
        pixels = int(total.sum())
        return {"ece": error / pixels, "bins": bins}

    def as_dict(self) -> dict[str, Any]:
        """Return all scores as JSON has them."""
        curves = self.curves()
        here = curves[self.threshold]
        best = max(curves, key=lambda row: float(row["iou"]))
        marked = self.images - self.empty_in_both
        return {
            "threshold": self.threshold,
            "images": self.images,
            "empty_in_both": self.empty_in_both,
            **{key: value for key, value in here.items() if key != "threshold"},
            "iou_mean_where_marked": (here["iou_mean"] * self.images - self.empty_in_both) / marked if marked else None,
            "pixels": int(self._counts.sum()),
            "true_share": ratio(int(self._counts[1].sum()), int(self._counts.sum())),
            "best": {"threshold": best["threshold"], "iou": best["iou"]},
            "calibration": self.calibration(),
            "thresholds": curves,
        }


def _divide(part: Counts, whole: Counts, otherwise: float) -> Curve:
    result: Curve = np.divide(part, whole, out=np.full(THRESHOLDS, otherwise), where=whole > 0)
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
