"""Count how far two artifacts agree. Masks are counted in integers and confidences in a histogram, so memory does not grow with pixels."""

from __future__ import annotations

import math
import operator
from array import array
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DROPPED_BITS = 12
BINS = (0x3F80_0000 >> DROPPED_BITS) + 1
"""One for each value of a float32's leading 20 bits, from 0.0 to 1.0."""


class Overlap(NamedTuple):
    """Numbers of pixels of two masks of one image: marked in both, marked in either, and all."""

    intersection: int
    union: int
    pixels: int

    @property
    def flipped(self) -> int:
        """Pixels that one mask alone marks."""
        return self.union - self.intersection

    @property
    def iou(self) -> float:
        """Intersection over union; two empty masks agree: 1.0."""
        return ratio(self.intersection, self.union)


def ratio(part: int, whole: int) -> float:
    """Return ``part / whole``, and 1.0 for nothing out of nothing."""
    return part / whole if whole else 1.0


def count_overlap(one: Mask, other: Mask) -> Overlap:
    """Count where two masks of one image overlap.

    Args:
        one: uint8 [H, W], 0 or 255.
        other: the other artifact's, of the same shape.
    """
    if one is other:
        marked = int(np.count_nonzero(one))
        return Overlap(marked, marked, one.size)
    return Overlap(int(np.count_nonzero(one & other)), int(np.count_nonzero(one | other)), one.size)


class Agreement:
    """Sums of :class:`Overlap` over images.

    Attributes:
        images: how many.
        empty_in_both: images that neither artifact marks; their IoU counts as 1.0.
        pixels, flipped: over all images.
    """

    def __init__(self) -> None:
        self.images = 0
        self.empty_in_both = 0
        self.pixels = 0
        self.flipped = 0
        self._intersection = 0
        self._union = 0
        self._ious = array("d")

    def add(self, overlap: Overlap) -> None:
        """Count one more image."""
        self.images += 1
        self.empty_in_both += overlap.union == 0
        self.pixels += overlap.pixels
        self.flipped += overlap.flipped
        self._intersection += overlap.intersection
        self._union += overlap.union
        self._ious.append(overlap.iou)

    @property
    def pooled(self) -> float:
        """All intersections over all unions. A large image weighs more than a small one."""
        return ratio(self._intersection, self._union)

    @property
    def mean(self) -> float:
        """The mean of the images' IoU."""
        return math.fsum(self._ious) / len(self._ious)

    @property
    def mean_where_marked(self) -> float | None:
        """The mean IoU of the images that either artifact marks, or None if there are none."""
        marked = self.images - self.empty_in_both
        return (math.fsum(self._ious) - self.empty_in_both) / marked if marked else None

    @property
    def p01(self) -> float:
        """The first percentile of the images' IoU, not interpolated. With fewer than 100 images it is the worst."""
        return float(np.percentile(np.frombuffer(self._ious), 1, method="lower"))

    @property
    def worst(self) -> float:
        """The lowest IoU of an image."""
        return min(self._ious)

    @property
    def flip_rate(self) -> float:
        """The share of all pixels whose mask differs."""
        return self.flipped / self.pixels

    def as_dict(self) -> dict[str, Any]:
        """Return the IoU figures as the certificate stores them."""
        names = ("pooled", "mean", "p01", "worst", "mean_where_marked", "empty_in_both")
        return {name: getattr(self, name) for name in names}


class Deltas:
    """The distribution of ``|one - other|`` over all pixels of all maps.

    Non-negative float32 values sort as their bits do, so the leading bits are the bin. The edges of the bins are 2**-11 apart,
    relatively, and so is the largest error of a quantile.

    Attributes:
        largest: the largest difference, exact.
        not_finite: pixels where either map is not finite, because a network overflowed.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.not_finite = 0
        self._counts = np.zeros(BINS, np.int64)

    def add(self, one: Floats, other: Floats) -> None:
        """Count maps, float32 of any equal shape."""
        with np.errstate(invalid="ignore", over="ignore"):
            delta = np.abs(one - other).astype(np.float32, copy=False).ravel()
        finite = np.isfinite(delta)
        if not finite.all():
            self.not_finite += int(delta.size - np.count_nonzero(finite))
            delta = delta[finite]
        if not delta.size:
            return
        self.largest = max(self.largest, float(delta.max()))
        bins = np.minimum(delta.view(np.uint32) >> np.uint32(DROPPED_BITS), np.uint32(BINS - 1))
        self._counts += np.bincount(bins, minlength=BINS)

    def quantile(self, share: float) -> float | None:
        """Return a value that at least ``share`` of all deltas do not exceed, or None without deltas. It is at most 2**-11 too high, relatively."""
        total = int(self._counts.sum())
        if not total:
            return None
        index = int(np.searchsorted(np.cumsum(self._counts), math.ceil(share * total)))
        upper = np.array([((index + 1) << DROPPED_BITS) - 1], np.uint32).view(np.float32)[0]
        return min(float(upper), self.largest) if index else 0.0  # the first bin ends at 6e-42

    def as_dict(self, source: str) -> dict[str, Any]:
        """Return the distribution as the certificate stores it. ``source`` names what was compared."""
        p999 = self.quantile(0.999)
        return {"max": None if p999 is None else self.largest, "p999": p999, "not_finite": self.not_finite, "source": source}


class Worst:
    """The few items with the lowest scores, in bounded memory.

    Args:
        count: how many to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[float, int, Any]] = []

    def add(self, score: float, weight: int, item: Any) -> None:
        """Offer an item. Of two with the same score, the one with more weight is worse; then the earlier one."""
        self._kept.append((score, -weight, item))
        self._kept.sort(key=operator.itemgetter(0, 1))  # stable, and quick on what is nearly sorted
        del self._kept[self._count :]

    def items(self) -> list[Any]:
        """Return the kept items, the worst first."""
        return [item for _, _, item in self._kept]
