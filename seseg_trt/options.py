"""Hold the user's options as frozen values, which are checked when they are made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from numbers import Integral
from typing import Literal, get_args

from .cores import usable_cores
from .errors import UsageError

OutputKind = Literal["se", "nse", "mask"]
ImageFormat = Literal["png", "jpg", "webp"]
Decoder = Literal["pillow", "dali"]
Frames = Literal["refuse", "first"]
Resample = Literal["nearest", "linear", "cubic", "lanczos3", "triangular", "gaussian"]
Subsampling = Literal["444", "422", "420"]
OnChange = Literal["refuse", "redo"]
Overwrite = Literal["skip", "redo"]
ReportImages = Literal["blurred", "clear"]
Measure = Literal["stats", "rle"] | None
"""What to measure of each mask: nothing, its statistics, or its statistics and its run lengths."""

BackendName = Literal["openvino", "onnxruntime", "tensorrt", "rtx"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
CPU_BACKENDS: tuple[BackendName, ...] = ("openvino", "onnxruntime")

OUTPUT_SUFFIX: dict[OutputKind, str] = {"se": "se", "nse": "nse", "mask": "pred"}
"""The last part of an output's name, as the original program writes it (``NAME_pred.png`` is the mask)."""

DEFAULT_MAX_PIXELS = 178_956_970
"""The size from which Pillow treats an image as a decompression bomb: twice its warning limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class MaskOptions:
    """What to make of a confidence map.

    Attributes:
        outputs: which of ``se``, ``nse`` and ``mask`` to make, each at most once. An empty tuple makes none.
        color: the mask colour as (R, G, B), each 0..255, or ``"random"`` for noise.
        threshold: 0..100. The mask is 255 where the map is over 255 * threshold / 100, else 0. None uses the map as an opacity.
        seed: the seed of the noise.
    """

    outputs: tuple[OutputKind, ...] = ("se",)
    color: tuple[int, int, int] | Literal["random"] = (127, 127, 127)
    threshold: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.outputs:
            if kind not in OUTPUT_SUFFIX:
                raise UsageError(f"there is no output type {kind!r}", f"choose from {', '.join(OUTPUT_SUFFIX)}")
        if len(set(self.outputs)) != len(self.outputs):
            raise UsageError("an output type is named twice", "name each of se, nse and mask at most once")
        if self.color != "random" and (isinstance(self.color, str) or len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color)):
            raise UsageError(f"{self.color} is no colour", "give R,G,B with each of 0 to 255, or 'random'")
        if self.threshold is None:
            return
        if not isinstance(self.threshold, Integral) or isinstance(self.threshold, bool):
            raise UsageError(f"the threshold {self.threshold!r} is not a whole number", "it is a percentage: 50 is one half, not 0.5")
        if not 0 <= self.threshold <= 100:
            raise UsageError(f"the threshold {self.threshold} is not within 0 to 100", "it is a percentage")


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How bytes become pixels.

    Attributes:
        exif_orientation: turn the image as its EXIF orientation says. The original program did not.
        max_pixels: quarantine images with more pixels, before they are decoded.
        frames: an image that has several pictures (an animation, a TIFF of several pages): ``refuse`` quarantines it, ``first`` masks
            the first and leaves the others out, as the original program did. Other sizes of one picture (MPO, ICO, thumbnails) are one.
        decoder: the library that decodes.
        resample: the filter that makes the network's input. The network was trained with ``nearest``, which is reproduced exactly; the
            others are DALI's filters.
    """

    exif_orientation: bool = True
    max_pixels: int = DEFAULT_MAX_PIXELS
    frames: Frames = "refuse"
    decoder: Decoder = "pillow"
    resample: Resample = "nearest"

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError(f"max_pixels {self.max_pixels} admits no image", "give 1 or more")
        if self.frames not in get_args(Frames):
            raise UsageError(f"frames can't be {self.frames!r}", f"choose from {', '.join(get_args(Frames))}")
        if self.decoder not in get_args(Decoder):
            raise UsageError(f"there is no decoder {self.decoder!r}", f"choose from {', '.join(get_args(Decoder))}")
        if self.resample not in get_args(Resample):
            raise UsageError(f"there is no filter {self.resample!r}", f"choose from {', '.join(get_args(Resample))}")
        if self.resample != "nearest" and self.decoder != "dali":
            raise UsageError(f"the filter {self.resample} is DALI's", "choose the decoder dali")

    @property
    def max_file_bytes(self) -> int:
        """Return the size of the largest honest file in bytes: 16-bit RGBA, uncompressed, with room for its metadata."""
        return self.max_pixels * 8 + (64 << 20)


