"""Mask images: ``seseg-trt segment``."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions, RunOptions
from ..storage.atomic import check_writable, unwritable
from .option_groups import MODEL, NETWORK, Inputs, Report, decoding, encoding, inputs, masks, report, run
from .terminal import say
from .verb import under, verb

SHOWN = "the outputs SHOW the explicit part and cover all else, with translucent edges; --output_type nse --threshold 50 covers it"

if TYPE_CHECKING:
    from ..run.plan import WorkPlan


@verb("segment")
@click.argument("paths", nargs=-1, metavar="INPUT... OUTPUT_DIR", type=click.Path())
@inputs
@masks
@decoding
@encoding
@under(NETWORK, MODEL)
@run
@report
def command(
    inputs: Inputs,
    masks: MaskOptions,
    decoding: DecodeOptions,
    encoding: EncodeOptions,
    model: str | None,
    run: RunOptions,
    report: Report,
) -> int:
    """Mask images.

    \b
    INPUT       a file, a folder (with all that is below it), a quoted glob, or a
                tar whose entries are the inputs ('data-{000000..000009}.tar' is ten).
    OUTPUT_DIR  a folder that mirrors the inputs' tree, a tar (masked.tar) of the
                same files, or a row of tars ('masked-%06d.tar').
    - -         mask one image from standard input to standard output.

    Inputs and outputs may lie in an object store: s3://bucket/folder. The same command resumes a run that was stopped. A flag may be
    written with underscores, as in the original program.

    \b
    seseg-trt segment photos masked
    seseg-trt segment --input_dir photos --output_dir masked --output_type se,nse,mask --threshold 50
    seseg-trt segment 'shards/data-{000000..000009}.tar' 'masks-%06d.tar'
    seseg-trt segment - - --output_type nse --threshold 50 <photo.jpg >covered.png
    find photos -name '*.jpg' -print0 | seseg-trt segment --files-from - -0 --base photos masked
    """
    from ..files import plan_files, segment_files
    from .console import run_shown

    given = click.get_current_context().get_parameter_source
    if not (report.silent or report.dry_run) and all(given(name) is ParameterSource.DEFAULT for name in ("outputs", "threshold")):
        say(SHOWN)
    if inputs.paths == ["-"] and inputs.target == "-":
        from .pipe import segment_stream

        if report.page is not None or run.results is not None or report.dry_run or report.as_json:
            raise UsageError("one image between streams has no report, no results and no plan", "name an output folder for these")
        return segment_stream(model, LaneOptions(masks, decoding, encoding), run)
    what: dict[str, Any] = {"masks": masks, "encoding": encoding, "options": run, "listed": inputs.listed}
    if report.dry_run:
        _print_plan(plan_files(inputs.paths, inputs.target, **what), inputs.target, report.as_json)
        return 0
    if report.page is not None:
        with unwritable("the report", report.page, "give --report a file in a folder that can be written"):
            check_writable(report.page)
    with run_shown(inputs.target, run, quiet=report.silent, collect=report.page is not None) as shown:
        summary = segment_files(inputs.paths, inputs.target, model=model, decoding=decoding, observer=shown.observer, **what)
    if report.page is not None and shown.collector is not None:
        from ..reports.run_page import write_page

        write_page(report.page, summary, shown.collector, report.images, _about(masks, decoding, encoding))
    return shown.finish(summary, as_json=report.as_json, quiet=report.quiet, page=report.page)


def _about(*options: Any) -> list[tuple[str, str]]:
    """Return what the page says of the command and its options."""
    said = [f"{field.name} {getattr(group, field.name)}" for group in options for field in dataclasses.fields(group)]
    return [("command", shlex.join(["seseg-trt", *sys.argv[1:]])), ("options", "; ".join(said))]


def _print_plan(plan: WorkPlan, target: str, as_json: bool) -> None:
    items = [(item.source, [f"{target}/{name}" for name in plan.naming.names(item.path).values()]) for item in plan.items]
    if as_json:
        made = [{"input": source, "outputs": outputs} for source, outputs in items]
        refused = [{"input": item.source, "reason": reason, "message": message} for item, reason, message in plan.refused]
        click.echo(json.dumps({"inputs": plan.inputs, "items": made, "refused": refused, "ignored": plan.ignored}))
        return
    for source, outputs in items:
        click.echo(f"{_show(source)} -> {', '.join(map(_show, outputs))}")
    for item, reason, message in plan.refused:
        click.echo(f"{_show(item.source)} -> quarantine: {reason}: {message}")
    counts = f"{len(plan.items)} to mask, {plan.ignored} skipped for their names, {len(plan.refused)} quarantined"
    click.echo(f"{plan.inputs} inputs: {counts}", err=True)


def _show(path: str) -> str:
    """Return a path that prints on one line whatever bytes it has."""
    return path if path.isprintable() else repr(path)
