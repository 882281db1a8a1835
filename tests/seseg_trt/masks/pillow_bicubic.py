"""Pillow 5's BICUBIC in simple integer code, as the specification for the fast implementations.

It follows ``precompute_coeffs``, ``normalize_coeffs_8bpc`` and the two 8-bit passes of Pillow's Resample.c (5.4.1). The weights of an
output pixel are computed in doubles, converted to integers with 22 fractional bits, and multiplied with the source bytes. The sum is
rounded and clipped to a byte. The vertical pass runs on the bytes of the horizontal pass.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

PRECISION_BITS = 32 - 8 - 2
SUPPORT = 2.0  # the radius of the cubic filter, in source pixels if the image is enlarged
A = -0.5


def cubic(x: float) -> float:
    """Return the weight of a source pixel at distance ``x``."""
    x = abs(x)
    if x < 1.0:
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * A
    return 0.0


def weights(source: int, target: int) -> list[tuple[int, list[int]]]:
    """Return, for each target pixel, its first source pixel and the integer weights of that pixel and the following ones."""
    scale = source / target
    stretch = max(scale, 1.0)  # the filter is wider if the image shrinks
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
    """Run one pass: resize uint8 [H, W] to uint8 [H, width]."""
    if width == pixels.shape[1]:
        return pixels
    wide = pixels.astype(np.int64)
    result = np.empty((pixels.shape[0], width), np.uint8)
    for k, (first, w) in enumerate(weights(pixels.shape[1], width)):
        total = wide[:, first : first + len(w)] @ np.array(w, np.int64) + (1 << (PRECISION_BITS - 1))
        result[:, k] = np.clip(total >> PRECISION_BITS, 0, 255)
    return result


def resize(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Resize to uint8 [height, width], horizontally first."""
    return np.ascontiguousarray(resize_rows(resize_rows(pixels, width).T, height).T)


def resize_vertical_first(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Resize to uint8 [height, width], vertically first, as newer versions of Pillow do for some sizes."""
    return resize_rows(np.ascontiguousarray(resize_rows(pixels.T, height).T), width)
