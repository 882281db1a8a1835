"""A certificate for people: a table for the terminal, and a page that shows the worst images with the flipped pixels marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..certificate import Certificate, show_iou
from ..masks.reference import apply_threshold, resize_map
from . import page, pictures
from .images import Undecodable, decode

if TYPE_CHECKING:
    from ..verify import Bad, Comparison

UNDECODABLE_SHOWN = 20


def certificate_rows(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what a certificate says, as (what, value)."""
    data = certificate.data
    iou, at_network, gate, dp, machine = data["iou"], data["network_iou"], data["gate"], data["dp"], data["machine"]
    mean_where_marked = "" if iou["mean_where_marked"] is None else f" ({show_iou(iou['mean_where_marked'])} where either has a mask)"
    return [
        ("reference", _subject(data["reference"])),
        ("candidate", _subject(data["candidate"])),
        ("images compared", f"{data['images']:,}, of which {iou['empty_in_both']:,} have no mask in either (they count as IoU 1)"),
        ("images not decoded", f"{len(data['undecodable']):,}"),
        (f"IoU at threshold {data['threshold']}, pooled", f"{show_iou(iou['pooled'])}   (gate: {gate['min_iou']})"),
        ("mean", show_iou(iou["mean"]) + mean_where_marked),
        ("first percentile", show_iou(iou["p01"])),
        ("worst image", f"{show_iou(iou['worst'])}   (gate: {gate['min_worst_iou']})"),
        ("at the network's size", f"pooled {show_iou(at_network['pooled'])}, worst {show_iou(at_network['worst'])}"),
        ("flipped pixels", f"{data['flipped_pixels']:,} of {data['pixels']:,} ({data['flip_rate']:.2e})"),
        (f"|dp| from {dp['source']}", f"max {_number(dp['max'])}, 99.9% within {_number(dp['p999'])}" + _not_finite(dp)),
        ("drift of the decoder, apart", _drift(data["drift"]["decoder"], "decoder")),
        ("drift of the resize, apart", _drift(data["drift"]["resize"], "filter")),
        ("decoder", f"{data['decoder']}, EXIF orientation {'applied' if data['exif_orientation'] else 'ignored'}"),
        ("resize", f"{data['resample']} to the network, {data['mask_resample']} back"),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores; GPU: {'; '.join(machine['gpus']) or 'none'}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())),
        ("set of images", f"sha256 {data['images_sha256']}"),
        ("made", data["made"]),
    ]


def certificate_lines(certificate: Certificate) -> Iterator[str]:
    """Yield a certificate as lines for a terminal, without the verdict."""
    rows = certificate_rows(certificate)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        yield f"{name:<{width}}  {value}"
    for item in certificate.data["undecodable"][:UNDECODABLE_SHOWN]:
        yield f"not decoded: {item['name']!r}: {item['reason']}: {item['message']}"
    if (left := len(certificate.data["undecodable"]) - UNDECODABLE_SHOWN) > 0:
        yield f"not decoded: {left:,} more; the certificate has them all"


def _subject(subject: dict[str, Any]) -> str:
    return f"{subject['name']}, {subject['precision']}, {subject['backend']}, sha256 {subject['sha256']}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2e}"


def _not_finite(dp: dict[str, Any]) -> str:
    return f"; {dp['not_finite']:,} pixels are no number" if dp["not_finite"] else ""


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
        blur: show no image clearly.
    """
    verdict, style = ("passed", "passed") if certificate.passed else ("not passed", "failed")
    subjects = f"{certificate.data['candidate']['name']} against {certificate.reference_name}"
    body = [
        "<h1>Certificate of masks</h1>",
        f"<p>{page.text(subjects)}</p>",
        f'<p><span class="verdict {style}">{verdict}</span> {page.text("; ".join(certificate.failures()))}</p>',
        page.facts(certificate_rows(certificate)),
        *_worst(comparison, blur=blur),
        *_undecodable(comparison.undecodable),
    ]
    return page.document(f"Certificate: {subjects}", body)


def _worst(comparison: Comparison, *, blur: bool) -> Iterator[str]:
    yield "<h2>The worst images</h2>"
    shown = comparison.worst[: comparison.options.pictures]
    if not shown:
        yield "<p>No pixel of any image flipped.</p>"
        return
    keys = [
        page.key(pictures.LOST, "masked by the reference alone"),
        page.key(pictures.GAINED, "masked by the candidate alone"),
        page.key((pictures.MARKED,) * 3, "masked by both"),
    ]
    yield f"<p>{' &nbsp; '.join(keys)}</p>"
    yield "<p>A single flipped pixel colours all of the picture's pixel that it falls into, so few of them look like more.</p>"
    if blur:
        yield "<p>The images are blurred; <code>--images-clear</code> shows them.</p>"
    for bad in shown:
        title = f"{bad.entry.name}: IoU {show_iou(bad.pair.iou)}, {bad.pair.flipped:,} of {bad.pair.pixels:,} pixels flipped"
        yield page.case(title, _figures(bad, comparison, blur=blur))


def _figures(bad: Bad, comparison: Comparison, *, blur: bool) -> list[str]:
    decoded = decode(bad.entry, comparison.options.decoding)
    if isinstance(decoded, Undecodable):
        return [f"<p>The image can't be shown: {page.text(decoded.message)}</p>"]
    image, threshold = decoded.image, comparison.options.threshold
    masks = [apply_threshold(resize_map(confidence, *image.size), threshold) for confidence in (bad.reference, bad.candidate)]
    photograph = pictures.data_uri(pictures.thumbnail(image, blur=blur), photograph=True)
    return [
        page.figure(photograph, "image, blurred" if blur else "image", drawing=False),
        page.figure(pictures.data_uri(pictures.mask_picture(masks[0])), "reference", drawing=True),
        page.figure(pictures.data_uri(pictures.mask_picture(masks[1])), "candidate", drawing=True),
        page.figure(pictures.data_uri(pictures.difference_picture(masks[0], masks[1])), "flipped pixels", drawing=True),
    ]


def _undecodable(undecodable: list[Undecodable]) -> Iterator[str]:
    if not undecodable:
        return
    yield "<h2>Images that could not be decoded</h2>"
    yield page.table(("image", "reason", "message"), [(item.name, item.reason, item.message) for item in undecodable])
