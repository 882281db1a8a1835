"""Measure masks: share of the image, confidence, bounding box and run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import import_late, install_hint
from .reference import apply_threshold

DEFAULT_THRESHOLD = 50


def measure_mask(opacity: npt.NDArray[np.uint8], threshold: int | None, *, rle: bool = False) -> dict[str, Any]:
    """Measure a mask at its image's size.

    Args:
        opacity: the confidence at the image's size, uint8 [H, W]: 255 p.
        threshold: a percentage, 0..100: pixels with a higher confidence are explicit. None: use 50 for the bounding box and the run
            lengths, and the mean opacity as the share.
        rle: whether to add the run lengths.

    Returns:
        A dictionary:

        - ``width`` and ``height`` in pixels;
        - ``share``: the explicit share of the image, 0..1;
        - ``mean`` and ``max``: of the confidence, 0..1;
        - ``bbox``: x, y, width and height in pixels of the smallest box around all explicit pixels, or None if there are none;
        - ``rle``: COCO's compressed run lengths (``counts`` in pycocotools; their ``size`` is [height, width]).

    Raises:
        DeviceError: ``rle`` is set and pycocotools is not installed.
    """
    explicit = apply_threshold(opacity, DEFAULT_THRESHOLD if threshold is None else threshold)
    height, width = opacity.shape
    mean = float(opacity.mean()) / 255
    measured: dict[str, Any] = {
        "width": width,
        "height": height,
        "share": mean if threshold is None else float(np.count_nonzero(explicit)) / explicit.size,
        "mean": mean,
        "max": int(opacity.max()) / 255,
        "bbox": _bounding_box(explicit),
    }
    if rle:
        coco = import_late("pycocotools.mask", "run lengths need pycocotools", install_hint("scale"))
        measured["rle"] = str(coco.encode(np.asfortranarray(explicit != 0).view(np.uint8))["counts"].decode("ascii"))
    return measured


def _bounding_box(explicit: npt.NDArray[np.uint8]) -> list[int] | None:
    rows, columns = np.flatnonzero(explicit.any(axis=1)), np.flatnonzero(explicit.any(axis=0))
    if not rows.size:
        return None
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
