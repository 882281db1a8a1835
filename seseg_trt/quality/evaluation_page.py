"""An evaluation for people: a table for the terminal, and a page with the worst images side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..masks.reference import apply_threshold, resize_map
from . import page, pictures
from .certificate_page import UNDECODABLE_SHOWN
from .images import Undecodable, decode
from .pairs import read_truth

if TYPE_CHECKING:
    from ..evaluate import Bad, Evaluation

STEP = 5
HEAD = ("threshold", "IoU", "precision", "recall", "F1", "IoU, mean", "precision, mean", "recall, mean", "F1, mean")
KEYS = ("iou", "precision", "recall", "f1", "iou_mean", "precision_mean", "recall_mean", "f1_mean")


def evaluation_facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what an evaluation says at its threshold, as (what, value)."""
    model, machine = found["model"], found["machine"]
    mean_where_marked = found["iou_mean_where_marked"]
    apart = "" if mean_where_marked is None else f" ({mean_where_marked:.4f} without the images that are empty in both)"
    return [
        ("model", f"{model['name']}, {model['precision']}, {model['backend']}, sha256 {model['sha256']}"),
        ("images scored", f"{found['images']:,}, of which {found['empty_in_both']:,} are empty in truth and mask (they count as IoU 1)"),
        ("images not decoded", f"{len(found['undecodable']):,}"),
        ("masks without an image", f"{found['masks_left']:,}"),
        ("truly marked", f"{found['true_share']:.1%} of {found['pixels']:,} pixels"),
        (f"IoU at threshold {found['threshold']}, pooled", f"{found['iou']:.4f}"),
        ("IoU, mean of the images", f"{found['iou_mean']:.4f}{apart}"),
        ("precision, recall, F1", ", ".join(_score(found[key]) for key in ("precision", "recall", "f1"))),
        ("best threshold by pooled IoU", f"{found['best']['threshold']} ({found['best']['iou']:.4f})"),
        ("expected calibration error", f"{found['calibration']['ece']:.4f}"),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores; GPU: {'; '.join(machine['gpus']) or 'none'}"),
    ]


def threshold_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the scores at every fifth threshold and at the chosen one."""
    chosen = [row for row in found["thresholds"] if row["threshold"] % STEP == 0 or row["threshold"] == found["threshold"]]
    return [[str(row["threshold"]), *(_score(row[key]) for key in KEYS)] for row in chosen]


def calibration_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the bins of confidence."""
    return [
        [f"{row['from']:.1f} to {row['to']:.1f}", f"{row['pixels']:,}", _score(row["confidence"]), _score(row["true_share"])]
        for row in found["calibration"]["bins"]
    ]


CALIBRATION_HEAD = ("confidence", "pixels", "mean confidence", "truly marked")


def evaluation_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield an evaluation as lines for a terminal."""
    facts = evaluation_facts(found)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        yield f"{name:<{width}}  {value}"
    yield ""
    yield from _aligned(HEAD, threshold_rows(found))
    yield ""
    yield from _aligned(CALIBRATION_HEAD, calibration_rows(found))
    for item in found["undecodable"][:UNDECODABLE_SHOWN]:
        yield f"not decoded: {item['name']!r}: {item['reason']}: {item['message']}"
    if (left := len(found["undecodable"]) - UNDECODABLE_SHOWN) > 0:
        yield f"not decoded: {left:,} more; --json has them all"


def _aligned(head: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    for row in [list(head), *rows]:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def evaluation_page(evaluation: Evaluation, *, blur: bool) -> str:
    """Return the page: figures, and the worst images with their true masks."""
    found = evaluation.as_dict()
    title = f"Masks of {evaluation.subject.name} against true masks"
    body = [
        f"<h1>{page.text(title)}</h1>",
        page.facts(evaluation_facts(found)),
        *_worst(evaluation, blur=blur),
        "<h2>Over thresholds</h2>",
        "<p>Pooled over all pixels; then the mean over those images for which a score is defined.</p>",
        page.table(HEAD, threshold_rows(found), numbers=True),
        "<h2>Calibration</h2>",
        page.table(CALIBRATION_HEAD, calibration_rows(found), numbers=True),
    ]
    if evaluation.undecodable:
        rows = [(item.name, item.reason, item.message) for item in evaluation.undecodable]
        body += ["<h2>Images that could not be decoded</h2>", page.table(("image", "reason", "message"), rows)]
    return page.document(title, body)


def _worst(evaluation: Evaluation, *, blur: bool) -> Iterator[str]:
    yield "<h2>The worst images</h2>"
    keys = [
        page.key(pictures.LOST, "true, and not masked"),
        page.key(pictures.GAINED, "masked, and not true"),
        page.key((pictures.MARKED,) * 3, "true and masked"),
    ]
    yield f"<p>{' &nbsp; '.join(keys)}</p>"
    for bad in evaluation.worst[: evaluation.options.pictures]:
        score = bad.score
        title = f"{score.name}: IoU {score.iou:.4f}, precision {_score(score.precision)}, recall {_score(score.recall)}"
        yield page.case(title, _figures(bad, evaluation, blur=blur))


def _figures(bad: Bad, evaluation: Evaluation, *, blur: bool) -> list[str]:
    options = evaluation.options
    decoded, read = decode(bad.pair.image, options.decoding), read_truth(bad.pair.mask, options.decoding)
    for lost in (decoded, read):
        if isinstance(lost, Undecodable):
            return [f"<p>It can't be shown: {page.text(lost.message)}</p>"]
    assert not isinstance(decoded, Undecodable) and not isinstance(read, Undecodable)
    truth = read[0].view("uint8") * 255
    mask = apply_threshold(resize_map(bad.confidence, *decoded.image.size), options.threshold)
    photograph = pictures.data_uri(pictures.thumbnail(decoded.image, blur=blur), photograph=True)
    return [
        page.figure(photograph, "image, blurred" if blur else "image", drawing=False),
        page.figure(pictures.data_uri(pictures.mask_picture(truth)), "truth", drawing=True),
        page.figure(pictures.data_uri(pictures.mask_picture(mask)), f"mask at threshold {options.threshold}", drawing=True),
        page.figure(pictures.data_uri(pictures.difference_picture(truth, mask)), "differences", drawing=True),
    ]
