"""Figures of a mask, for queries that need no image files."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError
from .reference import apply_threshold

DEFAULT_THRESHOLD = 50


def measure_mask(opacity: npt.NDArray[np.uint8], threshold: int | None, *, rle: bool = False) -> dict[str, Any]:
    """Measure a mask at its image's size.

    Args:
        opacity: uint8 [H, W], the confidence at the image's size: 255 p.
        threshold: 0..100: a pixel over it is explicit; None: 50 for the bounding box and the run lengths, and the share is the mean opacity.
        rle: add the run lengths.

    Returns:
        ``width`` and ``height`` in pixels; ``share`` of the image that is explicit, 0..1; ``mean`` and ``max`` confidence, 0..1; ``bbox``: x, y,
        width and height in pixels of the smallest box around all explicit pixels, or None where there is none; ``rle``: COCO's
        compressed run lengths (the ``counts`` of ``pycocotools``, its ``size`` being [height, width]).

    Raises:
        DeviceError: ``rle`` without pycocotools.
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
        measured["rle"] = _run_lengths(explicit)
    return measured


def _bounding_box(explicit: npt.NDArray[np.uint8]) -> list[int] | None:
    rows, columns = np.flatnonzero(explicit.any(axis=1)), np.flatnonzero(explicit.any(axis=0))
    if not rows.size:
        return None
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def _run_lengths(explicit: npt.NDArray[np.uint8]) -> str:
    try:
        coco = importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise DeviceError(f"run lengths need pycocotools: {error}", "pip install 'seseg_trt[scale]'") from error
    return str(coco.encode(np.asfortranarray(explicit != 0).view(np.uint8))["counts"].decode("ascii"))
