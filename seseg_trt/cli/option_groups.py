"""Declare the flags that commands share, and groups of them: a group adds its flags to a command and hands over the value that they make.

The choices come from the Literal types of :mod:`seseg_trt.options`; :mod:`seseg_trt.cli.option_types` reads the other texts.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from .. import options
from ..backends.select import resolve_device
from ..errors import UsageError
from ..options import BackendName, DecodeOptions, EncodeOptions, MaskOptions, ReportImages, RunOptions
from .option_types import color, failures, kinds, read_list, shard, threshold
from .verb import FILE, SWITCH, Flag, OptionGroup, choice, count, number, place, text

FILES = "Inputs and outputs"
DECODING = "Reading images"
NETWORK = "Network and device"
SCORES = "Scores and pages"
RUN = "Resuming and failures"
RESULTS = "Results and progress"

MODEL = Flag(
    "--model", text("MODEL"), "Run an .onnx file, a plan, a model in the cache by its name, or 'demo'.", shown="the cache's default"
)
DEVICE = Flag("--device", text("DEVICE"), "Run on cpu, cuda or cuda:N; auto takes a GPU where one can be used.", "auto")
DEVICES = Flag(
    "--device", text("DEVICE"), "Run on cpu, cuda, cuda:N or several (cuda:0,1); auto takes a GPU where one can be used.", "auto"
)
BACKEND = Flag("--backend", choice(BackendName), "Force a backend; the model and the device choose it otherwise.")
PROCESSES = Flag("--processes", count("K"), "Run K worker processes for each device.", shown="1")
THREADS = Flag("--threads", count(), "Use N cores for a network on a CPU.", shown="all")
STATE = Flag("--state state_dir", place("DIR"), "Keep the run's state in DIR.", shown="OUTPUT_DIR/.seseg or OUTPUT.tar.seseg")
JSON = Flag("--json as_json", SWITCH, "Print the result as one JSON object on standard output.")
QUIET = Flag("--quiet -q", SWITCH, "Show errors alone: no progress and no summary.")

_DECODING = (
    Flag("--exif-orientation/--no-exif-orientation", {}, "Turn images as their EXIF data say.", True, shown="--exif-orientation"),
    Flag("--max-pixels", count(), "Leave out images with more than N pixels.", options.DEFAULT_MAX_PIXELS),
    Flag("--frames", choice(options.Frames), "Leave out animations and files of several pages, or take their first picture.", "refuse"),
)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads, and where it writes.

    Attributes:
        paths: files, folders, globs and tars.
        target: the output folder or tar.
        listed: the paths of ``--files-from``, or None.
    """

    paths: list[str]
    target: str
    listed: list[str] | None


def _inputs(paths: tuple[str, ...], input_dir: str | None, output_dir: str | None, files_from: str | None, null: bool) -> Inputs:
    found = list(paths)
    if output_dir is None:
        if not found:
            raise UsageError("no output folder was named", "seseg-trt segment INPUT... OUTPUT_DIR, or --input_dir DIR --output_dir DIR")
        output_dir = found.pop()
    if input_dir is not None:
        found.insert(0, input_dir)
    if not found and files_from is None:
        raise UsageError("no input was named", "seseg-trt segment INPUT... OUTPUT_DIR: files, folders, globs, or --files-from FILE")
    return Inputs(found, output_dir, None if files_from is None else read_list(files_from, null))


_INPUTS = (
    Flag("--input-dir", place("DIR"), "Add this folder to the inputs."),
    Flag("--output-dir", place("DIR"), "Write the outputs here; every argument is an input then."),
    Flag("--files-from", place("FILE", allow_dash=True), "Read inputs from FILE, a path a line; - is standard input."),
    Flag("--null -0", SWITCH, "Split the --files-from list at NUL bytes, as find -print0 does."),
)
inputs = OptionGroup("inputs", _inputs, {FILES: _INPUTS})

_KINDS = "Make se (all but the explicit part covered), nse (the explicit part covered) or mask; several with commas, or none."
_MASKS = (
    Flag("--output-type outputs", text("KINDS", kinds), _KINDS, "se"),
    Flag("--mask-color color", text("R,G,B", color), "Cover with a colour or with 'random' noise.", "127,127,127"),
    Flag(
        "--threshold",
        text("0..100", threshold),
        "Mask the pixels whose confidence is over this percentage.",
        shown="none: confidence is opacity",
    ),
    Flag("--seed", {"metavar": "N", "type": int}, "Seed the random noise.", 0),
)
masks = OptionGroup("masks", MaskOptions, {"Masks": _MASKS})


def _is_gpu(device: str, backend: BackendName | None) -> bool:
    return resolve_device(device, backend)[0].startswith("cuda")


def _decoding(device: str, backend: BackendName | None, decoder: options.Decoder | None, **fields: Any) -> DecodeOptions:
    return DecodeOptions(decoder=decoder or ("dali" if _is_gpu(device, backend) else "pillow"), **fields)


_FILTER = "Make the network's input with this filter; it was trained with nearest, and the others need dali."
_DECODERS = (
    Flag("--decoder", choice(options.Decoder), "Decode with this library.", shown="dali with --device cuda, else pillow"),
    Flag("--resample", choice(options.Resample), _FILTER, "nearest"),
)
decoding = OptionGroup("decoding", _decoding, {DECODING: (*_DECODING, *_DECODERS)})

