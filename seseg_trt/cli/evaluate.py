"""Score a model: ``seseg-trt evaluate``."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..quality.options import EvaluateOptions
from .option_groups import FILES, MODEL, NETWORK, SCORES, Display, Network, display, measuring, network
from .verb import FILE, SWITCH, Flag, place, under, verb

if TYPE_CHECKING:
    from ..quality.evaluate import ImageScore
    from ..quality.images import Undecodable

options = measuring(EvaluateOptions)

_IMAGES = "Score the masks of these images: a folder, a glob, a tar, an address."
_MASKS = "Compare with these true masks, likewise: a/b.png is for a/b.jpg."


@verb("evaluate")
@under(FILES, Flag("--images", place("PATH"), _IMAGES, required=True), Flag("--masks", place("PATH"), _MASKS, required=True))
@under(NETWORK, MODEL)
@network
@options
@under(
    SCORES,
    Flag("--page", FILE, "Write an HTML page with the worst images, side by side."),
    Flag("--blur", SWITCH, "Blur the images on the page."),
    Flag("--per-image", FILE, "Write every image's scores to a CSV file."),
)
@display
def command(
    images: str,
    masks: str,
    model: str | None,
    network: Network,
    options: EvaluateOptions,
    page: Path | None,
    blur: bool,
    per_image: Path | None,
    display: Display,
) -> int:
    """Score a model's masks against true masks, at the images' sizes.

    A true mask is greyscale, of its image's size, 255 where it is marked and 0 elsewhere. All masks are checked before the network
    runs. An image without a marked pixel in either mask counts as IoU 1, and is counted apart.

    \b
    seseg-trt evaluate --model model.onnx --images photos --masks truth --page worst.html
    seseg-trt evaluate --model model.onnx --images s3://bucket/photos --masks truth.tar
    """
    from ..models import cache
    from ..quality.evaluate import ImageScore, evaluate, find_pairs
    from ..reports.evaluation_page import evaluation_lines, evaluation_page
    from ..reports.html import write_page
    from .console import MeasurementConsole

    artifact = cache.find_model(model)
    with MeasurementConsole("checking the masks", quiet=display.quiet) as shown:
        pairs = find_pairs(images, masks, options.decoding)
        record = shown.enter_context(_recorder(per_image))
        (subject,) = shown.load((artifact, network))
        progress = shown.count(len(pairs.pairs))

        def each(result: ImageScore | Undecodable) -> None:
            scored = isinstance(result, ImageScore)
            if scored:
                record(dataclasses.astuple(result))
            progress.advance(bad=not scored)

        evaluation = evaluate(subject, pairs, options=options, each=each)
    if page is not None:
        write_page(page, evaluation_page(evaluation, blur=blur))
    found = evaluation.as_dict()
    if display.as_json:
        click.echo(json.dumps(found, allow_nan=False))
    if not display.quiet:
        click.echo("\n".join(evaluation_lines(found)), err=display.as_json)
    return 0


@contextlib.contextmanager
def _recorder(path: Path | None) -> Iterator[Callable[[tuple[object, ...]], object]]:
    """Yield a function that writes an image's scores as a row of a CSV file."""
    from ..quality.scores import ImageScore
    from ..storage.atomic import unwritable

    if path is None:
        yield lambda row: None
        return
    with unwritable("the scores", path, "--per-image names another place"):
        file = open(path, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    with file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in dataclasses.fields(ImageScore))
        yield writer.writerow
