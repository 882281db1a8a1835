"""What the user chose, as frozen values that are checked once, when they are made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Literal, get_args

from .errors import UsageError

OutputKind = Literal["se", "nse", "mask"]
ImageFormat = Literal["png", "jpg", "webp"]
Decoder = Literal["pillow", "dali"]
Resample = Literal["nearest", "linear", "cubic", "lanczos3", "triangular", "gaussian"]
Subsampling = Literal["444", "422", "420"]

OUTPUT_SUFFIX: dict[OutputKind, str] = {"se": "se", "nse": "nse", "mask": "pred"}
"""The last part of an output's name, as the original program writes it (``NAME_pred.png`` is the mask)."""

DEFAULT_MAX_PIXELS = 178_956_970
"""Twice Pillow's own warning limit: where Pillow takes an image for a decompression bomb."""


@dataclasses.dataclass(frozen=True, slots=True)
class MaskOptions:
    """What is made of a confidence map.

    Attributes:
        outputs: which of ``se``, ``nse`` and ``mask`` to make, each at most once; empty makes none.
        color: the mask colour as (R, G, B), each 0..255, or ``"random"``.
        threshold: 0..100: the mask is 255 where the map is over 255 * threshold / 100, else 0. None: the map is an opacity.
        seed: of the random colour.
    """

    outputs: tuple[OutputKind, ...] = ("se",)
    color: tuple[int, int, int] | Literal["random"] = (127, 127, 127)
    threshold: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.outputs:
            if kind not in OUTPUT_SUFFIX:
                raise UsageError(f"there is no output type {kind!r}", f"choose from {', '.join(OUTPUT_SUFFIX)}")
        if len(set(self.outputs)) != len(self.outputs):
            raise UsageError("an output type is named twice", "name each of se, nse and mask at most once")
        if self.color != "random" and (len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color)):
            raise UsageError(f"{self.color} is no colour", "give R,G,B with each of 0 to 255, or 'random'")
        if self.threshold is not None and not 0 <= self.threshold <= 100:
            raise UsageError(f"the threshold {self.threshold} is not within 0 to 100", "it is a percentage")


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How bytes become pixels.

    Attributes:
        exif_orientation: turn the image as its EXIF orientation says (the original program did not).
        max_pixels: images with more pixels than this are quarantined before they are decoded.
        decoder: which library decodes.
        resample: how the network's input is made: ``nearest`` is what the network was trained with, and exactly as it was; the others
            are DALI's filters.
    """

    exif_orientation: bool = True
    max_pixels: int = DEFAULT_MAX_PIXELS
    decoder: Decoder = "pillow"
    resample: Resample = "nearest"

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels} admits no image", "give 1 or more")
        if self.decoder not in get_args(Decoder):
            raise UsageError(f"there is no decoder {self.decoder!r}", f"choose from {', '.join(get_args(Decoder))}")
        if self.resample not in get_args(Resample):
            raise UsageError(f"there is no filter {self.resample!r}", f"choose from {', '.join(get_args(Resample))}")
        if self.resample != "nearest" and self.decoder != "dali":
            raise UsageError(f"the filter {self.resample} is DALI's", "add --decoder dali")


@dataclasses.dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How pixels become bytes.

    Attributes:
        format: ``png`` is exact; ``jpg`` and ``webp`` are for viewing. A mask is always PNG: a lossy mask is no mask.
        quality: of jpg and webp, 1..100.
        subsampling: of jpg's chroma.
    """

    format: ImageFormat = "png"
    quality: int = 90
    subsampling: Subsampling = "420"

    def __post_init__(self) -> None:
        if self.format not in get_args(ImageFormat):
            raise UsageError(f"there is no format {self.format!r}", f"choose from {', '.join(get_args(ImageFormat))}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"the quality {self.quality} is not within 1 to 100", "90 is the default")
        if self.subsampling not in get_args(Subsampling):
            raise UsageError(f"there is no subsampling {self.subsampling!r}", f"choose from {', '.join(get_args(Subsampling))}")


def digest(*options: MaskOptions | DecodeOptions | EncodeOptions) -> str:
    """Return a SHA-256 (hex) of everything in ``options`` that decides an output's bytes."""
    text = json.dumps([[type(o).__name__, dataclasses.asdict(o)] for o in options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
