"""``seseg-trt build``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError


@click.command(name="build", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--model", required=True, help="An .onnx file, a name in the cache, or 'demo'. Its precision is the plan's.")
@click.option("--runtime", type=click.Choice(["tensorrt", "rtx"]), default="tensorrt", show_default=True, help="rtx needs no GPU to build.")
@click.option("--target", help="For rtx: the GPUs' compute capabilities, as sm86,sm89,sm120.")
@click.option(
    "--batch", "batches", multiple=True, metavar="MIN:OPT:MAX", help="A batch profile; may be repeated. One number is a fixed batch."
)
@click.option("--precision", default="fp32", show_default=True, help="Which graph of a cache entry.")
@click.option("--workspace", type=click.IntRange(1), metavar="BYTES", help="The most scratch memory that a layer may take.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="How long TensorRT may search.")
@click.option(
    "--tiling-level", type=click.Choice(["none", "fast", "moderate", "full"]), help="How hard it tries to keep tiles in the L2 cache."
)
@click.option(
    "--hardware-compatibility", type=click.Choice(["none", "ampere_plus", "same_compute_capability"]), default="none", show_default=True
)
@click.option("--version-compatible", is_flag=True, help="Runs under later releases of the same major version too.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="A file of layer timings, read and brought up to date.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The plan's file.")
def command(
    model: str,
    runtime: Any,
    target: str | None,
    batches: tuple[str, ...],
    precision: str,
    workspace: int | None,
    optimization_level: int | None,
    tiling_level: Any,
    hardware_compatibility: Any,
    version_compatible: bool,
    timing_cache: Path | None,
    out: Path,
) -> int:
    """Build a TensorRT plan from a graph.

    \b
    seseg-trt build --model model.fp16.onnx --batch 1:32:128 --out model.plan
    seseg-trt build --model demo --runtime rtx --target sm86,sm89,sm120 --batch 1 --batch 1:8:32 --out demo.plan
    """
    from .. import cache
    from ..backends.tensorrt_build import build_plan
    from ..plan_identity import DEFAULT_PROFILES, BuildOptions, parse_profile, parse_targets
    from ..ticker import Ticker

    artifact = cache.find_model(model, precision=precision)
    if artifact.kind != "onnx":
        raise UsageError(f"{artifact.path} is a plan already", "plans are built from an ONNX graph: give --model an .onnx file")
    options = BuildOptions(
        runtime=runtime,
        targets=parse_targets(target) if target else (),
        profiles=tuple(parse_profile(batch) for batch in batches) or DEFAULT_PROFILES,
        workspace=workspace,
        optimization_level=optimization_level,
        tiling_level=tiling_level,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    click.echo(f"building {out} from {artifact}", err=True)
    start = time.monotonic()
    with Ticker(sys.stderr) as ticker:
        identity = build_plan(artifact.path, out, options, ticker.tell)
    click.echo(f"{out}: {identity}; {identity.plan_bytes:,} bytes, {time.monotonic() - start:.1f} s", err=True)
    return 0
