"""What another decoder, or another resize, does to the reference's masks: measured apart, so that neither hides in the network's part.

Both compare the reference network with itself. The decoder's drift: the same files decoded by another library. The resize's drift:
the same decoded pixels brought to the network's size by antialiased bilinear, which most ports do, instead of nearest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..codecs import pillow
from ..errors import BadImage, DeviceError
from ..masks.reference import apply_threshold, resize_map, sample_nearest
from ..options import DecodeOptions
from .agreement import Agreement, count_pair
from .images import Entry, overlapped

if TYPE_CHECKING:
    from PIL import Image

    from .subject import Subject

Pixels = npt.NDArray[np.uint8]


class OtherDecoder(Protocol):
    """A decoder to compare Pillow with. ``name`` has the library, its version and the device."""

    name: str

    def decode(self, data: bytes) -> Pixels | None:
        """Return uint8 [H, W, 3] RGB, the EXIF orientation not applied; None where it can't decode it."""
        ...


class _Dali:
    """DALI, on the GPU where there is one."""

    def __init__(self) -> None:
        from nvidia.dali import Pipeline, __version__, fn, types

        gpu = _has_gpu()
        self._pipeline: Any = Pipeline(batch_size=1, num_threads=1, device_id=0 if gpu else None, prefetch_queue_depth=1)
        with self._pipeline:
            data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
            device = "mixed" if gpu else "cpu"
            self._pipeline.set_outputs(fn.decoders.image(data, device=device, output_type=types.RGB, adjust_orientation=False))
        self._pipeline.build()
        self.name = f"DALI {__version__} on the {'GPU' if gpu else 'CPU'}"

    def decode(self, data: bytes) -> Pixels | None:
        self._pipeline.feed_input("data", [np.frombuffer(data, np.uint8)])
        try:
            (images,) = self._pipeline.run()
        except RuntimeError:
            return None
        return np.array(images.as_cpu()[0])


class _OpenCV:
    def __init__(self) -> None:
        self._cv2: Any = importlib.import_module("cv2")
        self.name = f"OpenCV {self._cv2.__version__}"

    def decode(self, data: bytes) -> Pixels | None:
        flags = self._cv2.IMREAD_COLOR | self._cv2.IMREAD_IGNORE_ORIENTATION
        bgr = self._cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1])


def _has_gpu() -> bool:
    from ..driver import driver_report

    try:
        return bool(driver_report().gpus)
    except DeviceError:
        return False


def find_other_decoder() -> OtherDecoder | None:
    """Return DALI (the GPU lane's decoder) or OpenCV, whichever is installed and starts; None if neither."""
    for make in (_Dali, _OpenCV):
        with contextlib.suppress(ImportError, RuntimeError, OSError):
            return make()
    return None


class _Shift:
    """The reference against itself, with another network input. ``max_level`` is the largest difference of two decoded pixels."""

    def __init__(self) -> None:
        self.agreement = Agreement()
        self.same_input = 0
        self.not_decoded = 0
        self.max_level = 0

    def as_dict(self) -> dict[str, Any]:
        agreement = self.agreement
        return {
            "images": agreement.images,
            "same_network_input": self.same_input,
            "iou": {"pooled": agreement.pooled, "mean": agreement.mean, "worst": agreement.worst},
            "flip_rate": agreement.flip_rate,
        }


def not_measured(why: str) -> dict[str, Any]:
    """Return what the certificate has in place of a drift."""
    return {"measured": False, "why": why}


def measure_drift(reference: Subject, entries: Sequence[Entry], decoding: DecodeOptions, threshold: int) -> dict[str, Any]:
    """Measure both drifts over a few images.

    Args:
        reference: the network; it runs up to three times for each image.
        entries: the images; those that Pillow can't decode are left out.
        decoding: the pixel limit counts; the EXIF orientation is applied by neither decoder here.
        threshold: of the masks, 0..100.

    Returns:
        ``decoder`` and ``resize``, each with ``measured``.
    """
    other: OtherDecoder | None = None
    encoded = False
    plain = dataclasses.replace(decoding, exif_orientation=False)
    size = reference.input_size
    decoder, resize = _Shift(), _Shift()
    for data, image in overlapped(functools.partial(_load, options=plain), entries):
        if image is None:
            continue
        nearest = sample_nearest(image, size)
        variants = [(resize, _bilinear(image, size))]
        if data is not None and not encoded:
            encoded, other = True, find_other_decoder()  # it may take a second to load, so not before there is something to decode
        if data is not None and other is not None:
            foreign = other.decode(data)
            if foreign is None or foreign.shape != (image.height, image.width, 3):
                decoder.not_decoded += 1
            else:
                decoder.max_level = max(decoder.max_level, _largest_difference(np.asarray(image), foreign))
                variants.append((decoder, sample_nearest(foreign, size)))
        _run(reference, image.size, nearest, variants, threshold)
    return {"decoder": _decoder_result(decoder, other, encoded), "resize": _resize_result(resize)}


def _load(entry: Entry, options: DecodeOptions) -> tuple[bytes | None, Image.Image | None]:
    from PIL import Image

    try:
        loaded = entry.load()
        if isinstance(loaded, bytes):
            return loaded, pillow.decode(loaded, options).image
    except BadImage:
        return None, None
    return None, Image.fromarray(loaded)


def _bilinear(image: Image.Image, size: int) -> Pixels:
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _largest_difference(one: Pixels, other: Pixels) -> int:
    """Return the largest difference of two images' levels, a few rows at a time: a difference needs twice the bytes."""
    step = max(1, (1 << 20) // one.shape[1])
    blocks = (slice(row, row + step) for row in range(0, len(one), step))
    return max(int(np.abs(one[rows].astype(np.int16) - other[rows]).max()) for rows in blocks)


def _run(reference: Subject, image_size: tuple[int, int], nearest: Pixels, variants: list[tuple[_Shift, Pixels]], threshold: int) -> None:
    different = [(shift, variant) for shift, variant in variants if not np.array_equal(variant, nearest)]
    maps = reference.run(np.stack([nearest, *(variant for _, variant in different)]))[0]
    masks = [apply_threshold(resize_map(confidence, *image_size), threshold) for confidence in maps]
    for (shift, _), mask in zip(different, masks[1:], strict=True):
        shift.agreement.add(count_pair(masks[0], mask))
    for shift, variant in variants:
        if np.array_equal(variant, nearest):  # one input, one mask: that needs no second run
            shift.same_input += 1
            shift.agreement.add(count_pair(masks[0], masks[0]))


def _decoder_result(shift: _Shift, other: OtherDecoder | None, encoded: bool) -> dict[str, Any]:
    if not encoded:
        return not_measured("the images were never encoded, or none of them could be decoded")
    if other is None:
        return not_measured("no second decoder is installed (DALI or OpenCV)")
    if not shift.agreement.images:
        return not_measured(f"{other.name} decoded none of the images")
    names = {"decoder": other.name, "against": decoder_name(), "not_decoded": shift.not_decoded, "max_level": shift.max_level}
    return {"measured": True, **names, **shift.as_dict()}


def _resize_result(shift: _Shift) -> dict[str, Any]:
    if not shift.agreement.images:
        return not_measured("none of the images could be decoded")
    return {"measured": True, "filter": "bilinear, antialiased (Pillow)", "against": "nearest", **shift.as_dict()}


def decoder_name() -> str:
    """Return the library that decodes for a measurement, with the JPEG library inside it."""
    from PIL import __version__, features

    turbo = features.version("libjpeg_turbo")
    return f"Pillow {__version__}" + (f" (libjpeg-turbo {turbo})" if turbo else "")
