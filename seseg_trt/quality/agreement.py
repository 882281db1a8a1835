"""How far two artifacts agree: masks counted in integers, confidences in a histogram, so that memory does not grow with pixels."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DROPPED_BITS = 12
BINS = (0x3F80_0000 >> DROPPED_BITS) + 1
"""One for each value of a float32's leading 20 bits, from 0.0 to 1.0."""


class Pair(NamedTuple):
    """Pixels of two masks of one image: in both, in either, and in all."""

    intersection: int
    union: int
    pixels: int

    @property
    def flipped(self) -> int:
        """Pixels that are in one mask alone."""
        return self.union - self.intersection

    @property
    def iou(self) -> float:
        """Intersection over union; two empty masks agree: 1.0."""
        return ratio(self.intersection, self.union)


def ratio(part: int, whole: int) -> float:
    """Return ``part / whole``, and 1.0 for nothing out of nothing."""
    return part / whole if whole else 1.0


def count_pair(one: Mask, other: Mask) -> Pair:
    """Count two masks' pixels.

    Args:
        one: uint8 [H, W], 0 or 255.
        other: the same of the other artifact.
    """
    if one is other:
        marked = int(np.count_nonzero(one))
        return Pair(marked, marked, one.size)
    return Pair(int(np.count_nonzero(one & other)), int(np.count_nonzero(one | other)), one.size)


class Agreement:
    """Sums :class:`Pair` over images.

    Attributes:
        images: how many.
        empty_in_both: of these, the ones that neither marks; their IoU counts as 1.0.
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

    def add(self, pair: Pair) -> None:
        """Count one more image."""
        self.images += 1
        self.empty_in_both += pair.union == 0
        self.pixels += pair.pixels
        self.flipped += pair.flipped
        self._intersection += pair.intersection
        self._union += pair.union
        self._ious.append(pair.iou)

    @property
    def pooled(self) -> float:
        """All intersections over all unions; a large image weighs more than a small one."""
        return ratio(self._intersection, self._union)

    @property
    def mean(self) -> float:
        """Of the images' IoU, each counted once."""
        return math.fsum(self._ious) / len(self._ious)

    @property
    def mean_where_marked(self) -> float | None:
        """The mean without the images that neither marks; None if there are no others."""
        marked = self.images - self.empty_in_both
        return (math.fsum(self._ious) - self.empty_in_both) / marked if marked else None

    @property
    def p01(self) -> float:
        """The first percentile of the images' IoU: an image's own value, never one between two; under 100 images, the worst."""
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
        """Return the IoU as the certificate has it."""
        return {
            "pooled": self.pooled,
            "mean": self.mean,
            "p01": self.p01,
            "worst": self.worst,
            "mean_where_marked": self.mean_where_marked,
            "empty_in_both": self.empty_in_both,
        }


class Deltas:
    """The distribution of ``|one - other|`` over all pixels of all maps.

    A float32 that is not negative orders as its bits do, so its leading bits name its bin: a histogram over all magnitudes with
    edges 2**-11 apart, relatively, and a quantile is off by no more than that.

    Attributes:
        largest: exact.
        not_finite: pixels where either has no number: a network that overflowed.
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
        """Return a value that at least ``share`` of all deltas do not exceed, at most 2**-11 of itself too high; None if there are none."""
        total = int(self._counts.sum())
        if not total:
            return None
        index = int(np.searchsorted(np.cumsum(self._counts), math.ceil(share * total)))
        upper = np.array([((index + 1) << DROPPED_BITS) - 1], np.uint32).view(np.float32)[0]
        return min(float(upper), self.largest) if index else 0.0  # the first bin ends at 6e-42

    def as_dict(self, source: str) -> dict[str, Any]:
        """Return it as the certificate has it; ``source`` names what was compared."""
        p999 = self.quantile(0.999)
        return {"max": None if p999 is None else self.largest, "p999": p999, "not_finite": self.not_finite, "source": source}


class Worst:
    """Keeps the few items with the lowest score, in bounded memory.

    Args:
        count: how many to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, int, Any]] = []
        self._added = 0

    def add(self, score: float, weight: int, item: Any) -> None:
        """Offer an item; of two with one score the one of more weight is worse, and of two equals the earlier."""
        self._added += 1
        entry = (-score, weight, -self._added, item)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif self._count and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> Iterable[Any]:
        """Return what was kept, the worst first."""
        return [item for _, _, _, item in sorted(self._heap, reverse=True)]
