"""Define the benchmark cases and contests, as data. To add a case, add it to a contest.

A case is one measurement of one program. A contest is a set of cases that are measured in one run, interleaved round by round, so that
they can be compared. Two figures are never mixed: ``engine`` is the network alone, with its inputs already in the memory that it runs
from; ``end_to_end`` is from encoded files on disk to finished output files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Figure = Literal["engine", "end_to_end", "stages", "limit", "startup"]
OURS = "seseg_trt"


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement of one program.

    Attributes:
        who: the program: ``seseg_trt`` or a name in :data:`benchmarks.peers.PEERS`.
        figure: what is measured. ``engine``: the network alone. ``end_to_end``: from files to files. ``stages``: each stage of the CPU
            lane alone. ``limit``: a hardware limit. ``startup``: a fresh process.
        what: the variant: a hint, a provider, a limit, a number of threads.
        network: ``seresnet152`` (random weights), ``demo``, ``fake`` (the fake backend) or empty (none).
        precision: ``fp32``, ``fp16`` or ``int8``.
        lane: ``cpu`` or ``gpu``.
        backend: the backend of seseg_trt; None: the default.
        images: a name in :data:`benchmarks.images.SETS`; empty if no images are read.
        output: ``se``, ``nse`` or ``mask``; empty if there is no output.
        batch: images in a batch (``engine`` only).
        count: images (or processes) in a round.
    """

    who: str
    figure: Figure
    what: str = ""
    network: str = "seresnet152"
    precision: str = "fp32"
    lane: str = "cpu"
    backend: str | None = None
    images: str = ""
    output: str = ""
    batch: int = 1
    count: int = 16

    @property
    def name(self) -> str:
        """A name that identifies the case; it does not depend on `count`."""
        parts = [self.who, self.figure, self.what, self.network, self.precision, self.lane, self.backend, self.images, self.output]
        return "/".join([part for part in parts if part] + ([f"batch{self.batch}"] if self.batch > 1 else []))


