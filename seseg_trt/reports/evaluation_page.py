"""Show an evaluation to people: as lines for the terminal, and as a page with the worst images side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..masks.reference import apply_threshold, resize_map
from ..quality.images import Undecodable, decode
from ..quality.pairs import read_truth
from . import pictures
from .certificate_page import fact_lines, undecodable_lines
from .html import render

if TYPE_CHECKING:
    from ..quality.evaluate import EvaluateOptions, Evaluation, WorstImage

STEP = 5
HEAD = ("threshold", "IoU", "precision", "recall", "F1", "IoU, mean", "precision, mean", "recall, mean", "F1, mean")
KEYS = ("iou", "precision", "recall", "f1", "iou_mean", "precision_mean", "recall_mean", "f1_mean")


def evaluation_facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of an evaluation at its threshold, as (what, value)."""
    model, machine = found["model"], found["machine"]
    mean_where_marked = found["iou_mean_where_marked"]
    apart = "" if mean_where_marked is None else f" ({mean_where_marked:.4f} without the images that are empty in both masks)"
    return [
        ("model", f"{model['name']}, {model['precision']}, {model['backend']}, sha256 {model['sha256']}"),
        (
            "images scored",
            f"{found['images']:,}, of which {found['empty_in_both']:,} have no marked pixel in either mask (they count as IoU 1)",
        ),
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
    """Return a row for each bin of confidence."""
    return [
        [f"{row['from']:.1f} to {row['to']:.1f}", f"{row['pixels']:,}", _score(row["confidence"]), _score(row["true_share"])]
        for row in found["calibration"]["bins"]
    ]


CALIBRATION_HEAD = ("confidence", "pixels", "mean confidence", "truly marked")


def evaluation_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield an evaluation as lines for a terminal."""
    yield from fact_lines(evaluation_facts(found))
    yield ""
    yield from _aligned(HEAD, threshold_rows(found))
    yield ""
    yield from _aligned(CALIBRATION_HEAD, calibration_rows(found))
    yield from undecodable_lines(found["undecodable"], "--json has them all")


def _aligned(head: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    for row in [list(head), *rows]:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def evaluation_page(evaluation: Evaluation, *, blur: bool) -> str:
    """Return the page: figures, and the worst images with their true masks."""
    found = evaluation.as_dict()
    return render(
        "evaluation.html",
        title=f"Masks of {evaluation.subject.name} against true masks",
        facts=evaluation_facts(found),
        legend=pictures.legend("true, and not masked", "masked, and not true", "true and masked"),
        worst=[_case(image, evaluation.options, blur) for image in evaluation.worst[: evaluation.options.pictures]],
        threshold_head=HEAD,
        thresholds=threshold_rows(found),
        calibration_head=CALIBRATION_HEAD,
        calibration=calibration_rows(found),
        undecodable=[dataclasses.astuple(item) for item in evaluation.undecodable],
    )


def _case(worst: WorstImage, options: EvaluateOptions, blur: bool) -> pictures.Case:
    score = worst.score
    title = f"{score.name}: IoU {score.iou:.4f}, precision {_score(score.precision)}, recall {_score(score.recall)}"
    decoded, read = decode(worst.labelled.image, options.decoding), read_truth(worst.labelled.mask, options.decoding)
    if isinstance(decoded, Undecodable):
        return pictures.Case(title, [], f"The image can't be shown: {decoded.message}")
    if isinstance(read, Undecodable):
        return pictures.Case(title, [], f"The true mask can't be shown: {read.message}")
    truth = read[0].view("uint8") * 255
    mask = apply_threshold(resize_map(worst.confidence, *decoded.image.size), options.threshold)
    masks = {"truth": truth, f"mask at threshold {options.threshold}": mask}
    return pictures.Case(title, pictures.compared(decoded.image, masks, "differences", blur=blur))
