"""``seseg-trt evaluate``."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import DEFAULT_MAX_PIXELS, DecodeOptions

if TYPE_CHECKING:
    from ..evaluate import Evaluation, ImageScore
    from ..quality.images import Undecodable


@click.command(name="evaluate", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--model", help="An .onnx file, a name in the cache, or 'demo'. Default: the cache's default.")
@click.option("--images", required=True, type=click.Path(), help="A folder of images.")
@click.option("--masks", required=True, type=click.Path(), help="A folder of true masks, each at its image's place: a/b.jpg has a/b.png.")
@click.option("--threshold", type=click.IntRange(0, 100), default=50, show_default=True, help="Single figures are of this one, in percent.")
@click.option("--page", type=click.Path(path_type=Path), help="Write an HTML page with the worst images, side by side.")
@click.option("--blur", is_flag=True, help="Blur the images on the page.")
@click.option("--per-image", type=click.Path(path_type=Path), help="Write every image's scores to a CSV file.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N. A named one is a promise.")
@click.option("--backend", type=click.Choice(["openvino", "onnxruntime", "tensorrt", "rtx"]), help="Force a backend.")
@click.option("--threads", type=click.IntRange(1), help="Cores for the network on a CPU. Default: all.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images that go through the network at once.")
@click.option("--exif-orientation/--no-exif-orientation", default=True, show_default=True, help="Turn images as their EXIF data say.")
@click.option("--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, show_default=True, help="Leave larger images out.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as one JSON object on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no table; errors are still shown.")
def command(
    model: str | None,
    images: str,
    masks: str,
    threshold: int,
    page: Path | None,
    blur: bool,
    per_image: Path | None,
    device: str,
    backend: Any,
    threads: int | None,
    batch: int,
    exif_orientation: bool,
    max_pixels: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Score a model's masks against true masks, at the images' sizes.

    A true mask is greyscale, 255 on what is to be marked and 0 elsewhere, of its image's size. All masks are checked before
    anything runs. An image that is empty in truth and in mask counts as IoU 1, and is counted apart.

    \b
    seseg-trt evaluate --model model.onnx --images photos --masks truth --page worst.html
    """
    from .. import cache
    from ..evaluate import EvaluateOptions, evaluate, find_pairs, open_subject
    from ..quality.evaluation_page import evaluation_lines

    decoding = DecodeOptions(exif_orientation=exif_orientation, max_pixels=max_pixels)
    options = EvaluateOptions(threshold=threshold, decoding=decoding, batch=batch)
    artifact = cache.find_model(model)
    with contextlib.ExitStack() as stack:
        from ..console import Progress, everything_to

        terminal = stack.enter_context(everything_to(Path("/dev/null")))
        if not quiet:
            terminal.write("checking the masks\n")
            terminal.flush()
        pairs = find_pairs(images, masks, decoding)
        record = _recorder(stack, per_image)
        subject = stack.enter_context(open_subject(artifact, backend=backend, device=device, threads=threads))
        progress = Progress(terminal, len(pairs.pairs), quiet=quiet)
        stack.callback(progress.close)

        def each(result: ImageScore | Undecodable) -> None:
            progress.advance(bad=not record(result))

        evaluation = evaluate(subject, pairs, options=options, each=each)
    if page is not None:
        _write_page(evaluation, page, blur)
    found = evaluation.as_dict()
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    if not quiet:
        for line in evaluation_lines(found):
            click.echo(line, err=as_json)
    return 0


def _recorder(stack: contextlib.ExitStack, path: Path | None) -> Callable[[ImageScore | Undecodable], bool]:
    """Return a function that writes an image's scores as a row, and tells whether it has any."""
    from ..errors import UsageError
    from ..quality.scores import ImageScore

    if path is None:
        return lambda result: isinstance(result, ImageScore)
    try:
        file = stack.enter_context(open(path, "w", newline="", encoding="utf-8", errors="surrogateescape"))  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"the scores can't be written to {path}: {error.strerror}", "--per-image names another place") from error
    writer = csv.writer(file)
    writer.writerow(field.name for field in dataclasses.fields(ImageScore))

    def record(result: ImageScore | Undecodable) -> bool:
        if not isinstance(result, ImageScore):
            return False
        writer.writerow(dataclasses.astuple(result))
        return True

    return record


def _write_page(evaluation: Evaluation, path: Path, blur: bool) -> None:
    from ..quality.evaluation_page import evaluation_page
    from ..quality.page import write_page

    write_page(path, evaluation_page(evaluation, blur=blur))