@dataclasses.dataclass(frozen=True)
class Contest:
    """A set of cases that are measured together.

    Attributes:
        name: for the records.
        title: for people.
        cases: in the order of the first round; every second round runs in reverse order.
        rounds: the number of rounds in each suite that includes the contest.
        device: ``cpu``; or ``gpu``, which needs a GPU.
        quick: the cases in the quick suite, as ``who:figure:what``; None: all. There, a round has a third as many images.
        agreement: whether to compare the masks with those of the original program too.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    rounds: Mapping[str, int]
    device: Literal["cpu", "gpu"] = "cpu"
    quick: tuple[str, ...] | None = None
    agreement: bool = False

    def cases_of(self, suite: str) -> tuple[Case, ...]:
        """Return the cases that a suite includes."""
        if suite != "quick" or self.quick is None:
            return self.cases
        chosen = [case for case in self.cases if f"{case.who}:{case.figure}:{case.what}" in self.quick]
        return tuple(dataclasses.replace(case, count=-(-case.count // 3)) for case in chosen)


def ours(figure: Figure, **fields: Any) -> Case:
    """Return a case of seseg_trt; ``end_to_end`` and ``stages`` default to the 1280x960 set and ``se``."""
    if figure in ("end_to_end", "stages"):
        fields = {"images": "1280x960", "output": "se", **fields}
    return Case(OURS, figure, **fields)


def files(who: str, **fields: Any) -> Case:
    """Return an end-to-end case of a peer; it defaults to the 1280x960 set and ``se``."""
    return Case(who, "end_to_end", **{"images": "1280x960", "output": "se", **fields})


CPU_LIMITS = (
    Case("openblas", "limit", "f32-2048", network=""),
    Case("openblas", "limit", "f32-4096", network=""),
    Case("mkl", "limit", "f32-2048", network=""),
    Case("mkl", "limit", "f32-4096", network=""),
    Case("mkl", "limit", "s8-4096", network="", precision="int8"),
    Case("openblas", "limit", "copy", network=""),
)

STEADY = 48
"""Images in a round that measures the steady state: filling and emptying the pipeline takes about the time of one image."""

HEADLINE = Contest(
    "headline",
    "1280 x 960 JPEG, full-size network, FP32 and INT8, against the original program and the hardware's limits",
    (
        files("original", count=8),
        ours("end_to_end", count=STEADY),
        ours("engine", count=32),  # between the two that are compared with it, since a machine's speed drifts
        ours("end_to_end", output="mask", count=STEADY),
        Case("benchmark_app", "engine", "latency"),
        Case("benchmark_app", "engine", "throughput"),
        *CPU_LIMITS[:5],
        ours("end_to_end", precision="int8", count=STEADY),
        ours("engine", precision="int8", count=STEADY),
        ours("end_to_end", precision="int8", output="mask", count=STEADY),
        Case("original", "engine", count=6),
        ours("stages", what="1"),
        ours("stages", what="1", output="mask"),
        CPU_LIMITS[5],
    ),
    {"quick": 3, "full": 7},
    quick=(
        "original:end_to_end:",
        "seseg_trt:end_to_end:",
        "seseg_trt:engine:",
        "benchmark_app:engine:throughput",
        "openblas:limit:f32-2048",
        "openblas:limit:f32-4096",
        "mkl:limit:f32-2048",
        "mkl:limit:f32-4096",
    ),
    agreement=True,
)

OVERLAP = Contest(
    "overlap",
    "1280 x 960 JPEG, full-size network, FP32: the end-to-end rate as a share of the engine's, in many short rounds",
    (
        ours("end_to_end", count=STEADY),
        ours("engine", count=32),  # next to the two that are compared with it, in both orders of a round
        ours("end_to_end", output="mask", count=STEADY),
    ),
    {"full": 15},
)

PEERS_1280 = Contest(
    "peers",
    "1280 x 960 JPEG to se PNG, full-size network, FP32: the alternatives",
    (
        ours("end_to_end", count=6),
        ours("end_to_end", backend="onnxruntime", count=6),
        files("onnxruntime", count=6),
        files("torch", count=6),
        files("keras", count=6),
        ours("engine", count=6),
        ours("engine", backend="onnxruntime", count=6),
        Case("onnxruntime", "engine", count=6),
        Case("torch", "engine", count=6),
        Case("keras", "engine", count=6),
    ),
    {"full": 3},
)

SETS_CONTEST = Contest(
    "sets",
    "other images: small, large, of mixed sizes, 5% of them damaged",
    (
        ours("engine", count=12),
        ours("end_to_end", images="512x512", count=24),
        files("onnxruntime", images="512x512", count=24),
        ours("end_to_end", images="mixed", count=24),
        files("onnxruntime", images="mixed", count=24),
        ours("end_to_end", images="4000x3000", count=8),
        files("onnxruntime", images="4000x3000", count=8),
        ours("end_to_end", images="4000x3000", output="mask", count=8),
        ours("end_to_end", images="bad5", count=40),
        ours("stages", what="1", images="4000x3000", count=8),
        ours("stages", what="1", images="512x512", count=24),
    ),
    {"full": 3},
)

STARTUP = Contest(
    "startup",
    "start-up and import time, each in a fresh process",
    tuple(Case(OURS, "startup", what, network="", count=3) for what in ("python", "import", "help")),
    {"quick": 3, "full": 7},
)

GPU_BATCH = 128


def _gpu_cases() -> tuple[Case, ...]:
    engine: dict[str, Any] = {"lane": "gpu", "precision": "fp16", "batch": GPU_BATCH, "count": 64}
    whole: dict[str, Any] = {"lane": "gpu", "precision": "fp16", "count": 2048, "images": "1280x960-many"}
    return (
        ours("engine", **engine),
        Case("trtexec", "engine", **engine),
        Case("onnxruntime-gpu", "engine", "tensorrt", **engine),
        Case("onnxruntime-gpu", "engine", "cuda", **engine),
        Case("torch", "engine", "cuda", **engine),
        Case("gpu-limits", "limit", "f16-8192", network="", lane="gpu"),
        Case("gpu-limits", "limit", "copy", network="", lane="gpu"),
        ours("end_to_end", **whole),
        ours("end_to_end", **{**whole, "output": "mask"}),
        files("onnxruntime-gpu", what="cuda", **{**whole, "count": 64}),
        files("torch", what="cuda", **{**whole, "count": 64}),
        ours("engine", **{**engine, "precision": "int8"}),
        ours("end_to_end", **{**whole, "precision": "int8"}),
    )


GPU = Contest(
    "gpu", "1280 x 960 JPEG, full-size network, FP16 and INT8, on one GPU, against its limits", _gpu_cases(), {"full": 5}, device="gpu"
)

TINY = Contest(
    "tiny",
    "a test of the harness in seconds: small images, the fake backend and the demonstration network",
    (
        ours("end_to_end", network="fake", images="tiny", count=4),
        ours("end_to_end", network="demo", images="tiny", count=4),
        ours("engine", network="demo", count=2),
        ours("stages", network="fake", what="1", images="tiny", count=4),
        Case("openblas", "limit", "f32-256", network=""),
    ),
    {"tiny": 2},
)

CONTESTS = {contest.name: contest for contest in (HEADLINE, OVERLAP, PEERS_1280, SETS_CONTEST, STARTUP, GPU, TINY)}
SUITES = ("quick", "full", "tiny")
