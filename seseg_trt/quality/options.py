"""Hold the options of measurements as frozen values, which are checked when they are made."""

from __future__ import annotations

import dataclasses

from ..errors import UsageError
from ..options import DecodeOptions


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How to score.

    Attributes:
        threshold: of the masks, 0..100, a percentage. Single scores belong to it; all other thresholds are scored as well.
        decoding: how bytes become pixels, of images and of masks.
        batch: images that go through a network at once.
        pictures: how many of the worst images a page shows.
    """

    threshold: int = 50
    decoding: DecodeOptions = dataclasses.field(default_factory=DecodeOptions)
    batch: int = 8
    pictures: int = 24

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 100:
            raise UsageError(f"the threshold {self.threshold} is not within 0 to 100", "it is a percentage")
        if self.batch < 1 or self.pictures < 0:
            raise UsageError("a batch needs at least one image, and no number of images can be negative", "see --batch")


@dataclasses.dataclass(frozen=True)
class VerifyOptions(EvaluateOptions):
    """How to compare: as to score, and the drift.

    Attributes:
        drift_images: how many images the drift of decoder and resize is measured on. 0 skips the measurement.
    """

    drift_images: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drift_images < 0:
            raise UsageError("no number of images can be negative", "see --drift-images")
