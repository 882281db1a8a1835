"""Records: one JSON object a line, one line a case, in ``benchmarks/results/<machine-kind>/``."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
RESULTS = Path(__file__).resolve().parent / "results"


@dataclasses.dataclass(frozen=True)
class Record:
    """What was measured of one case in one run, or why it was not.

    Attributes:
        run: the run: date, time and commit; cases of one run and contest were measured interleaved.
        suite, contest: which.
        case: :class:`benchmarks.cases.Case`, as a dict, and its ``name``.
        kind: of the machine.
        unit: ``s`` (seconds an image, or a process) or ``op/s``, ``B/s`` (a ceiling).
        samples: one a round, in order.
        absent: why there are no samples.
        facts: of the images, the model, the last round (bytes written, stages, memory), agreement.
        machine, versions, clock, commit: what it was measured on.
    """

    run: str
    suite: str
    contest: str
    case: dict[str, Any]
    kind: str
    unit: str = "s"
    samples: tuple[float, ...] = ()
    absent: str | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    clock: dict[str, Any] = dataclasses.field(default_factory=dict)
    commit: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The case's name."""
        return str(self.case["name"])

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median: 0.02 is "within 2%", for the middle half."""
        return spread(self.samples)

    @property
    def rate(self) -> float:
        """Images a second."""
        return 1 / self.median


def spread(samples: Sequence[float]) -> float:
    """Return half the distance between the quartiles of the samples, as a share of their median; 0 for a single one."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(samples)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as fast one case is as another: the median over the rounds, and the least and the most of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(faster: Record, slower: Record) -> Ratio | None:
    """Compare two records round by round, as their rounds were interleaved; None unless both were measured in the same run.

    Of seconds it is slower / faster, of rates faster / slower: over 1 where ``faster`` is.
    """
    if not faster.samples or not slower.samples or (faster.run, faster.contest) != (slower.run, slower.contest):
        return None
    pairs = list(zip(faster.samples, slower.samples, strict=False))
    values = [s / f for f, s in pairs] if faster.unit == "s" else [f / s for f, s in pairs]
    return Ratio(statistics.median(values), min(values), max(values))


def write(records: Iterable[Record], folder: Path) -> Path:
    """Write one run's records to ``folder/<machine-kind>/<run>-<contest>.jsonl``."""
    records = list(records)
    target = folder / records[0].kind / f"{records[0].run}-{records[0].contest}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(record), sort_keys=True) + "\n" for record in records]
    target.write_text("".join(lines), encoding="utf-8")
    return target


def read(path: Path) -> list[Record]:
    """Read a file of records, or every one in a folder, the oldest run first."""
    paths = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    found = []
    for file in paths:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            fields = json.loads(line)
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"{file.name}, line {number}: schema {fields.get('schema')}, and this program reads {SCHEMA}")
            found.append(Record(**{**fields, "samples": tuple(fields["samples"])}))
    return sorted(found, key=lambda record: record.run)


def newest(records: Iterable[Record], suite: str = "full") -> dict[str, dict[str, list[Record]]]:
    """Return, for each machine kind and contest, the records of its newest run in that suite."""
    chosen: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        if record.suite != suite:
            continue
        contests = chosen.setdefault(record.kind, {})
        if record.contest not in contests or contests[record.contest][0].run != record.run:
            contests[record.contest] = []
        contests[record.contest].append(record)
    return chosen


def find(records: Iterable[Record], **fields: Any) -> Record | None:
    """Return the first record with these fields of its case that was measured, or None."""
    for record in records:
        if record.samples and all(record.case.get(key) == value for key, value in fields.items()):
            return record
    return None
