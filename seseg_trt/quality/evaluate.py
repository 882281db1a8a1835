"""Score a network's masks against true masks.

Scores are of the files that a user would get: the confidence map is resized to the image's size as ``segment`` does, and cut at each
threshold.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..masks.reference import resize_map
from ..options import DecodeOptions
from .agreement import Worst
from .images import WAY_OUT, Sampled, Undecodable, batches, hash_of_set, sample
from .options import EvaluateOptions
from .pairs import LabelledImage, Pairs, find_pairs, read_truth
from .scores import ImageScore, Scores
from .subject import Subject, check_unchanged, open_subject, subject_of_backend

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "evaluate",
    "Evaluation",
    "EvaluateOptions",
    "ImageScore",
    "Subject",
    "open_subject",
    "subject_of_backend",
    "LabelledImage",
    "Pairs",
    "find_pairs",
]

WORST_NAMED = 10


@dataclasses.dataclass(frozen=True)
class WorstImage:
    """One of the worst images, with its confidence map, uint8 [S, S]."""

    labelled: LabelledImage
    score: ImageScore
    confidence: npt.NDArray[np.uint8]


@dataclasses.dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        subject: the network that was scored.
        scores: the sums. :meth:`as_dict` returns them as numbers.
        undecodable: the images that could not be scored.
        masks_left: the number of masks without an image.
        images_sha256, masks_sha256: hashes over all scored images, and over their masks.
        worst: the images with the lowest IoU, the worst first.
    """

    subject: Subject
    options: EvaluateOptions
    scores: Scores
    undecodable: list[Undecodable]
    masks_left: int
    images_sha256: str
    masks_sha256: str
    worst: list[WorstImage]

    @property
    def iou(self) -> float:
        """The IoU at the threshold, pooled over all pixels."""
        return float(self.as_dict()["iou"])

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, ready for JSON.

        ``iou``, ``precision``, ``recall``, ``f1`` are pooled over pixels at ``threshold``, ``..._mean`` their means over images;
        ``images``, ``empty_in_both``, ``iou_mean_where_marked``; ``best`` threshold by pooled IoU; ``calibration``; ``thresholds`` has
        the same figures for 0 to 100; ``worst_images``, ``undecodable``, ``masks_left``; ``model``, ``machine``, ``versions``.
        """
        from .machine import circumstances

        return {
            **self.scores.as_dict(),
            "worst_images": [dataclasses.asdict(image.score) for image in self.worst[:WORST_NAMED]],
            "undecodable": [dataclasses.asdict(item) for item in self.undecodable],
            "masks_left": self.masks_left,
            "images_sha256": self.images_sha256,
            "masks_sha256": self.masks_sha256,
            "model": self.subject.as_dict(),
            **circumstances(self.options.decoding),
        }


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """An image and its mask, waiting for the network. The mask is packed, eight pixels a byte, because several wait."""

    labelled: LabelledImage
    sampled: Sampled
    packed: npt.NDArray[np.uint8]
    mask_sha256: bytes

    def truth(self) -> npt.NDArray[np.bool_]:
        """Return the true mask, bool [H, W]."""
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
        subject: the network to score; see :func:`open_subject`.
        pairs: from :func:`find_pairs`, or its first two arguments: where the images are, and where the masks are.
        options: None means the defaults.
        each: called after each image.

    Raises:
        UsageError: masks are missing or wrong (before the network runs; see :func:`find_pairs`), or no image can be decoded.
        StoppedError: an object store can't be listed.
        ModelError: the model's file changed meanwhile.
        DeviceError: the backend failed.
    """
    options = options or EvaluateOptions()
    if not isinstance(pairs, Pairs):
        pairs = find_pairs(*pairs, options.decoding)
    scores, worst = Scores(options.threshold), Worst(max(options.pictures, WORST_NAMED))
    undecodable = list(pairs.undecodable)
    digests: list[tuple[bytes, bytes]] = []
    load = functools.partial(_load, options=options.decoding, size=subject.input_size)
    for good, bad in batches(load, pairs.pairs, options.batch):
        undecodable += bad
        results: list[ImageScore | Undecodable] = [*bad]
        maps = subject.run(np.stack([loaded.sampled.network_input for loaded in good]))[0] if good else ()
        for loaded, confidence in zip(good, maps, strict=True):
            item = loaded.sampled
            score = scores.add(item.entry.name, resize_map(confidence, item.width, item.height), loaded.truth())
            worst.add(score.iou, score.true_pixels + score.masked_pixels, WorstImage(loaded.labelled, score, confidence.copy()))
            digests.append((item.sha256, loaded.mask_sha256))
            results.append(score)
        if each is not None:
            for result in results:
                each(result)
    if not digests:
        raise UsageError(f"none of {len(pairs.pairs)} images could be decoded", WAY_OUT)
    check_unchanged(subject)
    return Evaluation(
        subject,
        options,
        scores,
        undecodable,
        pairs.masks_left,
        hash_of_set(image for image, _ in digests),
        hash_of_set(mask for _, mask in digests),
        worst.items(),
    )


def _load(labelled: LabelledImage, options: DecodeOptions, size: int) -> _Loaded | Undecodable:
    sampled = sample(labelled.image, options, size)
    if isinstance(sampled, Undecodable):
        return sampled
    read = read_truth(labelled.mask, options)
    if isinstance(read, Undecodable):
        raise UsageError(f"the mask {read.name} can't be read any more: {read.message}", "was it changed meanwhile?")
    truth, digest = read
    if truth.shape != (sampled.height, sampled.width):
        raise UsageError(
            f"{labelled.image.name} is {sampled.width} x {sampled.height} pixels, "
            f"its mask {labelled.mask.name} {truth.shape[1]} x {truth.shape[0]}",
            "a PNG may have its orientation after its pixels, so it is seen only after decoding; --no-exif-orientation ignores it",
        )
    return _Loaded(labelled, sampled, np.packbits(truth, axis=1), digest)
