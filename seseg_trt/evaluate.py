"""Scoring a network's masks against true masks.

Everything is measured at the images' sizes, where a user meets the masks: the confidence is brought to the image's size as ``segment``
does, and cut at every threshold.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .masks.reference import resize_map
from .options import DecodeOptions
from .quality.agreement import Worst
from .quality.images import Sampled, Undecodable, batched, hash_of_set, overlapped, sample
from .quality.pairs import Pair, Pairs, find_pairs, read_truth
from .quality.scores import ImageScore, Scores
from .quality.subject import Subject, check_unchanged, open_subject, subject_of_backend

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "evaluate",
    "Evaluation",
    "EvaluateOptions",
    "ImageScore",
    "Subject",
    "open_subject",
    "subject_of_backend",
    "Pair",
    "Pairs",
    "find_pairs",
]

WORST_NAMED = 10


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How to score.

    Attributes:
        threshold: 0..100, the one that single figures are of; all others are scored as well.
        decoding: how bytes become pixels; masks are decoded alike.
        batch: images that go through the network at once.
        pictures: how many of the worst images are kept for a page.
    """

    threshold: int = 50
    decoding: DecodeOptions = dataclasses.field(default_factory=DecodeOptions)
    batch: int = 8
    pictures: int = 24

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 100:
            raise UsageError(f"the threshold {self.threshold} is not within 0 to 100", "it is a percentage")
        if self.batch < 1 or self.pictures < 0:
            raise UsageError("a batch has at least one image, and no number of images is below 0", "see --batch")


@dataclasses.dataclass(frozen=True)
class Bad:
    """One of the worst images, with its confidence map, uint8 [S, S]."""

    pair: Pair
    score: ImageScore
    confidence: npt.NDArray[np.uint8]


@dataclasses.dataclass
class Evaluation:
    """What came out.

    Attributes:
        subject: what was scored.
        scores: the sums; :meth:`as_dict` has them as numbers.
        undecodable: images that could not be scored.
        masks_left: masks that belong to no image.
        images_sha256, masks_sha256: over all images scored, and over their masks.
        worst: the images of the lowest IoU, the worst first.
    """

    subject: Subject
    options: EvaluateOptions
    scores: Scores
    undecodable: list[Undecodable]
    masks_left: int
    images_sha256: str
    masks_sha256: str
    worst: list[Bad]

    @property
    def iou(self) -> float:
        """Pooled over all pixels, at the threshold."""
        return float(self.as_dict()["iou"])

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it.

        ``iou``, ``precision``, ``recall``, ``f1`` are pooled over pixels at ``threshold``, ``..._mean`` their means over images;
        ``images``, ``empty_in_both``, ``iou_mean_where_marked``; ``best`` threshold by pooled IoU; ``calibration``; ``thresholds`` has
        the same figures for 0 to 100; ``worst_images``, ``undecodable``, ``masks_left``; ``model``, ``machine``, ``versions``.
        """
        from .quality.drift import decoder_name
        from .quality.machine import describe_machine, versions

        return {
            **self.scores.as_dict(),
            "worst_images": [dataclasses.asdict(bad.score) for bad in self.worst[:WORST_NAMED]],
            "undecodable": [item.as_dict() for item in self.undecodable],
            "masks_left": self.masks_left,
            "images_sha256": self.images_sha256,
            "masks_sha256": self.masks_sha256,
            "model": self.subject.as_dict(),
            "decoder": decoder_name(),
            "exif_orientation": self.options.decoding.exif_orientation,
            "machine": describe_machine(),
            "versions": versions(),
        }


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A pair as it waits for the network: the mask is packed, eight pixels a byte, since several wait."""

    pair: Pair
    sampled: Sampled
    packed: npt.NDArray[np.uint8]
    mask_sha256: bytes

    def truth(self) -> npt.NDArray[np.bool_]:
        width = self.sampled.width
        return np.unpackbits(self.packed, axis=1, count=width).view(np.bool_)


def evaluate(
    subject: Subject,
    pairs: Pairs | tuple[str | os.PathLike[str], str | os.PathLike[str]],
    *,
    options: EvaluateOptions | None = None,
    each: Callable[[ImageScore | Undecodable], None] | None = None,
) -> Evaluation:
    """Score a network's masks.

    Args:
        subject: what to score; see :func:`open_subject`.
        pairs: from :func:`find_pairs`, or a folder of images and one of masks.
        options: None means the defaults.
        each: called after each image.

    Raises:
        UsageError: masks are missing or wrong (before anything runs; see :func:`find_pairs`), or no image can be decoded.
        ModelError: the model's file changed meanwhile.
        DeviceError: the backend failed.
    """
    options = options or EvaluateOptions()
    if not isinstance(pairs, Pairs):
        pairs = find_pairs(*pairs, options.decoding)
    scores, worst = Scores(options.threshold), Worst(max(options.pictures, WORST_NAMED))
    undecodable = list(pairs.undecodable)
    digests: list[tuple[bytes, bytes]] = []
    for loaded, confidence in _run(subject, pairs.pairs, options):
        if isinstance(loaded, Undecodable):
            undecodable.append(loaded)
            if each is not None:
                each(loaded)
            continue
        assert confidence is not None
        item = loaded.sampled
        score = scores.add(item.entry.name, resize_map(confidence, item.width, item.height), loaded.truth())
        worst.add(score.iou, score.true_pixels + score.masked_pixels, Bad(loaded.pair, score, confidence.copy()))
        digests.append((item.sha256, loaded.mask_sha256))
        if each is not None:
            each(score)
    if not digests:
        raise UsageError(f"none of {len(pairs.pairs)} images could be decoded", "give --images a folder of images")
    check_unchanged(subject)
    return Evaluation(
        subject,
        options,
        scores,
        undecodable,
        pairs.masks_left,
        hash_of_set(image for image, _ in digests),
        hash_of_set(mask for _, mask in digests),
        list(worst.items()),
    )


def _run(
    subject: Subject, pairs: list[Pair], options: EvaluateOptions
) -> Iterator[tuple[_Loaded | Undecodable, npt.NDArray[np.uint8] | None]]:
    load = functools.partial(_load, options=options.decoding, size=subject.input_size)
    for batch in batched(overlapped(load, pairs), options.batch):
        good = [item for item in batch if isinstance(item, _Loaded)]
        yield from ((item, None) for item in batch if isinstance(item, Undecodable))
        if good:
            maps, _ = subject.run(np.stack([item.sampled.network_input for item in good]))
            yield from zip(good, maps, strict=True)


def _load(pair: Pair, options: DecodeOptions, size: int) -> _Loaded | Undecodable:
    sampled = sample(pair.image, options, size)
    if isinstance(sampled, Undecodable):
        return sampled
    read = read_truth(pair.mask, options)
    if isinstance(read, Undecodable):
        raise UsageError(f"the mask {read.name} can't be read any more: {read.message}", "was it changed meanwhile?")
    truth, digest = read
    if truth.shape != (sampled.height, sampled.width):
        raise UsageError(
            f"{pair.image.name} is {sampled.width} x {sampled.height} pixels, its mask {pair.mask.name} {truth.shape[1]} x {truth.shape[0]}",
            "an orientation behind a PNG's pixels turns it only when it is decoded; --no-exif-orientation leaves it as it is",
        )
    return _Loaded(pair, sampled, np.packbits(truth, axis=1), digest)
