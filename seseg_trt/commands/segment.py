"""``seseg-trt segment``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..options import DEFAULT_MAX_PIXELS, DecodeOptions, EncodeOptions, MaskOptions

if TYPE_CHECKING:
    from ..files import RunOptions
    from ..run.plan import WorkPlan
    from ..run.report import Summary


def _both(name: str) -> tuple[str, ...]:
    """Return an option's names with underscores, as the original program has them, and with hyphens."""
    names = {f"--{name}", f"--{name.replace('_', '-')}"}
    return (*sorted(names), name)


class Threshold(click.ParamType[Any]):
    """0 to 100, or ``none``."""

    name = "0..100"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for ``none`` (and for the original program's ``False``)."""
        if isinstance(value, str) and value.lower() in ("none", "false"):
            return None
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number from 0 to 100, nor 'none'", param, ctx)
        if not 0 <= number <= 100:
            self.fail(f"{number} is not within 0 to 100: it is a percentage", param, ctx)
        return number


@click.command(name="segment", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("paths", nargs=-1, metavar="INPUT... OUTPUT_DIR", type=click.Path())
@click.option(*_both("input_dir"), type=click.Path(), help="An input folder (the original program's flag).")
@click.option(*_both("output_dir"), type=click.Path(), help="The output folder; then every argument is an input.")
@click.option("--files-from", type=click.Path(allow_dash=True), help="Read inputs from a file, a path a line; - is standard input.")
@click.option("--null", "-0", is_flag=True, help="The list of --files-from is separated by NUL bytes (find -print0).")
@click.option("--base", type=click.Path(), help="What the outputs' names are relative to.")
@click.option("--model", help="An .onnx file, a name in the cache, or 'demo'. Default: the cache's default.")
@click.option(
    *_both("output_type"),
    default="se",
    show_default=True,
    help="se (the rest covered), nse (the explicit part covered), mask, with commas between.",
)
@click.option(*_both("mask_color"), default="127,127,127", show_default=True, help="R,G,B, or 'random'.")
@click.option(
    *_both("threshold"),
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
@click.option(*_both("keep_suffix"), is_flag=True, help="Keep the input's suffix in the outputs' names: a.jpg_se.png.")
@click.option("--exif-orientation/--no-exif-orientation", default=True, show_default=True, help="Turn images as their EXIF data say.")
@click.option("--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, show_default=True, help="Quarantine larger images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N. A named one is a promise.")
@click.option("--backend", type=click.Choice(["openvino", "onnxruntime", "tensorrt", "rtx"]), help="Force a backend.")
@click.option("--threads", type=click.IntRange(1), help="Cores for the network on a CPU. Default: all.")
@click.option(
    "--workers", type=click.IntRange(1), help="Threads each for decoding, compositing, encoding. Default: as many as cores, 4 at most."
)
@click.option("--memory", "memory_mib", type=click.IntRange(1), default=1024, show_default=True, help="MiB of images in flight, at most.")
@click.option("--state", "state_dir", type=click.Path(), help="Keep the run's state here. Default: OUTPUT_DIR/.seseg.")
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
    device: str,
    backend: Any,
    threads: int | None,
    workers: int | None,
    memory_mib: int,
    state_dir: str | None,
    on_change: Any,
    overwrite: Any,
    retry_quarantined: bool,
    durable: bool,
    max_failures: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Mask images.

    INPUT is a file, a folder (read recursively, whatever the files' suffixes) or a quoted glob; OUTPUT_DIR mirrors the inputs' tree.
    Run the same command again to go on where it stopped.

    \b
    seseg-trt segment photos masked
    seseg-trt segment --input_dir photos --output_dir masked --output_type se,nse,mask --threshold 50
    find photos -name '*.jpg' -print0 | seseg-trt segment --files-from - -0 --base photos masked
    """
    from ..files import RunOptions

    inputs, target = _inputs_and_output(list(paths), input_dir, output_dir, files_from)
    listed = None if files_from is None else _read_list(files_from, null)
    masks = MaskOptions(_kinds(output_type), _color(mask_color), threshold, seed)
    decoding = DecodeOptions(exif_orientation=exif_orientation, max_pixels=max_pixels)
    encoding = EncodeOptions(image_format, quality, subsampling)
    options = RunOptions(
        device=device,
        backend=backend,
        threads=threads,
        workers=workers,
        memory=memory_mib << 20,
        keep_suffix=keep_suffix,
        base=base,
        state_dir=state_dir,
        on_change=on_change,
        overwrite=overwrite,
        durable=durable,
        retry=retry_quarantined,
    )
    if dry_run:
        from ..files import plan_files

        _print_plan(plan_files(inputs, target, masks=masks, encoding=encoding, options=options, listed=listed), target, as_json)
        return 0
    summary = _run(
        inputs, target, listed, model, masks, decoding, encoding, options, max_failures, quiet or (as_json and not sys.stderr.isatty())
    )
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    elif not quiet:
        for line in summary.lines():
            click.echo(line, err=True)
    return summary.exit_code


def _run(
    inputs: list[str],
    target: str,
    listed: list[str] | None,
    model: str | None,
    masks: MaskOptions,
    decoding: DecodeOptions,
    encoding: EncodeOptions,
    options: RunOptions,
    max_failures: str | None,
    quiet: bool,
) -> Summary:
    from ..console import Progress, Signals, everything_to
    from ..files import Watch, segment_files
    from ..run.output import STATE_NAME

    with contextlib.ExitStack() as stack:
        progress: list[Progress] = []
        signals = stack.enter_context(Signals(lambda text: progress[0].note(text) if progress else None))

        def planned(plan: WorkPlan, todo: Any) -> None:
            state = Path(options.state_dir) if options.state_dir else Path(target) / STATE_NAME
            terminal = stack.enter_context(everything_to(state / "log.txt"))
            if not quiet:
                terminal.write(f"{plan.inputs} inputs, {len(todo.items)} to do; loading the network\n")
                terminal.flush()
            progress.append(Progress(terminal, len(todo.items), quiet=quiet))
            stack.callback(progress[0].close)

        def started(stop: Any) -> None:
            signals.stop = stop

        watch = Watch(planned, started, lambda row: progress[0].advance(bad=row.state == "quarantined"))
        summary = segment_files(
            inputs,
            target,
            model=model,
            masks=masks,
            decoding=decoding,
            encoding=encoding,
            options=dataclasses.replace(options, max_failures=_failures(max_failures)),
            listed=listed,
            watch=watch,
        )
        return dataclasses.replace(summary, signal=signals.received)


def _inputs_and_output(paths: list[str], input_dir: str | None, output_dir: str | None, files_from: str | None) -> tuple[list[str], str]:
    if output_dir is None:
        if not paths:
            raise UsageError("no output folder was named", "seseg-trt segment INPUT... OUTPUT_DIR, or --input_dir DIR --output_dir DIR")
        output_dir = paths.pop()
    if input_dir is not None:
        paths.insert(0, input_dir)
    if not paths and files_from is None:
        raise UsageError("no input was named", "seseg-trt segment INPUT... OUTPUT_DIR: files, folders, globs, or --files-from FILE")
    return paths, output_dir


def _read_list(name: str, null: bool) -> list[str]:
    import os

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"the list {name} can't be read: {error.strerror}") from error
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def _kinds(text: str) -> tuple[Any, ...]:
    if text == "none":
        return ()
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _color(text: str) -> Any:
    if text == "random":
        return "random"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no colour", "give R,G,B with each of 0 to 255, or 'random'") from None


def _failures(text: str | None) -> int | float | None:
    if text is None:
        return None
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return share
        elif int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise UsageError(f"--max-failures {text!r} is neither a number nor a percentage", "give 100, or 5%")


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
