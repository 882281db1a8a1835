"""Build a TensorRT plan: ``seseg-trt build``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..models.plan_identity import DEFAULT_PROFILES, BuildOptions, HardwareCompatibility, Runtime, TilingLevel, parse_profile, parse_targets
from .option_groups import FILES
from .verb import FILE, SWITCH, Flag, OptionGroup, choice, count, text, under, verb


def _options(target: str | None, batches: tuple[str, ...], **fields: Any) -> BuildOptions:
    profiles = tuple(parse_profile(batch) for batch in batches) or DEFAULT_PROFILES
    return BuildOptions(targets=parse_targets(target) if target else (), profiles=profiles, **fields)


_TARGET = (
    Flag("--runtime", choice(Runtime), "Build for this runtime; rtx needs no GPU to build.", "tensorrt"),
    Flag("--target", text("SM,..."), "Build for GPUs of these compute capabilities: sm86,sm89,sm120 (rtx alone)."),
    Flag("--hardware-compatibility", choice(HardwareCompatibility), "Build for these other GPUs too.", "none"),
    Flag("--version-compatible", SWITCH, "Build for later releases of the same major version too."),
)
_SEARCH = (
    Flag("--batch batches", text("MIN:OPT:MAX"), "Add a batch profile; may be repeated. One number is a fixed batch.", multiple=True),
    Flag("--workspace", count("BYTES"), "Let a layer take at most this much scratch memory."),
    Flag("--optimization-level", count("0..5", 0, 5), "Let TensorRT search longer with a higher level."),
    Flag("--tiling-level", choice(TilingLevel), "Try this hard to keep tiles in the L2 cache."),
    Flag("--timing-cache", FILE, "Read layer timings from FILE, and add new ones to it."),
)
options = OptionGroup("options", _options, {"Where the plan runs": _TARGET, "How it is built": _SEARCH})


@verb("build")
@under(
    FILES,
    Flag("--model", text("MODEL"), "Build from an .onnx file, a model in the cache by its name, or 'demo'.", required=True),
    Flag("--precision", text("NAME"), "Take this graph of a model in the cache.", "fp32"),
    Flag("--out", FILE, "Write the plan to FILE.", required=True),
)
@options
def command(model: str, precision: str, out: Path, options: BuildOptions) -> int:
    """Build a TensorRT plan from a graph.

    \b
    seseg-trt build --model model.fp16.onnx --batch 1:32:128 --out model.plan
    seseg-trt build --model demo --runtime rtx --target sm86,sm89,sm120 --batch 1 --batch 1:8:32 --out demo.plan
    """
    from ..backends.tensorrt_build import build_plan
    from ..models import cache
    from .ticker import Ticker

    artifact = cache.find_model(model, precision=precision)
    if artifact.kind != "onnx":
        raise UsageError(f"{artifact.path} is a plan already", "plans are built from an ONNX graph: give --model an .onnx file")
    click.echo(f"building {out} from {artifact}", err=True)
    start = time.monotonic()
    with Ticker(sys.stderr) as ticker:
        identity = build_plan(artifact.path, out, options, ticker.tell)
    click.echo(f"{out}: {identity}; {identity.plan_bytes:,} bytes, {time.monotonic() - start:.1f} s", err=True)
    return 0
