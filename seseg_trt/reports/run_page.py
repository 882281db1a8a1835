"""Make the page about a run: what a collector gathers while it runs, and the page itself."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import BadImage, StoppedError
from ..inputs.item import InputItem
from ..inputs.read import read_source
from ..journal.row import Row
from ..options import DecodeOptions, ReportImages
from ..outputs.select import open_outputs
from ..run.session import QUARANTINE
from ..run.summary import Summary
from ..storage.atomic import atomic_write
from . import pictures
from .charts import bar_chart, size_label
from .html import render

if TYPE_CHECKING:
    from markupsafe import Markup

SAMPLE = 8
NAMED = 20
"""Quarantined files that the page names for each reason."""
BINS = 20
BARS_AT_MOST = 120


Facts = Sequence[tuple[str, str]]
"""Names and values of what the page says at its top."""


class Collector:
    """Gather what the page needs while a run goes. Its size does not grow with the run's."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._random = random.Random(0)
        self.per_second: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()
        self.shares: Counter[int] = Counter()
        self.date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.sample: list[Row] = []
        self._done = 0

    def start(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def add(self, row: Row) -> None:
        """Count a row that has been committed."""
        self.per_second[int(time.monotonic() - self._begun)] += 1
        if row.size:
            self.sizes[row.size.bit_length() - 1] += 1
        if row.state == "quarantined":
            return
        if row.measured is not None:
            self.shares[min(BINS - 1, int(row.measured["share"] * BINS))] += 1
        self._done += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(row)
        elif (place := self._random.randrange(self._done)) < SAMPLE:
            self.sample[place] = row


def write_page(target: Path, summary: Summary, collected: Collector, images: ReportImages = "blurred", about: Facts = ()) -> None:
    """Write the page atomically.

    Args:
        target: the HTML file.
        summary: of the run.
        collected: what was gathered while the run went.
        images: show the sample's pictures blurred or clear.
        about: more facts, such as the command and its options.

    Raises:
        StoppedError: it can't be written.
    """
    try:
        with atomic_write(target) as file:
            file.write(make_page(summary, collected, images, about).encode())
    except OSError as error:
        hint = "the run itself is complete: seseg-trt status shows it"
        raise StoppedError(f"the report {target} can't be written: {error.strerror}", hint) from error


def make_page(summary: Summary, collected: Collector, images: ReportImages, about: Facts = ()) -> str:
    """Return the page as text. See :func:`write_page`."""
    counts = [(name, getattr(summary, name)) for name in ("inputs", "done", "skipped", "quarantined", "left")]
    facts = [
        ("date", collected.date),
        ("version", f"seseg_trt {__version__}"),
        *about,
        ("output folder", summary.output_dir),
        ("device", summary.device),
        ("model", summary.model + (f"; {summary.certificate}" if summary.certificate else "")),
        ("model's SHA-256", summary.model_sha256),
        ("time", f"{summary.seconds:.1f} s, start-up {summary.startup_seconds:.1f} s"),
        ("rate", f"{summary.rate:.1f} images/s"),
        ("decoded by", ", ".join(f"{name}: {count:,}" for name, count in summary.decoded_by.items())),
        ("bottleneck", summary.bottleneck or ""),
        ("stopped", "" if summary.stopped is None else summary.stopped.message),
    ]
    stages = summary.stages if summary.seconds else ()
    blur = images == "blurred"
    return render(
        "run.html",
        title="seseg-trt: a run",
        counts=[(name, count) for name, count in counts if count or name != "left"],
        facts=[(name, value) for name, value in facts if value],
        rates=_rates(collected.per_second),
        stages=[(stage, stage.busy / stage.workers / summary.seconds) for stage in stages],
        bottleneck=summary.bottleneck,
        reasons=_reasons(summary),
        shares=_shares(collected.shares),
        sizes=_sizes(collected.sizes),
        blurred=blur,
        sample=_sample(summary, collected.sample, blur),
    )


def _rates(per_second: Counter[int]) -> Markup | None:
    if not per_second:
        return None
    seconds = max(per_second) + 1
    width = -(-seconds // BARS_AT_MOST)
    values = [sum(per_second[t] for t in range(first, first + width)) / width for first in range(0, seconds, width)]
    labels = [f"{first} s" for first in range(0, seconds, width)]
    return bar_chart(values, labels, "images committed a second", f"seconds since the first image was started; each bar is {width} s")


def _reasons(summary: Summary) -> list[tuple[str, str, str]]:
    """Return each reason of quarantine with its number of inputs and the names of the first of them, also of earlier runs."""
    named: dict[str, list[str]] = {}
    with contextlib.suppress(OSError), open(summary.state_dir / QUARANTINE, encoding="ascii") as lines:
        for line in lines:
            entry = json.loads(line)
            names = named.setdefault(entry["reason"], [])
            if len(names) < NAMED:
                names.append(entry["path"].encode("utf-8", "backslashreplace").decode())
    return [
        (
            reason,
            f"{count:,}",
            ", ".join(names := named.get(reason, [])) + (f" and {count - len(names):,} more" if count > len(names) else ""),
        )
        for reason, count in summary.reasons.items()
    ]


def _shares(shares: Counter[int]) -> Markup | None:
    if not shares:
        return None
    labels = [f"{100 * b // BINS}%" for b in range(BINS)]
    return bar_chart([shares[b] for b in range(BINS)], labels, "images", f"explicit share of the image, in steps of {100 // BINS}%")


def _sizes(sizes: Counter[int]) -> Markup | None:
    if not sizes:
        return None
    bins = range(min(sizes), max(sizes) + 1)
    return bar_chart([sizes[b] for b in bins], [size_label(1 << b) for b in bins], "files", "from this size to twice as much")


def _sample(summary: Summary, rows: Sequence[Row], blur: bool) -> list[pictures.Case]:
    outputs = open_outputs(summary.output_dir, summary.state_dir, durable=False)
    cases = []
    for row in sorted(rows, key=lambda row: row.path):
        readers: dict[str, Callable[[], bytes]] = {"input": functools.partial(_read_input, row.item())}
        for name, made in row.outputs.items():
            if made is not None:  # NAME_se.png: the last part of its name says what it is
                readers[name.rpartition("_")[2].partition(".")[0]] = functools.partial(outputs.read, name)
        shown = [picture for kind, read in readers.items() if (picture := _picture(read, kind, blur))]
        cases.append(pictures.Case(os.fsdecode(row.path), shown))
    return cases


def _read_input(item: InputItem) -> bytes:
    return read_source(item, DecodeOptions().max_file_bytes)[0]


def _picture(read: Callable[[], bytes], kind: str, blur: bool) -> pictures.Picture | None:
    """Return a picture of a file, or None where it can't be read any more."""
    from ..codecs import pillow

    try:
        image = pillow.decode(read(), DecodeOptions(frames="first")).image
    except (OSError, BadImage):
        return None
    return pictures.photograph(image, kind, blur=blur)
