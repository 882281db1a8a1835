"""Pillow 5's BICUBIC in integers, slow and plain: the specification that fast implementations are held to.

Written after ``precompute_coeffs``, ``normalize_coeffs_8bpc`` and the two 8-bit passes of Pillow's Resample.c (5.4.1). The
weights of an output pixel are computed in double, made integers of 22 fractional bits, and multiplied with the source's bytes;
the sum is rounded and clipped to a byte. The horizontal pass comes first, and its bytes are the input of the vertical one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

PRECISION_BITS = 32 - 8 - 2
SUPPORT = 2.0  # of the cubic filter, in source pixels where the image grows
A = -0.5


def cubic(x: float) -> float:
    """Return the weight of a source pixel at the distance ``x``."""
    x = abs(x)
    if x < 1.0:
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * A
    return 0.0


def weights(source: int, target: int) -> list[tuple[int, list[int]]]:
    """Return for each output pixel the first source pixel it takes and the integer weights of that and the following ones."""
    scale = source / target
    stretch = max(scale, 1.0)  # where the image shrinks the filter widens
    support = SUPPORT * stretch
    result = []
    for k in range(target):
        center = (k + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        last = min(source, int(center + support + 0.5))
        w = [cubic((x + first - center + 0.5) * (1.0 / stretch)) for x in range(last - first)]
        total = 0.0
        for value in w:
            total += value
        if total != 0.0:
            w = [value / total for value in w]
        result.append((first, [int(math.copysign(0.5, value) + value * (1 << PRECISION_BITS)) for value in w]))
    return result


def resize_rows(pixels: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, width] of uint8 [H, W]: one pass."""
    if width == pixels.shape[1]:
        return pixels
    wide = pixels.astype(np.int64)
    result = np.empty((pixels.shape[0], width), np.uint8)
    for k, (first, w) in enumerate(weights(pixels.shape[1], width)):
        total = wide[:, first : first + len(w)] @ np.array(w, np.int64) + (1 << (PRECISION_BITS - 1))
        result[:, k] = np.clip(total >> PRECISION_BITS, 0, 255)
    return result


def resize(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [height, width]: the horizontal pass, then the vertical one."""
    return np.ascontiguousarray(resize_rows(resize_rows(pixels, width).T, height).T)


def resize_vertical_first(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [height, width] with the passes the other way round, as newer versions of Pillow take them at some sizes."""
    return resize_rows(np.ascontiguousarray(resize_rows(pixels.T, height).T), width)