_ENCODING = (
    Flag("--format", choice(options.ImageFormat), "Write se and nse in this format; a mask is PNG.", "png"),
    Flag("--quality", count("1..100", 1, 100), "Set the quality of jpg and webp.", 90),
    Flag("--subsampling", choice(options.Subsampling), "Set the chroma subsampling of jpg.", "420"),
)
encoding = OptionGroup("encoding", EncodeOptions, {"Writing images": _ENCODING})


def _run(
    device: str, backend: BackendName | None, memory: int | None, timeout: float, page: Path | None = None, **fields: Any
) -> RunOptions:
    fields["statistics"] = page is not None
    mebibytes = memory or (8192 if _is_gpu(device, backend) else 1024)
    return RunOptions(device=device, backend=backend, memory=mebibytes << 20, timeout=timeout or None, **fields)


PATTERNS = {"multiple": True, "metavar": "GLOB"}
_NAMING = (
    Flag("--include", PATTERNS, "Take the inputs alone whose name (or relative path, with a /) matches; may be repeated."),
    Flag("--exclude", PATTERNS, "Leave out the inputs whose name (or relative path, with a /) matches; may be repeated."),
    Flag("--base", place("DIR"), "Name outputs by their inputs' paths relative to DIR."),
    Flag("--keep-suffix", SWITCH, "Keep the input's suffix in the outputs' names: a.jpg_se.png."),
    Flag("--tar-entries", count(), "Put N inputs into each tar, where OUTPUT_DIR is a row of tars.", shown="10000"),
    Flag("--shard", text("I/N", shard), "Do part I of N; a hash of its path puts each input into a part."),
)
_THREADS = "Use N threads each for decoding, compositing and encoding."
_HARDWARE = (
    Flag("--workers", count(), _THREADS, shown="as many as cores, 4 at most"),
    Flag("--memory", count("MIB"), "Keep at most this many MiB of images in flight.", shown="1024, on a GPU 8192"),
    Flag("--require-certificate", SWITCH, "Refuse an INT8 or FP8 model without a certificate."),
)
_OVERWRITE = "Skip or redo inputs whose outputs are there but in no journal."
_RESUMING = (
    Flag("--on-change", choice(options.OnChange), "Refuse or redo what was done with other options or another model.", "refuse"),
    Flag("--overwrite", choice(options.Overwrite), _OVERWRITE, shown="refuse to start"),
    Flag("--retry-quarantined retry", SWITCH, "Try all quarantined inputs again."),
    Flag("--durable", SWITCH, "Flush every output to the disk, so that it survives a power cut."),
    Flag("--max-failures", text("N|X%", failures), "Stop when more inputs than this fail."),
    Flag("--timeout", number("SECONDS"), "Quarantine an image when a step takes longer; 0 is no limit.", 300.0),
)
_MEASURES = (
    Flag("--results", place("FILE"), "Write each mask's share, confidence and bounding box as Parquet."),
    Flag("--rle", SWITCH, "Add each mask's COCO run lengths to --results."),
)
run = OptionGroup(
    "run", _run, {FILES: _NAMING, NETWORK: (DEVICES, BACKEND, PROCESSES, THREADS, *_HARDWARE), RUN: (STATE, *_RESUMING), RESULTS: _MEASURES}
)


@dataclasses.dataclass(frozen=True)
class Network:
    """Where a network runs; see :func:`seseg_trt.backends.select.create_backend`.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: the one to force, or None.
        threads: cores on a CPU, or None for all.
    """

    device: str
    backend: BackendName | None
    threads: int | None


network = OptionGroup("network", Network, {NETWORK: (DEVICE, BACKEND, THREADS)})

_BATCH = Flag("--batch", count(), "Send N images through a network at once.", 8)
_THRESHOLD = Flag("--threshold", count("0..100", 0, 100), "Compare masks at this threshold, in percent.", 50)


def measuring(make: Any, *more: Flag) -> OptionGroup:
    """Return the options of a measurement: what ``make`` makes of a threshold, a batch, how to decode, and ``more`` about its scores."""

    def made(threshold: int, batch: int, exif_orientation: bool, max_pixels: int, frames: options.Frames, **fields: Any) -> Any:
        decoding = DecodeOptions(exif_orientation, max_pixels, frames)
        return make(threshold=threshold, decoding=decoding, batch=batch, **fields)

    return OptionGroup("options", made, {DECODING: _DECODING, NETWORK: (_BATCH,), SCORES: (_THRESHOLD, *more)})


@dataclasses.dataclass(frozen=True)
class Display:
    """What a command shows.

    Attributes:
        as_json: one JSON object on standard output.
        quiet: errors alone.
    """

    as_json: bool
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether to show no progress: a program that reads the JSON object has no use for it."""
        return self.quiet or (self.as_json and not sys.stderr.isatty())


display = OptionGroup("display", Display, {RESULTS: (JSON, QUIET)})


@dataclasses.dataclass(frozen=True)
class Report(Display):
    """What ``segment`` shows, and the page that it writes.

    Attributes:
        page: the HTML file, or None.
        images: how the page shows images.
        dry_run: show the work plan, and stop.
    """

    page: Path | None
    images: ReportImages
    dry_run: bool


_REPORT = (
    Flag("--report page", FILE, "Write an HTML page about the run."),
    Flag("--report-images images", choice(ReportImages), "Show images blurred or clear on that page.", "blurred"),
    Flag("--dry-run", SWITCH, "Print which input becomes which output, and stop."),
)
report = OptionGroup("report", Report, {RESULTS: (*_REPORT, JSON, QUIET)})
