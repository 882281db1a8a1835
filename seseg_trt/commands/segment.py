"""``seseg-trt segment``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import DEFAULT_MAX_PIXELS, DecodeOptions, EncodeOptions, MaskOptions
from .parsing import Threshold, both, color, failures, inputs_and_output, kinds, read_list, shard

if TYPE_CHECKING:
    from ..run.plan import WorkPlan


@click.command(name="segment", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("paths", nargs=-1, metavar="INPUT... OUTPUT_DIR", type=click.Path())
@click.option(*both("input_dir"), type=click.Path(), help="An input folder (the original program's flag).")
@click.option(*both("output_dir"), type=click.Path(), help="The output folder; then every argument is an input.")
@click.option("--files-from", type=click.Path(allow_dash=True), help="Read inputs from a file, a path a line; - is standard input.")
@click.option("--null", "-0", is_flag=True, help="The list of --files-from is separated by NUL bytes (find -print0).")
@click.option("--base", type=click.Path(), help="What the outputs' names are relative to.")
@click.option("--model", help="An .onnx file, a name in the cache, or 'demo'. Default: the cache's default.")
@click.option(
    *both("output_type"),
    default="se",
    show_default=True,
    help="se (the rest covered), nse (the explicit part covered), mask, with commas between.",
)
@click.option(*both("mask_color"), default="127,127,127", show_default=True, help="R,G,B, or 'random'.")
@click.option(
    *both("threshold"),
    type=Threshold(),
    default=None,
    help="A pixel is masked over this confidence, in percent. Default: the mask is an opacity.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random colour.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["png", "jpg", "webp"]),
    default="png",
    show_default=True,
    help="Of se and nse; a mask is PNG.",
)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of jpg and webp.")
@click.option("--subsampling", type=click.Choice(["444", "422", "420"]), default="420", show_default=True, help="Of jpg's chroma.")
@click.option(*both("keep_suffix"), is_flag=True, help="Keep the input's suffix in the outputs' names: a.jpg_se.png.")
@click.option("--exif-orientation/--no-exif-orientation", default=True, show_default=True, help="Turn images as their EXIF data say.")
@click.option("--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, show_default=True, help="Quarantine larger images.")
@click.option(
    "--decoder",
    type=click.Choice(["pillow", "dali"]),
    help="Which library decodes. Default: dali (on the GPU) with --device cuda, else pillow.",
)
@click.option(
    "--resample",
    type=click.Choice(["nearest", "linear", "cubic", "lanczos3", "triangular", "gaussian"]),
    default="nearest",
    show_default=True,
    help="How the network's input is made; it was trained with nearest. The others are DALI's.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N. A named one is a promise.")
@click.option("--backend", type=click.Choice(["openvino", "onnxruntime", "tensorrt", "rtx"]), help="Force a backend.")
@click.option("--threads", type=click.IntRange(1), help="Cores for the network on a CPU. Default: all.")
@click.option(
    "--workers", type=click.IntRange(1), help="Threads each for decoding, compositing, encoding. Default: as many as cores, 4 at most."
)
@click.option(
    "--memory", "memory_mib", type=click.IntRange(1), help="MiB of images in flight, at most. Default: 1024, and 8192 on a GPU's lane."
)
@click.option("--state", "state_dir", type=click.Path(), help="Keep the run's state here. Default: OUTPUT_DIR/.seseg, or OUTPUT.tar.seseg.")
@click.option(
    "--on-change",
    type=click.Choice(["refuse", "redo"]),
    default="refuse",
    show_default=True,
    help="Inputs done before with other options or another model.",
)
@click.option(
    "--overwrite", type=click.Choice(["skip", "redo"]), help="Outputs that are there and that no journal knows. Default: refuse to start."
)
@click.option("--retry-quarantined", is_flag=True, help="Try all quarantined inputs again.")
@click.option("--durable", is_flag=True, help="Flush every output to the disk: survives a power cut.")
@click.option("--max-failures", metavar="N|X%", help="Stop when more inputs than this fail.")
@click.option(
    "--timeout", type=click.FloatRange(0), default=300.0, show_default=True, help="Seconds that each step may take for one image; 0: any."
)
@click.option("--shard", "shard_of", metavar="I/N", help="Do the I-th of N parts of the inputs, chosen by a hash of their paths.")
@click.option("--tar-entries", type=click.IntRange(1), help="Inputs for each tar, where OUTPUT is a row of tars. Default: 10000.")
@click.option("--results", type=click.Path(), help="Write a Parquet file with a row an input: share, confidence, bounding box.")
@click.option("--rle", is_flag=True, help="With --results: each mask's COCO run lengths as well.")
@click.option("--report", type=click.Path(), help="Write a page (HTML) about the run.")
@click.option(
    "--report-images", type=click.Choice(["blurred", "clear"]), default="blurred", show_default=True, help="How the report shows images."
)
@click.option("--require-certificate", is_flag=True, help="Refuse an INT8 or FP8 model without a certificate.")
@click.option("--dry-run", is_flag=True, help="Print which input becomes which output, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary; errors are still shown.")
def command(
    paths: tuple[str, ...],
    input_dir: str | None,
    output_dir: str | None,
    files_from: str | None,
    null: bool,
    base: str | None,
    model: str | None,
    output_type: str,
    mask_color: str,
    threshold: int | None,
    seed: int,
    image_format: Any,
    quality: int,
    subsampling: Any,
    keep_suffix: bool,
    exif_orientation: bool,
    max_pixels: int,
    decoder: Any,
    resample: Any,
    device: str,
    backend: Any,
    threads: int | None,
    workers: int | None,
    memory_mib: int | None,
    state_dir: str | None,
    on_change: Any,
    overwrite: Any,
    retry_quarantined: bool,
    durable: bool,
    max_failures: str | None,
    timeout: float,
    shard_of: str | None,
    tar_entries: int | None,
    results: str | None,
    rle: bool,
    report: str | None,
    report_images: Any,
    require_certificate: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Mask images.

    INPUT is a file, a folder (read recursively, whatever the files' suffixes), a quoted glob, or a tar, whose entries are the inputs
    (a range of shards is 'data-{000000..000009}.tar'); each may be an address such as s3://bucket/folder. OUTPUT_DIR mirrors the inputs'
    tree. A name that ends in .tar makes a tar of the same files, and 'masks-%06d.tar' a row of tars of --tar-entries inputs each.
    Run the same command again to go on where it stopped.

    \b
    seseg-trt segment photos masked
    seseg-trt segment --input_dir photos --output_dir masked --output_type se,nse,mask --threshold 50
    seseg-trt segment 'shards/data-{000000..000009}.tar' 'masks-%06d.tar'
    find photos -name '*.jpg' -print0 | seseg-trt segment --files-from - -0 --base photos masked
    """
    from ..backends.select import resolve_device
    from ..console import run_shown
    from ..files import plan_files, segment_files
    from ..run_options import RunOptions

    inputs, target = inputs_and_output(list(paths), input_dir, output_dir, files_from)
    listed = None if files_from is None else read_list(files_from, null)
    masks = MaskOptions(kinds(output_type), color(mask_color), threshold, seed)
    chosen, why_not_a_gpu = resolve_device(device, backend)
    decoder = decoder or ("dali" if chosen.startswith("cuda") else "pillow")
    decoding = DecodeOptions(exif_orientation, max_pixels, decoder, resample)
    encoding = EncodeOptions(image_format, quality, subsampling)
    options = RunOptions(
        device=device,
        backend=backend,
        threads=threads,
        workers=workers,
        memory=(memory_mib or (8192 if chosen.startswith("cuda") else 1024)) << 20,
        keep_suffix=keep_suffix,
        base=base,
        state_dir=state_dir,
        on_change=on_change,
        overwrite=overwrite,
        durable=durable,
        retry=retry_quarantined,
        max_failures=failures(max_failures),
        timeout=timeout or None,
        shard=shard(shard_of),
        tar_entries=tar_entries,
        results=results,
        rle=rle,
        require_certificate=require_certificate,
    )
    if dry_run:
        _print_plan(plan_files(inputs, target, masks=masks, encoding=encoding, options=options, listed=listed), target, as_json)
        return 0
    silent = quiet or (as_json and not sys.stderr.isatty())
    if why_not_a_gpu and not silent:
        click.echo(f"running on the CPU: {why_not_a_gpu}", err=True)
    with run_shown(target, options, quiet=silent, collect=report is not None) as shown:
        summary = segment_files(
            inputs,
            target,
            model=model,
            masks=masks,
            decoding=decoding,
            encoding=encoding,
            options=options,
            listed=listed,
            watch=shown.watch,
        )
    if report is not None:
        shown.report(Path(report), summary, report_images)
    return shown.finish(summary, as_json=as_json, quiet=quiet)


def _print_plan(plan: WorkPlan, target: str, as_json: bool) -> None:
    if as_json:
        items = [
            {"input": item.source, "outputs": [f"{target}/{name}" for name in plan.naming.names(item.path).values()]} for item in plan.items
        ]
        refused = [{"input": item.source, "reason": reason, "message": message} for item, reason, message in plan.refused]
        click.echo(json.dumps({"inputs": plan.inputs, "items": items, "refused": refused, "ignored": plan.ignored}))
        return
    for item in plan.items:
        click.echo(f"{_show(item.source)} -> {', '.join(_show(f'{target}/{name}') for name in plan.naming.names(item.path).values())}")
    for item, reason, message in plan.refused:
        click.echo(f"{_show(item.source)} -> quarantine: {reason}: {message}")
    click.echo(
        f"{plan.inputs} inputs: {len(plan.items)} to mask, {plan.ignored} skipped for their names, {len(plan.refused)} quarantined",
        err=True,
    )


def _show(path: str) -> str:
    """Return a path that prints on one line whatever bytes it has."""
    return path if path.isprintable() else repr(path)
