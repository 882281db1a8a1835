"""The cases, as data. To add one, add it to a contest: nothing else knows their number.

A case is one contestant at one thing. A contest is what is measured interleaved, round by round, in one run, so that its cases can be
compared. Two figures are never mixed: ``engine`` is the network alone, its inputs resident in the memory it runs from;
``end_to_end`` is from encoded bytes on the disk to results committed under their names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Figure = Literal["engine", "end_to_end", "stages", "limit", "startup"]
OURS = "seseg_trt"


@dataclasses.dataclass(frozen=True)
class Case:
    """One contestant at one thing.

    Attributes:
        who: ``seseg_trt`` or a name of :data:`benchmarks.peers.PEERS`.
        figure: what is measured.
        what: which variant of it: a hint, a provider, a ceiling, a number of threads.
        network: ``seresnet152`` (random weights), ``demo``, or ``fake`` (no network).
        precision: ``fp32``, ``fp16``, ``int8``.
        lane: ``cpu`` or ``gpu``.
        backend: of ours; None lets it choose.
        images: a name of :data:`benchmarks.images.SETS`; empty where none are read.
        output: ``se``, ``nse`` or ``mask``; empty where none is made.
        batch: images that the network is given at once (engine).
        count: images (or runs) a round.
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
        """Tells cases apart; it does not depend on how long they are measured."""
        parts = [self.who, self.figure, self.what, self.network, self.precision, self.lane, self.backend, self.images, self.output]
        return "/".join([part for part in parts if part] + ([f"batch{self.batch}"] if self.batch > 1 else []))


@dataclasses.dataclass(frozen=True)
class Contest:
    """What is measured together.

    Attributes:
        name, title: for the records and for people.
        cases: in the order in which a round runs them; every second round turns it round.
        rounds: for each suite that has it, how many.
        device: ``cpu``, or ``gpu``: run only where there is one.
        quick: the cases of the quick suite, which has a third as many images of each; None: all.
        agreement: compare the masks of ours with those of the original program as well.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    rounds: Mapping[str, int]
    device: Literal["cpu", "gpu"] = "cpu"
    quick: tuple[str, ...] | None = None
    agreement: bool = False

    def cases_of(self, suite: str) -> tuple[Case, ...]:
        """Return the cases that a suite measures."""
        if suite != "quick" or self.quick is None:
            return self.cases
        chosen = [case for case in self.cases if f"{case.who}:{case.figure}:{case.what}" in self.quick]
        return tuple(dataclasses.replace(case, count=-(-case.count // 3)) for case in chosen)


def ours(figure: Figure, **fields: Any) -> Case:
    """Return a case of ours; end to end it is of the 1280 x 960 set and ``se`` unless told otherwise."""
    if figure in ("end_to_end", "stages"):
        fields = {"images": "1280x960", "output": "se", **fields}
    return Case(OURS, figure, **fields)


def files(who: str, **fields: Any) -> Case:
    """Return a peer's end-to-end case."""
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
"""Images of a round that is to show a steady state: filling and emptying the pipeline takes about the time of one."""

HEADLINE = Contest(
    "headline",
    "1280 x 960 JPEG, full-size network, FP32 and INT8, against the original program, the limits beside it",
    (
        files("original", count=8),
        ours("end_to_end", count=STEADY),
        ours("engine", count=32),  # between the two that are held against it: a machine's speed drifts
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
    "1280 x 960 JPEG, full-size network, FP32: what is left end to end of the engine's rate, in many short rounds",
    (
        ours("end_to_end", count=STEADY),
        ours("engine", count=32),  # beside both that are held against it, in whichever order a round goes
        ours("end_to_end", output="mask", count=STEADY),
    ),
    {"full": 15},
)

PEERS_1280 = Contest(
    "peers",
    "1280 x 960 JPEG to se PNG, full-size network, FP32: what one would use otherwise",
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
    "start-up and import, each in a fresh process",
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
    "gpu", "1280 x 960 JPEG, full-size network, FP16 and INT8, on one GPU, the limits beside it", _gpu_cases(), {"full": 5}, device="gpu"
)

TINY = Contest(
    "tiny",
    "the harness itself, in seconds: small images, no network and the demonstration network",
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
