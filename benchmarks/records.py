"""Read and write records: JSON lines, one for each case, in ``benchmarks/results/<machine-kind>/``."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seseg_trt.storage.atomic import atomic_write

SCHEMA = 1
RESULTS = Path(__file__).resolve().parent / "results"


@dataclasses.dataclass(frozen=True)
class Record:
    """The measurement of one case in one run, or the reason why it was not measured.

    Attributes:
        run: the name of the run: date, time and commit. The cases of one contest in one run were measured interleaved.
        suite, contest: the names of the suite and the contest.
        case: :class:`benchmarks.cases.Case` as a dict, and its ``name``.
        kind: the kind of machine; see :func:`benchmarks.machine.kind`.
        unit: of the samples: ``s`` (seconds an image or a process), or for a limit ``op/s`` or ``B/s``.
        samples: one for each round, in order.
        absent: the reason why there are no samples, or None.
        facts: about the images, the model, the last round (bytes written, stages, memory) and the agreement of masks.
        machine, versions, clock, commit: what the case was measured on.
        schema: the version of this format.
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
        """The name of the case."""
        return str(self.case["name"])

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The spread of the samples; see :func:`spread`."""
        return spread(self.samples)

    @property
    def rate(self) -> float:
        """The rate in images a second, if the unit is ``s``."""
        return 1 / self.median


def spread(samples: Sequence[float]) -> float:
    """Return half the interquartile range as a share of the median; 0 for a single sample.

    0.02 means that the middle half of the samples is about within 2% of the median.
    """
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(samples)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as fast one case is as another: the median, the minimum and the maximum over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(faster: Record, slower: Record) -> Ratio | None:
    """Compare two records round by round, since their rounds were interleaved.

    Args:
        faster, slower: the records; the ratio is over 1 if ``faster`` is indeed faster.

    Returns:
        The ratio, or None unless both were measured in the same contest of the same run.
    """
    if not faster.samples or not slower.samples or (faster.run, faster.contest) != (slower.run, slower.contest):
        return None
    pairs = list(zip(faster.samples, slower.samples, strict=False))
    values = [s / f for f, s in pairs] if faster.unit == "s" else [f / s for f, s in pairs]
    return Ratio(statistics.median(values), min(values), max(values))


def write(records: Iterable[Record], folder: Path) -> Path:
    """Write the records of one contest in one run to ``folder/<machine-kind>/<run>-<contest>.jsonl``; return the file."""
    records = list(records)
    target = folder / records[0].kind / f"{records[0].run}-{records[0].contest}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.writelines(json.dumps(dataclasses.asdict(record), sort_keys=True).encode() + b"\n" for record in records)
    return target


def read(path: Path) -> list[Record]:
    """Read a file of records, or all of those in a folder; the oldest run comes first.

    Raises:
        ValueError: a record has another schema.
    """
    paths = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    found = []
    for file in paths:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            fields = json.loads(line)
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"{file.name}, line {number}: schema {fields.get('schema')}, but this program reads {SCHEMA}")
            found.append(Record(**{**fields, "samples": tuple(fields["samples"])}))
    return sorted(found, key=lambda record: record.run)


def newest(records: Iterable[Record], suite: str = "full") -> dict[str, dict[str, list[Record]]]:
    """Return the records of the newest run in a suite, by kind of machine and contest.

    Args:
        records: the oldest run first, as of :func:`read`.
        suite: the suite.
    """
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
    """Return the first record that has samples and whose case has these fields, or None."""
    for record in records:
        if record.samples and all(record.case.get(key) == value for key, value in fields.items()):
            return record
    return None
