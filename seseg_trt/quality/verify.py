"""Compare two networks on the same images, and certify what the second costs in masks. The certificate is bound to its bytes.

Masks are compared at the images' sizes, so the figures are those of the files that a user would get. A large image weighs more in the
pooled IoU, but not in the mean. The pooled and the worst IoU at the network's size, where all images weigh the same, are measured too.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, UsageError
from ..masks.reference import apply_threshold, resize_map
from ..models.certificate import (
    Certificate,
    CertificateCheck,
    Gate,
    certificate_line,
    certificate_path,
    check_certificate,
    load_certificate,
    require_certificate,
)
from .agreement import Agreement, Deltas, Overlap, Worst, count_overlap
from .images import WAY_OUT, Entry, ImageSet, Sampled, Undecodable, batches, entries_in, hash_of_set, sample, spread
from .options import VerifyOptions
from .subject import Subject, check_unchanged, open_subject, subject_of_backend

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "certify",
    "compare",
    "make_certificate",
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
"""Stands in for |dp| if a network has no output p: the difference of the maps, which is off by up to 1/255."""


@dataclasses.dataclass(frozen=True)
class WorstImage:
    """One of the worst images, with both maps, uint8 [S, S]."""

    entry: Entry
    overlap: Overlap
    reference: Mask
    candidate: Mask


@dataclasses.dataclass
class Comparison:
    """The result of a comparison, in numbers: sums that grow with each batch.

    Attributes:
        at_image_size, at_network_size: the agreement of the masks.
        deltas: the distribution of |dp|. ``delta_source`` names what it was computed from: :data:`FROM_FLOATS` or :data:`FROM_MAPS`.
        undecodable: the images that could not be compared.
        drift: of decoder and resize, see :mod:`seseg_trt.quality.drift`.
    """

    reference: Subject
    candidate: Subject
    options: VerifyOptions
    undecodable: list[Undecodable]
    at_image_size: Agreement = dataclasses.field(default_factory=Agreement)
    at_network_size: Agreement = dataclasses.field(default_factory=Agreement)
    deltas: Deltas = dataclasses.field(default_factory=Deltas)
    delta_source: str = FROM_FLOATS
    drift: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._worst = Worst(max(self.options.pictures, WORST_NAMED))
        self._digests: list[bytes] = []

    @property
    def images_sha256(self) -> str:
        """A hash over the compared images."""
        return hash_of_set(self._digests)

    @property
    def worst(self) -> list[WorstImage]:
        """The images with flipped pixels, the worst first."""
        return self._worst.items()

    def failures(self, gate: Gate) -> list[str]:
        """Return the reasons why the gate is not met, one sentence each."""
        iou = self.at_image_size
        found = []
        if iou.pooled < gate.min_iou:
            found.append(f"the pooled IoU is {iou.pooled:.6f}, under {gate.min_iou}")
        if iou.worst < gate.min_worst_iou:
            found.append(f"the worst image's IoU is {iou.worst:.6f}, under {gate.min_worst_iou}")
        if iou.empty_in_both == iou.images:
            found.append(
                "neither artifact marks any image, so nothing was compared: take images that the reference marks, or a lower threshold"
            )
        if self.deltas.not_finite:
            found.append(f"{self.deltas.not_finite} pixels have a confidence that is not a number")
        return found

    def add(self, batch: list[Sampled]) -> None:
        """Run a batch through both networks and count it."""
        inputs = np.stack([item.network_input for item in batch])
        (maps, floats), (other_maps, other_floats) = self.reference.run(inputs), self.candidate.run(inputs)
        for subject, found in ((self.reference, maps), (self.candidate, other_maps)):
            if found.shape != inputs.shape[:3] or found.dtype != np.uint8:
                raise ModelError(f"{subject.name} gave {found.dtype} {list(found.shape)} for {list(inputs.shape)}", "its run() is wrong")
        if floats is None or other_floats is None:
            # use one source for all images: maps can stand in for p, but not the other way round
            self.delta_source = FROM_MAPS
            floats, other_floats = (m.astype(np.float32) / np.float32(255) for m in (maps, other_maps))
        self.deltas.add(floats, other_floats)
        for item, one, other in zip(batch, maps, other_maps, strict=True):
            self._count(item, one, other)

    def _count(self, item: Sampled, one: Mask, other: Mask) -> None:
        threshold = self.options.threshold
        self.at_network_size.add(count_overlap(apply_threshold(one, threshold), apply_threshold(other, threshold)))
        mask = apply_threshold(resize_map(one, item.width, item.height), threshold)
        same = np.array_equal(one, other)
        overlap = count_overlap(mask, mask if same else apply_threshold(resize_map(other, item.width, item.height), threshold))
        self.at_image_size.add(overlap)
        self._digests.append(item.sha256)
        if overlap.flipped:
            self._worst.add(overlap.iou, overlap.flipped, WorstImage(item.entry, overlap, one.copy(), other.copy()))


def certify(
    reference: Subject,
    candidate: Subject,
    images: ImageSet | str | os.PathLike[str],
    *,
    gate: Gate | None = None,
    options: VerifyOptions | None = None,
    progress: Callable[[Undecodable | None], None] | None = None,
    refused: Sequence[Undecodable] = (),
) -> Certificate:
    """Compare a candidate with a reference, and return the certificate, whether or not the gate is met. It is not written.

    Args:
        reference: the network whose masks are right by definition.
        candidate: the network that the certificate is for.
        images: a folder, a file, a glob, a tar or an address of an object store; or a list of :class:`Entry`, which may return pixels that
            were never a file.
        gate: what the candidate has to reach. None means the defaults of :class:`Gate`.
        options: None means the defaults.
        progress: called after each image, with the reason if it could not be decoded.
        refused: images that could not be opened. They are listed with those that can't be decoded.

    Returns:
        The certificate. ``certificate.require()`` raises if the gate was not met. Its keys: ``passed``; ``gate`` (``min_iou``,
        ``min_worst_iou``, ``failures``); ``threshold``; ``images`` compared, ``images_sha256``, ``undecodable``; ``iou`` (``pooled``,
        ``mean``, ``p01``, ``worst``, ``mean_where_marked``, ``empty_in_both``) and ``flip_rate`` at the images' sizes; ``network_iou`` (the
        same at the network's); ``dp`` (``max``, ``p999``, ``not_finite``, ``source``); ``drift``; ``worst_images``; ``reference`` and
        ``candidate`` (``name``, ``sha256``, ``precision``, ``backend``, ...); ``resample``, ``mask_resample``, ``decoder``,
        ``exif_orientation``; ``versions``, ``machine``, ``made``; ``format``, ``digest``.

    Raises:
        UsageError: there is no image, or none that can be decoded.
        StoppedError: an object store can't be listed.
        ModelError: the inputs of the two have different sizes, or a model's file changed meanwhile.
        DeviceError: a backend failed.
    """
    return make_certificate(compare(reference, candidate, images, options=options, progress=progress, refused=refused), gate or Gate())


def make_certificate(comparison: Comparison, gate: Gate) -> Certificate:
    """Return the certificate of a comparison. See :func:`certify`."""
    from .machine import circumstances

    failures = comparison.failures(gate)
    agreement = comparison.at_image_size
    content = {
        "passed": not failures,
        "gate": {**dataclasses.asdict(gate), "failures": failures},
        "threshold": comparison.options.threshold,
        "images": agreement.images,
        "images_sha256": comparison.images_sha256,
        "undecodable": [dataclasses.asdict(item) for item in comparison.undecodable],
        "iou": agreement.as_dict(),
        "flip_rate": agreement.flip_rate,
        "flipped_pixels": agreement.flipped,
        "pixels": agreement.pixels,
        "network_iou": comparison.at_network_size.as_dict(),
        "dp": comparison.deltas.as_dict(comparison.delta_source),
        "drift": comparison.drift,
        "worst_images": [
            {"name": image.entry.name, "iou": image.overlap.iou, "flipped_pixels": image.overlap.flipped, "pixels": image.overlap.pixels}
            for image in comparison.worst[:WORST_NAMED]
        ],
        "reference": comparison.reference.as_dict(),
        "candidate": comparison.candidate.as_dict(),
        "resample": "nearest",
        "mask_resample": "bicubic",
        **circumstances(comparison.options.decoding),
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return Certificate.seal(content)


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
    undecodable = list(refused)
    if isinstance(images, (str, os.PathLike)):
        images, more = entries_in([images], options.decoding)
        undecodable += more
    if not images:
        raise UsageError("there is no image to compare on", "give at least one")
    if reference.input_size != candidate.input_size:
        raise ModelError(
            f"{reference.name} takes {reference.input_size} x {reference.input_size} pixels and {candidate.name} "
            f"{candidate.input_size} x {candidate.input_size}: they are not two forms of one network",
            "compare artifacts that were made from one checkpoint",
        )
    comparison = Comparison(reference, candidate, options, undecodable)
    work = functools.partial(sample, options=options.decoding, size=reference.input_size)
    for good, bad in batches(work, images, options.batch):
        undecodable += bad
        if good:
            comparison.add(good)
        if progress is not None:
            for item in (*bad, *[None] * len(good)):
                progress(item)
    if not comparison.at_image_size.images:
        first = f"; {undecodable[0].name}: {undecodable[0].message}" if undecodable else ""
        raise UsageError(f"none of {len(images)} images could be decoded{first}", WAY_OUT)
    for subject in (reference, candidate):
        check_unchanged(subject)
    comparison.drift = _drift(reference, images, options)
    return comparison


def _drift(reference: Subject, entries: Sequence[Entry], options: VerifyOptions) -> dict[str, Any]:
    from .drift import measure_drift, not_measured

    if not options.drift_images:
        return dict.fromkeys(("decoder", "resize"), not_measured("it was not asked for"))
    return measure_drift(reference, spread(entries, options.drift_images), options.decoding, options.threshold)
