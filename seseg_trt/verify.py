"""Comparing two networks on the same images: what the second costs in masks, as a certificate bound to it.

The masks that are compared are masks in this project's words: confidence maps brought to the image's size and cut at a threshold. So
the figures are those of the files that a user would get; a large image weighs more in the pooled IoU, and not in the mean. The pooled
and the worst IoU of the maps themselves, cut at the network's size where all images weigh alike, stand beside them.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .certificate import (
    Certificate,
    CertificateCheck,
    Gate,
    certificate_line,
    certificate_path,
    check_certificate,
    load_certificate,
    require_certificate,
)
from .errors import ModelError, UsageError
from .masks.reference import apply_threshold, resize_map
from .options import DecodeOptions
from .quality.agreement import Agreement, Deltas, Pair, Worst, count_pair
from .quality.images import Entry, ImageSet, Sampled, Undecodable, batched, entries_in, hash_of_set, overlapped, sample, spread
from .quality.subject import Subject, check_unchanged, open_subject, subject_of_backend

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "certify",
    "compare",
    "Comparison",
    "VerifyOptions",
    "Subject",
    "open_subject",
    "subject_of_backend",
    "Entry",
    "entries_in",
    "Gate",
    "Certificate",
    "CertificateCheck",
    "certificate_line",
    "certificate_path",
    "check_certificate",
    "load_certificate",
    "require_certificate",
]

Mask = npt.NDArray[np.uint8]

WORST_NAMED = 10
FROM_FLOATS = "p"
FROM_MAPS = "|dmap|/255"
"""What stands for |dp| where a network gives no p: the difference of the maps, which is off by up to 1/255."""


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """How to compare.

    Attributes:
        threshold: of the masks, 0..100, a percentage.
        decoding: how bytes become pixels.
        batch: images that go through a network at once.
        drift_images: how many images the drift of decoder and resize is measured on; 0: none.
        pictures: how many of the worst images are kept for a page.
    """

    threshold: int = 50
    decoding: DecodeOptions = dataclasses.field(default_factory=DecodeOptions)
    batch: int = 8
    drift_images: int = 32
    pictures: int = 24

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 100:
            raise UsageError(f"the threshold {self.threshold} is not within 0 to 100", "it is a percentage")
        if self.batch < 1 or self.drift_images < 0 or self.pictures < 0:
            raise UsageError("a batch has at least one image, and no number of images is below 0", "see --batch and --drift-images")


@dataclasses.dataclass(frozen=True)
class Bad:
    """One of the worst images, with what a page needs to show it: both maps, uint8 [S, S]."""

    entry: Entry
    pair: Pair
    reference: Mask
    candidate: Mask


@dataclasses.dataclass
class Comparison:
    """What came out, in numbers.

    Attributes:
        at_image_size, at_network_size: the masks' agreement.
        deltas: of the confidences; ``delta_source`` says of what: :data:`FROM_FLOATS` or :data:`FROM_MAPS`.
        undecodable: what could not be compared.
        images_sha256: over the images compared.
        worst: the worst images that have a flipped pixel, the worst first.
        drift: of decoder and resize, see :mod:`seseg_trt.quality.drift`.
    """

    reference: Subject
    candidate: Subject
    options: VerifyOptions
    at_image_size: Agreement
    at_network_size: Agreement
    deltas: Deltas
    delta_source: str
    undecodable: list[Undecodable]
    images_sha256: str
    worst: list[Bad]
    drift: dict[str, Any]

    def failures(self, gate: Gate) -> list[str]:
        """Return why the gate is not met, a sentence each."""
        iou = self.at_image_size
        found = []
        if iou.pooled < gate.min_iou:
            found.append(f"the pooled IoU is {iou.pooled:.6f}, under {gate.min_iou}")
        if iou.worst < gate.min_worst_iou:
            found.append(f"the worst image's IoU is {iou.worst:.6f}, under {gate.min_worst_iou}")
        if iou.empty_in_both == iou.images:
            found.append(
                "no image has a mask in either, so nothing was compared: take images that the reference marks, or a lower threshold"
            )
        if self.deltas.not_finite:
            found.append(f"{self.deltas.not_finite} pixels have a confidence that is no number")
        return found


def certify(
    reference: Subject,
    candidate: Subject,
    images: ImageSet | str | os.PathLike[str],
    *,
    gate: Gate | None = None,
    options: VerifyOptions | None = None,
    page: str | os.PathLike[str] | None = None,
    clear: bool = False,
    progress: Callable[[Undecodable | None], None] | None = None,
    refused: Sequence[Undecodable] = (),
) -> Certificate:
    """Compare a candidate with a reference and make the certificate, whether or not the gate is met. It is not written.

    Args:
        reference: what is right by definition.
        candidate: what the certificate speaks of.
        images: a folder, or entries of a set (see :class:`Entry`; an entry may give pixels that were never a file).
        gate: what the candidate has to reach; None: the defaults of :class:`Gate`.
        options: None means the defaults.
        page: write an HTML page with the worst images there.
        clear: show the images on the page as they are; else they are blurred beyond recognition.
        progress: called after each image, with the reason where it could not be decoded.
        refused: images that could not even be opened, to be listed with those that can't be decoded.

    Returns:
        The certificate. ``certificate.require()`` raises where the gate was not met. Its keys: ``passed``; ``gate`` (``min_iou``,
        ``min_worst_iou``, ``failures``); ``threshold``; ``images`` compared, ``images_sha256``, ``undecodable``; ``iou`` (``pooled``,
        ``mean``, ``p01``, ``worst``, ``mean_where_marked``, ``empty_in_both``) and ``flip_rate`` at the images' sizes; ``network_iou`` (the
        same at the network's); ``dp`` (``max``, ``p999``, ``not_finite``, ``source``); ``drift``; ``worst_images``; ``reference`` and
        ``candidate`` (``name``, ``sha256``, ``precision``, ``backend``, ...); ``resample``, ``mask_resample``, ``decoder``,
        ``exif_orientation``; ``versions``, ``machine``, ``made``; ``format``, ``digest``.

    Raises:
        UsageError: there is no image, or none that can be decoded.
        ModelError: the two have inputs of different sizes, or a file changed meanwhile.
        DeviceError: a backend failed.
    """
    gate = gate or Gate()
    comparison = compare(reference, candidate, images, options=options, progress=progress, refused=refused)
    certificate = Certificate.seal(_content(comparison, gate))
    if page is not None:
        from .quality.certificate_page import certificate_page
        from .quality.page import write_page

        write_page(Path(page), certificate_page(certificate, comparison, blur=not clear))
    return certificate


def compare(
    reference: Subject,
    candidate: Subject,
    images: ImageSet | str | os.PathLike[str],
    *,
    options: VerifyOptions | None = None,
    progress: Callable[[Undecodable | None], None] | None = None,
    refused: Sequence[Undecodable] = (),
) -> Comparison:
    """Compare two networks, image by image, without a verdict. Arguments and errors are those of :func:`certify`."""
    options = options or VerifyOptions()
    entries, undecodable = _entries(images, refused)
    if reference.input_size != candidate.input_size:
        raise ModelError(
            f"{reference.name} takes {reference.input_size} x {reference.input_size} pixels and {candidate.name} "
            f"{candidate.input_size} x {candidate.input_size}: they are not two forms of one network",
            "compare artifacts that were made from one checkpoint",
        )
    comparing = _Comparing(reference, candidate, options)
    work = functools.partial(sample, options=options.decoding, size=reference.input_size)
    for batch in batched(overlapped(work, entries), options.batch):
        sampled = [item for item in batch if isinstance(item, Sampled)]
        undecodable += [item for item in batch if isinstance(item, Undecodable)]
        if sampled:
            comparing.add(sampled)
        for item in batch if progress is not None else ():
            assert progress is not None
            progress(item if isinstance(item, Undecodable) else None)
    if not comparing.digests:
        first = f"; {undecodable[0].name}: {undecodable[0].message}" if undecodable else ""
        raise UsageError(f"none of {len(entries)} images could be decoded{first}", "give --images a folder of images")
    for subject in (reference, candidate):
        check_unchanged(subject)
    return comparing.finish(undecodable, _drift(reference, entries, options))


def _entries(images: ImageSet | str | os.PathLike[str], refused: Sequence[Undecodable]) -> tuple[list[Entry], list[Undecodable]]:
    if isinstance(images, (str, os.PathLike)):
        entries, more = entries_in([images])
        if not entries:
            raise UsageError(f"there is no image in {os.fspath(images)}", "give --images a folder of images")
        return entries, [*refused, *more]
    if not images:
        raise UsageError("there is no image to compare on", "give at least one")
    return list(images), list(refused)


def _drift(reference: Subject, entries: Sequence[Entry], options: VerifyOptions) -> dict[str, Any]:
    from .quality.drift import measure_drift, not_measured

    if not options.drift_images:
        return {"decoder": not_measured("it was not asked for"), "resize": not_measured("it was not asked for")}
    return measure_drift(reference, spread(entries, options.drift_images), options.decoding, options.threshold)


class _Comparing:
    """The sums while they grow."""

    def __init__(self, reference: Subject, candidate: Subject, options: VerifyOptions) -> None:
        self._reference = reference
        self._candidate = candidate
        self._options = options
        self._at_image_size = Agreement()
        self._at_network_size = Agreement()
        self._deltas = Deltas()
        self._delta_source = FROM_FLOATS
        self._worst = Worst(max(options.pictures, WORST_NAMED))
        self.digests: list[bytes] = []

    def add(self, batch: list[Sampled]) -> None:
        """Run a batch through both networks and count it."""
        inputs = np.stack([item.network_input for item in batch])
        (maps, floats), (other_maps, other_floats) = self._reference.run(inputs), self._candidate.run(inputs)
        for subject, found in ((self._reference, maps), (self._candidate, other_maps)):
            if found.shape != inputs.shape[:3] or found.dtype != np.uint8:
                raise ModelError(f"{subject.name} gave {found.dtype} {list(found.shape)} for {list(inputs.shape)}", "its run() is wrong")
        if floats is None or other_floats is None:
            # one source for all images: the maps can stand for p, but not the other way round
            self._delta_source = FROM_MAPS
            floats, other_floats = (m.astype(np.float32) / np.float32(255) for m in (maps, other_maps))
        self._deltas.add(floats, other_floats)
        for item, one, other in zip(batch, maps, other_maps, strict=True):
            self._count(item, one, other)

    def _count(self, item: Sampled, one: Mask, other: Mask) -> None:
        threshold = self._options.threshold
        self._at_network_size.add(count_pair(apply_threshold(one, threshold), apply_threshold(other, threshold)))
        mask = apply_threshold(resize_map(one, item.width, item.height), threshold)
        same = np.array_equal(one, other)
        pair = count_pair(mask, mask if same else apply_threshold(resize_map(other, item.width, item.height), threshold))
        self._at_image_size.add(pair)
        self.digests.append(item.sha256)
        if pair.flipped:
            self._worst.add(pair.iou, pair.flipped, Bad(item.entry, pair, one.copy(), other.copy()))

    def finish(self, undecodable: list[Undecodable], drift: dict[str, Any]) -> Comparison:
        """Return the result."""
        return Comparison(
            self._reference,
            self._candidate,
            self._options,
            self._at_image_size,
            self._at_network_size,
            self._deltas,
            self._delta_source,
            undecodable,
            hash_of_set(self.digests),
            list(self._worst.items()),
            drift,
        )


def _content(comparison: Comparison, gate: Gate) -> dict[str, Any]:
    from .quality.drift import decoder_name
    from .quality.machine import describe_machine, versions

    failures = comparison.failures(gate)
    agreement = comparison.at_image_size
    return {
        "passed": not failures,
        "gate": {**dataclasses.asdict(gate), "failures": failures},
        "threshold": comparison.options.threshold,
        "images": agreement.images,
        "images_sha256": comparison.images_sha256,
        "undecodable": [item.as_dict() for item in comparison.undecodable],
        "iou": agreement.as_dict(),
        "flip_rate": agreement.flip_rate,
        "flipped_pixels": agreement.flipped,
        "pixels": agreement.pixels,
        "network_iou": comparison.at_network_size.as_dict(),
        "dp": comparison.deltas.as_dict(comparison.delta_source),
        "drift": comparison.drift,
        "worst_images": [
            {"name": bad.entry.name, "iou": bad.pair.iou, "flipped_pixels": bad.pair.flipped, "pixels": bad.pair.pixels}
            for bad in comparison.worst[:WORST_NAMED]
        ],
        "reference": comparison.reference.as_dict(),
        "candidate": comparison.candidate.as_dict(),
        "resample": "nearest",
        "mask_resample": "bicubic",
        "decoder": decoder_name(),
        "exif_orientation": comparison.options.decoding.exif_orientation,
        "versions": versions(),
        "machine": describe_machine(),
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
