"""Score masks against true masks, at all thresholds in one pass.

A pixel counts by the level of its confidence, 0..255, and by whether it is truly marked. So two histograms of 256 integers hold a whole
data set, and the counts at each threshold are sums over their upper ends.
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
"""The lowest level that each threshold marks: ``level > 255 threshold / 100`` in integers."""

CONFIDENCES = np.minimum((np.arange(256) + 0.5) / 255, 1.0)
"""The confidence that each level stands for. Levels are floors, so use each bin's midpoint; 255 means exactly 1.0."""

BINS = 10
PIXELS_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """The scores of one image at the threshold. ``precision`` is None if nothing is masked, ``recall`` if nothing is truly marked."""

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
        int64 [2, 256]: the pixels that are not truly marked, then those that are.
    """
    counts = np.zeros(512, np.int64)
    step = max(1, PIXELS_AT_ONCE // levels.shape[1])
    for row in range(0, levels.shape[0], step):
        joint = levels[row : row + step].astype(np.int64)
        joint += truth[row : row + step].astype(np.int64) << 8
        counts += np.bincount(joint.ravel(), minlength=512)
    return counts.reshape(2, 256)


class Confusion:
    """True and false positives at each threshold, int64 [101] each, and the measures that follow from them.

    Attributes:
        positives: the pixels that are truly marked.
        curves: the :data:`MEASURES` at each threshold, float64 [4, 101].
    """

    def __init__(self, counts: Counts) -> None:
        above = np.zeros((2, 257), np.int64)
        above[:, :256] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        self.false_positive, self.true_positive = fp, tp = above[:, CUTS]
        self.positives = int(counts[1].sum())
        masked = tp + fp
        iou = _divide(tp, self.positives + fp, 1.0)  # 1.0 where nothing is truly marked and nothing is masked
        precision = _divide(tp, masked, np.nan)  # NaN where nothing is masked
        recall = _divide(tp, np.full(THRESHOLDS, self.positives), np.nan)  # NaN where nothing is truly marked
        f1 = _divide(2 * tp, masked + self.positives, 1.0)  # 1.0 as the IoU
        self.curves = np.stack([iou, precision, recall, f1])


MEASURES = ("iou", "precision", "recall", "f1")


class Scores:
    """Sums of the scores over images.

    Args:
        threshold: 0..100, the one that single figures belong to.

    Attributes:
        images: how many.
        empty_in_both: images without a truly marked pixel and, at the threshold, without a masked one; their IoU counts as 1.0.
    """

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.images = 0
        self.empty_in_both = 0
        self._counts = np.zeros((2, 256), np.int64)
        self._sums = np.zeros((len(MEASURES), THRESHOLDS))
        self._defined = np.zeros((len(MEASURES), THRESHOLDS), np.int64)

    def add(self, name: str, levels: Levels, truth: Marks) -> ImageScore:
        """Count one image; see :func:`count_levels`."""
        counts = count_levels(levels, truth)
        confusion = Confusion(counts)
        self.images += 1
        self._counts += counts
        self._sums += np.nan_to_num(confusion.curves, nan=0.0)
        self._defined += ~np.isnan(confusion.curves)
        masked = int(confusion.true_positive[self.threshold] + confusion.false_positive[self.threshold])
        self.empty_in_both += masked == 0 and confusion.positives == 0
        iou, precision, recall, f1 = confusion.curves[:, self.threshold]
        scores = float(iou), _number(precision), _number(recall), float(f1)
        return ImageScore(name, *scores, confusion.positives, masked, int(counts.sum()))

    def curves(self) -> list[dict[str, Any]]:
        """Return the pooled scores at each threshold, and as ``..._mean`` their means over the images for which they are defined."""
        pooled = Confusion(self._counts).curves
        means = _divide(self._sums, self._defined, np.nan)
        names = [name for measure in MEASURES for name in (measure, f"{measure}_mean")]
        columns = np.stack([pooled, means], axis=1).reshape(len(names), THRESHOLDS).T
        return [{"threshold": at, **dict(zip(names, map(_number, row), strict=True))} for at, row in enumerate(columns)]

    def calibration(self) -> dict[str, Any]:
        """Return how well confidences match the truth: ``bins``, and the expected calibration error ``ece``.

        The bins divide the range of confidence evenly. ``ece`` is the distance between a bin's mean confidence and its share of truly
        marked pixels, averaged over all pixels (Guo et al., "On calibration of modern neural networks", 2017).
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
        """Return all scores, ready for JSON."""
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


def _divide(part: Counts | Curve, whole: Counts, otherwise: float) -> Curve:
    result: Curve = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
