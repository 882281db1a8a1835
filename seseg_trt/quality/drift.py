"""Measure how another decoder, or another resize, changes the reference's masks.

Each is measured apart from the network, by comparing the reference with itself. For the decoder's drift, another library decodes the
same files. For the resize's drift, antialiased bilinear, which most ports use, replaces nearest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..masks.reference import apply_threshold, resize_map, sample_nearest
from ..options import DecodeOptions
from .agreement import Agreement, count_overlap
from .images import Entry, Undecodable, decode, map_ahead
from .machine import decoder_name, gpus

if TYPE_CHECKING:
    from .subject import Subject

Pixels = npt.NDArray[np.uint8]


class OtherDecoder(NamedTuple):
    """A decoder to compare with Pillow.

    Attributes:
        name: the library, its version and the device.
        decode: takes bytes; returns uint8 [H, W, 3] RGB without applying the EXIF orientation, or None if it can't decode them.
    """

    name: str
    decode: Callable[[bytes], Pixels | None]


def _dali() -> OtherDecoder:
    """Make DALI's decoder, on the GPU where there is one."""
    from nvidia.dali import Pipeline, __version__, fn, types

    gpu = bool(gpus())
    pipeline: Any = Pipeline(batch_size=1, num_threads=1, device_id=0 if gpu else None, prefetch_queue_depth=1)
    with pipeline:
        source = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        device = "mixed" if gpu else "cpu"
        pipeline.set_outputs(fn.decoders.image(source, device=device, output_type=types.RGB, adjust_orientation=False))
    pipeline.build()

    def decode(data: bytes) -> Pixels | None:
        pipeline.feed_input("data", [np.frombuffer(data, np.uint8)])
        try:
            (images,) = pipeline.run()
        except RuntimeError:
            return None
        return np.array(images.as_cpu()[0])

    return OtherDecoder(f"DALI {__version__} on the {'GPU' if gpu else 'CPU'}", decode)


def _opencv() -> OtherDecoder:
    """Make OpenCV's decoder, on the CPU."""
    cv2: Any = importlib.import_module("cv2")

    def decode(data: bytes) -> Pixels | None:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1])

    return OtherDecoder(f"OpenCV {cv2.__version__}", decode)


def find_other_decoder() -> OtherDecoder | None:
    """Return DALI (the GPU lane's decoder) or else OpenCV, if it is installed and starts; None if neither does."""
    for make in (_dali, _opencv):
        with contextlib.suppress(ImportError, RuntimeError, OSError):
            return make()
    return None


class _Drift:
    """The sums of one drift. ``max_level`` is the largest difference of two decoded pixels."""

    def __init__(self) -> None:
        self.agreement = Agreement()
        self.same_input = 0
        self.not_decoded = 0
        self.max_level = 0

    def result(self, why_not: str, names: dict[str, Any]) -> dict[str, Any]:
        """Return the figures and the names of what was compared, or ``why_not`` where there was no image."""
        agreement = self.agreement
        if not agreement.images:
            return not_measured(why_not)
        return {
            "measured": True,
            **names,
            "images": agreement.images,
            "same_network_input": self.same_input,
            "iou": {"pooled": agreement.pooled, "mean": agreement.mean, "worst": agreement.worst},
            "flip_rate": agreement.flip_rate,
        }


def not_measured(why: str) -> dict[str, Any]:
    """Return what the certificate stores instead of a drift."""
    return {"measured": False, "why": why}


def measure_drift(reference: Subject, entries: Sequence[Entry], decoding: DecodeOptions, threshold: int) -> dict[str, Any]:
    """Measure both drifts over a few images.

    Args:
        reference: the network; it runs up to three times for each image.
        entries: the images. Those that Pillow can't decode are left out.
        decoding: how bytes become pixels. The EXIF orientation is not applied.
        threshold: of the masks, 0..100.

    Returns:
        ``decoder`` and ``resize``, each with ``measured``.
    """
    from PIL import Image

    other: OtherDecoder | None = None
    encoded = False
    plain = dataclasses.replace(decoding, exif_orientation=False)
    size = reference.input_size
    decoder, resize = _Drift(), _Drift()
    for decoded in map_ahead(functools.partial(decode, options=plain), entries):
        if isinstance(decoded, Undecodable):
            continue
        image, data = decoded.image, decoded.encoded
        variants = [(resize, np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)))]
        if data is not None and not encoded:
            encoded, other = True, find_other_decoder()  # loading it may take a second: wait until there is something to decode
        if data is not None and other is not None:
            foreign = other.decode(data)
            if foreign is None or foreign.shape != (image.height, image.width, 3):
                decoder.not_decoded += 1
            else:
                decoder.max_level = max(decoder.max_level, _largest_difference(np.asarray(image), foreign))
                variants.append((decoder, sample_nearest(foreign, size)))
        _run(reference, image.size, sample_nearest(image, size), variants, threshold)
    names = {"filter": "bilinear, antialiased (Pillow)", "against": "nearest"}
    return {"decoder": _decoder_result(decoder, other, encoded), "resize": resize.result("none of the images could be decoded", names)}


def _largest_difference(one: Pixels, other: Pixels) -> int:
    """Return the largest difference of two images' levels. Work on a few rows at a time, because a difference needs twice the bytes."""
    step = max(1, (1 << 20) // one.shape[1])
    blocks = (slice(row, row + step) for row in range(0, len(one), step))
    return max(int(np.abs(one[rows].astype(np.int16) - other[rows]).max()) for rows in blocks)


def _run(reference: Subject, image_size: tuple[int, int], nearest: Pixels, variants: list[tuple[_Drift, Pixels]], threshold: int) -> None:
    def cut(confidence: Pixels) -> Pixels:
        return apply_threshold(resize_map(confidence, *image_size), threshold)

    same = [np.array_equal(variant, nearest) for _, variant in variants]  # the same input gives the same mask without a second run
    fresh = [variant for (_, variant), known in zip(variants, same, strict=True) if not known]
    maps = iter(reference.run(np.stack([nearest, *fresh]))[0])
    mask = cut(next(maps))
    for (drift, _), known in zip(variants, same, strict=True):
        drift.same_input += known
        drift.agreement.add(count_overlap(mask, mask if known else cut(next(maps))))


def _decoder_result(drift: _Drift, other: OtherDecoder | None, encoded: bool) -> dict[str, Any]:
    if not encoded:
        return not_measured("the images were never encoded, or none of them could be decoded")
    if other is None:
        return not_measured("no second decoder is installed (DALI or OpenCV)")
    names = {"decoder": other.name, "against": decoder_name(), "not_decoded": drift.not_decoded, "max_level": drift.max_level}
    return drift.result(f"{other.name} decoded none of the images", names)
