"""Show a certificate to people: as lines for the terminal, and as a page with the worst images and their flipped pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..masks.reference import apply_threshold, resize_map
from ..models.certificate import Certificate, show_iou
from ..quality.images import Undecodable, decode
from . import pictures
from .html import render

if TYPE_CHECKING:
    from ..quality.verify import Comparison, VerifyOptions, WorstImage

UNDECODABLE_SHOWN = 20


def certificate_rows(certificate: Certificate) -> list[tuple[str, str]]:
    """Return the facts of a certificate, as (what, value)."""
    data = certificate.data
    iou, at_network, gate, dp, machine = data["iou"], data["network_iou"], data["gate"], data["dp"], data["machine"]
    mean_where_marked = "" if iou["mean_where_marked"] is None else f" ({show_iou(iou['mean_where_marked'])} where either marks a pixel)"
    return [
        ("reference", _subject(data["reference"])),
        ("candidate", _subject(data["candidate"])),
        ("images compared", f"{data['images']:,}, of which neither marks {iou['empty_in_both']:,} (they count as IoU 1)"),
        ("images not decoded", f"{len(data['undecodable']):,}"),
        (f"IoU at threshold {data['threshold']}, pooled", f"{show_iou(iou['pooled'])}   (gate: {gate['min_iou']})"),
        ("mean", show_iou(iou["mean"]) + mean_where_marked),
        ("first percentile", show_iou(iou["p01"])),
        ("worst image", f"{show_iou(iou['worst'])}   (gate: {gate['min_worst_iou']})"),
        ("at the network's size", f"pooled {show_iou(at_network['pooled'])}, worst {show_iou(at_network['worst'])}"),
        ("flipped pixels", f"{data['flipped_pixels']:,} of {data['pixels']:,} ({data['flip_rate']:.2e})"),
        (f"|dp| from {dp['source']}", f"max {_number(dp['max'])}, 99.9% within {_number(dp['p999'])}" + _not_finite(dp)),
        ("drift of the decoder alone", _drift(data["drift"]["decoder"], "decoder")),
        ("drift of the resize alone", _drift(data["drift"]["resize"], "filter")),
        ("decoder", f"{data['decoder']}, EXIF orientation {'applied' if data['exif_orientation'] else 'ignored'}"),
        ("resize", f"{data['resample']} to the network, {data['mask_resample']} back"),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores; GPU: {'; '.join(machine['gpus']) or 'none'}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())),
        ("set of images", f"sha256 {data['images_sha256']}"),
        ("made", data["made"]),
    ]


def certificate_lines(certificate: Certificate) -> Iterator[str]:
    """Yield a certificate as lines for a terminal, without the verdict."""
    yield from fact_lines(certificate_rows(certificate))
    yield from undecodable_lines(certificate.data["undecodable"], "the certificate has them all")


def fact_lines(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Yield each (what, value) as a line, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return (f"{name:<{width}}  {value}" for name, value in rows)


def undecodable_lines(undecodable: list[dict[str, str]], others: str) -> Iterator[str]:
    """Yield the first images that could not be decoded, a line each; ``others`` says where the rest is listed."""
    for item in undecodable[:UNDECODABLE_SHOWN]:
        yield f"not decoded: {item['name']!r}: {item['reason']}: {item['message']}"
    if (left := len(undecodable) - UNDECODABLE_SHOWN) > 0:
        yield f"not decoded: {left:,} more; {others}"


def _subject(subject: dict[str, Any]) -> str:
    return f"{subject['name']}, {subject['precision']}, {subject['backend']}, sha256 {subject['sha256']}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2e}"


def _not_finite(dp: dict[str, Any]) -> str:
    return f"; {dp['not_finite']:,} pixels are not numbers" if dp["not_finite"] else ""


def _drift(drift: dict[str, Any], what: str) -> str:
    if not drift["measured"]:
        return f"not measured: {drift['why']}"
    levels = f", pixels differ by up to {drift['max_level']}" if "max_level" in drift else ""
    return (
        f"{drift[what]} against {drift['against']}: IoU pooled {show_iou(drift['iou']['pooled'])}, worst {show_iou(drift['iou']['worst'])}, "
        f"flipped {drift['flip_rate']:.2e}, on {drift['images']:,} images{levels}"
    )


def certificate_page(certificate: Certificate, comparison: Comparison, *, blur: bool) -> str:
    """Return the page: verdict, figures, and the worst images with their flipped pixels.

    Args:
        certificate: of ``comparison``.
        comparison: has the worst images' maps; the images themselves are read again.
        blur: blur the images.
    """
    subjects = f"{certificate.data['candidate']['name']} against {certificate.reference_name}"
    return render(
        "certificate.html",
        title=f"Certificate: {subjects}",
        subjects=subjects,
        failures=certificate.failures(),
        facts=certificate_rows(certificate),
        legend=pictures.legend("masked by the reference alone", "masked by the candidate alone", "masked by both"),
        worst=[_case(image, comparison.options, blur) for image in comparison.worst[: comparison.options.pictures]],
        blurred=blur,
        undecodable=[dataclasses.astuple(item) for item in comparison.undecodable],
    )


def _case(worst: WorstImage, options: VerifyOptions, blur: bool) -> pictures.Case:
    overlap = worst.overlap
    title = f"{worst.entry.name}: IoU {show_iou(overlap.iou)}, {overlap.flipped:,} of {overlap.pixels:,} pixels flipped"
    decoded = decode(worst.entry, options.decoding)
    if isinstance(decoded, Undecodable):
        return pictures.Case(title, [], f"The image can't be shown: {decoded.message}")
    maps = {"reference": worst.reference, "candidate": worst.candidate}
    masks = {name: apply_threshold(resize_map(confidence, *decoded.image.size), options.threshold) for name, confidence in maps.items()}
    return pictures.Case(title, pictures.compared(decoded.image, masks, "flipped pixels", blur=blur))
