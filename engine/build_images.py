"""Choose the images that build_engine.py calibrates and certifies on.

Like build_engine.py, and unlike the rest of engine/, this module may import :mod:`seseg_trt.quality`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seseg_trt.errors import BadImage, UsageError
from seseg_trt.models import cache
from seseg_trt.options import DecodeOptions
from seseg_trt.quality.images import Entry, Sampled, entries_in, sample, spread

LEAST_CALIBRATION, WANTED_CALIBRATION, MOST_CALIBRATION = 64, 256, 512
MOST_CERTIFIED = 1000
SCENES, SCENES_SEED = 64, 4


@dataclass(frozen=True)
class ImageSets:
    """Two disjoint sets of images; copies of one image are in the same set.

    Attributes:
        calibration: empty if nothing is quantised.
        certificate: the images to certify on.
    """

    calibration: list[Entry]
    certificate: list[Entry]

    def warning(self) -> str:
        """Return a warning if there are few images to calibrate on; an empty string otherwise."""
        count = len(self.calibration)
        return f"only {count} images to calibrate on; {WANTED_CALIBRATION} or more are better" if 0 < count < WANTED_CALIBRATION else ""


def image_sets(folder: Path | None, *, quantised: bool) -> ImageSets:
    """Split a user's images by the hash of their bytes; without a folder, return the images that ship with the project.

    Args:
        folder: the user's images, or None.
        quantised: whether images to calibrate on are needed.

    Raises:
        UsageError: the folder has no images, or too few to calibrate on; or images to calibrate on are needed and no folder is given.
    """
    if folder is None:
        if quantised:
            raise UsageError(
                "INT8 and FP8 must be calibrated on images like yours, and no --images is given",
                f"give --images a folder of at least {2 * LEAST_CALIBRATION} images ({2 * WANTED_CALIBRATION} are better)",
            )
        return ImageSets([], shipped_images())
    entries, _ = entries_in([folder])
    if not quantised:
        return ImageSets([], spread(entries, MOST_CERTIFIED))
    halves: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in entries:
        halves[_hash(entry)[0] % 2].append(entry)
    calibration, certificate = spread(halves[0], MOST_CALIBRATION), spread(halves[1], MOST_CERTIFIED)
    if len(calibration) < LEAST_CALIBRATION or not certificate:
        raise UsageError(
            f"{len(entries)} images in {folder} are too few: {len(calibration)} of them would be for calibration, the rest for the certificate",
            f"give --images at least {2 * LEAST_CALIBRATION + LEAST_CALIBRATION // 2} images ({2 * WANTED_CALIBRATION} are better)",
        )
    return ImageSets(calibration, certificate)


def _hash(entry: Entry) -> bytes:
    try:
        loaded = entry.load()
    except BadImage:
        return b"\1"
    return hashlib.sha256(loaded if isinstance(loaded, bytes) else loaded.tobytes()).digest()


def shipped_images() -> list[Entry]:
    """Return the photographs that ship with the package and :data:`SCENES` procedural scenes."""
    from .scenes import draw_scene

    photographs, _ = entries_in([cache.demo_path().parent / "images"])

    @functools.lru_cache(maxsize=SCENES)
    def scene(index: int) -> bytes:
        return draw_scene(SCENES_SEED, index).jpeg()

    return [*photographs, *(Entry(f"scene {index}", functools.partial(scene, index)) for index in range(SCENES))]


def network_inputs(entries: Sequence[Entry], size: int) -> Iterator[Any]:
    """Yield the network input of each image, uint8 [size, size, 3]; images that can't be decoded are left out."""
    for entry in entries:
        sampled = sample(entry, DecodeOptions(), size)
        if isinstance(sampled, Sampled):
            yield sampled.network_input
