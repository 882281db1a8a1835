"""The images that build_engine.py calibrates and certifies on. Of its floor: it may use what seseg_trt measures with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seseg_trt import cache
from seseg_trt.errors import BadImage, UsageError
from seseg_trt.options import DecodeOptions
from seseg_trt.quality.images import Entry, Sampled, entries_in, sample, spread

LEAST_CALIBRATION, WANTED_CALIBRATION, MOST_CALIBRATION = 64, 256, 512
MOST_CERTIFIED = 1000
SCENES, SCENES_SEED = 64, 4


@dataclass(frozen=True)
class ImageSets:
    """Two sets without a common image, nor copies of one. Where nothing is quantised the first is empty."""

    calibration: list[Entry]
    certificate: list[Entry]

    def warning(self) -> str:
        """Say what is doubtful about them; empty where nothing is."""
        count = len(self.calibration)
        return f"{count} images to calibrate on are few; {WANTED_CALIBRATION} or more are better" if 0 < count < WANTED_CALIBRATION else ""


def image_sets(folder: Path | None, *, quantised: bool) -> ImageSets:
    """Divide a user's images by the hash of their bytes; without a folder, take what ships with the project.

    Raises:
        UsageError: there are too few to calibrate on, or none.
    """
    if folder is None:
        if quantised:
            raise UsageError(
                "INT8 and FP8 have to be calibrated on images like yours, and there are none",
                f"give --images a folder of at least {2 * LEAST_CALIBRATION} of them (better {2 * WANTED_CALIBRATION})",
            )
        return ImageSets([], shipped_images())
    entries, _ = entries_in([folder])
    if not entries:
        raise UsageError(f"there is no image in {folder}", "give --images a folder of images")
    if not quantised:
        return ImageSets([], spread(entries, MOST_CERTIFIED))
    halves: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in entries:
        halves[_hash(entry)[0] % 2].append(entry)
    calibration, certificate = spread(halves[0], MOST_CALIBRATION), spread(halves[1], MOST_CERTIFIED)
    if len(calibration) < LEAST_CALIBRATION or not certificate:
        raise UsageError(
            f"{len(entries)} images in {folder} are too few: {len(calibration)} of them are to calibrate on, and the rest to certify on",
            f"give --images at least {2 * LEAST_CALIBRATION + LEAST_CALIBRATION // 2} images (better {2 * WANTED_CALIBRATION})",
        )
    return ImageSets(calibration, certificate)


def _hash(entry: Entry) -> bytes:
    try:
        loaded = entry.load()
    except BadImage:
        return b"\1"
    return hashlib.sha256(loaded if isinstance(loaded, bytes) else loaded.tobytes()).digest()


def shipped_images() -> list[Entry]:
    """Return the photographs that ship with the package, and :data:`SCENES` scenes."""
    from .scenes import draw_scene

    photographs, _ = entries_in([cache.demo_path().parent / "images"])

    @functools.lru_cache(maxsize=SCENES)
    def scene(index: int) -> bytes:
        return draw_scene(SCENES_SEED, index).jpeg()

    return [*photographs, *(Entry(f"scene {index}", functools.partial(scene, index)) for index in range(SCENES))]


def network_inputs(entries: Sequence[Entry], size: int) -> Iterator[Any]:
    """Yield what a network sees of each image that can be decoded: uint8 [size, size, 3]."""
    for entry in entries:
        sampled = sample(entry, DecodeOptions(), size)
        if isinstance(sampled, Sampled):
            yield sampled.network_input