@dataclasses.dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How pixels become bytes.

    Attributes:
        format: ``png`` is lossless; ``jpg`` and ``webp`` are for viewing. A mask is always PNG, since a lossy mask is not exact.
        quality: the quality of jpg and webp, 1..100.
        subsampling: the chroma subsampling of jpg.
    """

    format: ImageFormat = "png"
    quality: int = 90
    subsampling: Subsampling = "420"

    def __post_init__(self) -> None:
        if self.format not in get_args(ImageFormat):
            raise UsageError(f"there is no format {self.format!r}", f"choose from {', '.join(get_args(ImageFormat))}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"the quality {self.quality} is not within 1 to 100", "90 is the default")
        if self.subsampling not in get_args(Subsampling):
            raise UsageError(f"there is no subsampling {self.subsampling!r}", f"choose from {', '.join(get_args(Subsampling))}")


@dataclasses.dataclass(frozen=True, slots=True)
class LaneOptions:
    """What a lane makes of an image, and how.

    Attributes:
        masks, decoding, encoding: see there.
        measure: what of each mask is measured.
    """

    masks: MaskOptions = MaskOptions()
    decoding: DecodeOptions = DecodeOptions()
    encoding: EncodeOptions = EncodeOptions()
    measure: Measure = None

    def digest(self) -> str:
        """Return a SHA-256 (hex) of all that decides an output's bytes, the model aside."""
        # Reset options that cannot affect the output, so that they do not change the digest. The kinds of output have names of their
        # own; a bound on pixels or pictures changes who is quarantined, not how a mask looks.
        masks = dataclasses.replace(self.masks, outputs=(), seed=self.masks.seed if self.masks.color == "random" else 0)
        decoding = dataclasses.replace(self.decoding, max_pixels=1, frames="refuse")
        encoding = EncodeOptions(self.encoding.format) if self.encoding.format == "png" else self.encoding
        text = json.dumps([[type(o).__name__, dataclasses.asdict(o)] for o in (masks, decoding, encoding)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def check_device(device: str) -> None:
    """Raise UsageError unless ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"there is no device {device!r}", "choose auto, cpu, cuda or cuda:N")


def split_devices(text: str) -> list[str]:
    """Return the devices that ``cuda:0,1`` or ``cuda:0,cpu`` names, one by one.

    Raises:
        UsageError: one of them is no device, or a GPU is named twice.
    """
    devices: list[str] = []
    for part in text.split(","):
        kind = devices[-1].partition(":")[0] if devices else ""
        devices.append(f"{kind}:{part}" if re.fullmatch(r"\d+", part) and kind else part)
    for device in devices:
        check_device(device)
    if len(set(devices)) < len(devices):
        raise UsageError(f"{text!r} names a device twice", "name each once; processes=K makes K worker processes for each")
    return devices


@dataclasses.dataclass(frozen=True)
class ResumePolicy:
    """What the user wants where there is something already.

    Attributes:
        on_change: when an input was done with other options or another model: raise, or make it again.
        overwrite: when an output is there that the journal does not know: None raises, ``skip`` keeps it and leaves its
            input alone, ``redo`` replaces it.
        retry: try everything quarantined again.
        measured: what is done without having been measured for ``--results`` is done again; ``rle``: or without its RLE.
    """

    on_change: OnChange = "refuse"
    overwrite: Overwrite | None = None
    retry: bool = False
    measured: Measure = None


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """How hard to run.

    Attributes:
        workers: threads each for decoding, compositing and encoding.
        memory: bytes in flight, at most (a single larger image is let in alone).
        max_file_bytes: larger files are quarantined unread.
        timeout: seconds that each of decoding, inferring, compositing and encoding may take for one image; None: for ever.
        readers: threads that read, and that write; more than one pays where each access takes long.
    """

    workers: int
    memory: int = 1 << 30
    max_file_bytes: int = 4 << 30
    timeout: float | None = None
    readers: int = 1


READERS_OF_A_STORE = 16
"""Threads that read from and write to an object store, where each access takes long and costs no core."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run over files goes; none of it changes an output's bytes.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or several with commas between (``cuda:0,1``): a process each.
        backend: force one; None: the artifact and the device decide.
        processes: worker processes for each device. With 0 the caller's process does the work: it starts sooner, and an image on
            which a decoder dies ends it. None: 1, or 0 with a ready backend.
        threads: cores for a CPU backend in each process; None: all, shared between the processes.
        workers: threads each for decoding, compositing and encoding in each process; None: as many as its cores, 4 at most.
        memory: bytes of images in flight, at most, shared between the processes.
        keep_suffix: the input's suffix stays in the outputs' names.
        include, exclude: patterns of inputs' relative paths: only those that match one of ``include`` (where there are any) and none of
            ``exclude`` are inputs. ``*`` matches any characters, a ``/`` too; case counts. A pattern without a ``/`` is of the name alone.
        base: what names are relative to; None: see the README's section on inputs.
        state_dir: where the journal is kept; None: ``OUTPUT_DIR/.seseg``.
        on_change: inputs done with other options or another model: ``refuse`` or ``redo``.
        overwrite: outputs that no journal knows: None refuses, ``skip``, ``redo``.
        durable: flush every output to the disk.
        retry: try all that was quarantined again.
        max_failures: stop when more inputs than this fail; a float is a share of all inputs.
        timeout: seconds that each step may take for one image; None: for ever.
        shard: (i, n): do only the inputs of shard i of 1..n.
        results: a Parquet file to write, a row an input; None: none.
        tar_entries: inputs for each tar, where the output is a row of tars; None: 10000.
        rle: with ``results``: run lengths of each mask as well.
        statistics: measure each mask for the observer, also without ``results``.
        require_certificate: refuse an INT8 or FP8 model without a certificate.
    """

    device: str = "auto"
    backend: BackendName | None = None
    processes: int | None = None
    threads: int | None = None
    workers: int | None = None
    memory: int = 1 << 30
    keep_suffix: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    base: str | None = None
    state_dir: str | None = None
    on_change: OnChange = "refuse"
    overwrite: Overwrite | None = None
    durable: bool = False
    retry: bool = False
    max_failures: int | float | None = None
    timeout: float | None = 300.0
    shard: tuple[int, int] | None = None
    results: str | None = None
    tar_entries: int | None = None
    rle: bool = False
    statistics: bool = False
    require_certificate: bool = False

    def __post_init__(self) -> None:
        split_devices(self.device)
        for name in ("threads", "workers", "memory", "tar_entries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} can't be {value}", "give 1 or more")
        if self.processes is not None and self.processes < 0:
            raise UsageError(f"processes can't be {self.processes}", "give 1 or more, or 0 for the caller's process")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"a timeout of {self.timeout} seconds lets nothing through", "give more than 0, or None for no limit")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"there is no shard {self.shard[0]}/{self.shard[1]}", "shards are 1/n to n/n")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} is a text, {getattr(self, name)!r}, not several patterns", f"give a tuple: {name}=('*.jpg',)")
        if self.results is not None and not re.fullmatch(r"(?i)[^.]*|.*\.(parquet|pq)", os.path.basename(self.results)):
            raise UsageError(
                f"the results are a Parquet file, and {self.results} is named as another kind",
                "name it results.parquet; pandas.read_parquet('results.parquet').to_csv('results.csv') makes a CSV file of it",
            )
        if self.rle and self.results is None:
            raise UsageError("run lengths go into the results, and no file for these was named", "name a file for the results")

    @property
    def measure(self) -> Measure:
        """What of each mask is measured."""
        return "rle" if self.rle else "stats" if self.results is not None or self.statistics else None

    @property
    def policy(self) -> ResumePolicy:
        """What is done where there is something already."""
        return ResumePolicy(self.on_change, self.overwrite, self.retry, self.measure if self.results is not None else None)

    def stream(self, decoding: DecodeOptions, *, remote: bool) -> StreamOptions:
        """Return how hard a single process runs."""
        return StreamOptions(
            workers=self.workers or min(4, usable_cores()),
            memory=self.memory,
            max_file_bytes=decoding.max_file_bytes,
            timeout=self.timeout,
            readers=READERS_OF_A_STORE if remote else 1,
        )

    def failures_allowed(self, inputs: int) -> int | None:
        """Return how many of so many inputs may fail, or None for all."""
        return math.floor(self.max_failures * inputs) if isinstance(self.max_failures, float) else self.max_failures
