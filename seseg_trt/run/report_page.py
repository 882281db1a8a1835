"""A page about a run: one HTML file that holds everything it shows, and fetches nothing."""

from __future__ import annotations

import base64
import functools
import html
import io
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from .journal import Row
from .output import open_outputs
from .plan import WorkPlan
from .report import Summary
from .scan import WorkItem
from .sources import read_source
from .whole import whole_file

SAMPLE = 8
BLUR_RADIUS = 0.06
"""Of a picture's longer side: nothing of what it shows can be made out."""
LARGEST_INPUT = 4 << 30
THUMBNAIL = (220, 165)
BARS_AT_MOST = 120
ReportImages = Literal["blurred", "clear"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { display: block; max-width: 100% } svg text { font: 12px system-ui, sans-serif; fill: #444 }
.counts { display: flex; gap: 1rem; flex-wrap: wrap } .counts div { border: 1px solid #ddd; border-radius: 6px; padding: .6rem 1.2rem }
.counts { margin-bottom: 1.2rem } figure span { font-size: .8rem; color: #555 }
.counts b { display: block; font-size: 1.5rem } figure { display: flex; gap: .5rem; flex-wrap: wrap; margin: 0 0 1.2rem }
figcaption { width: 100%; overflow-wrap: anywhere; color: #555; font-size: .85rem } code { overflow-wrap: anywhere }
"""


class Collector:
    """What a report needs to know of a run while it goes; its size does not grow with the run's."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._random = random.Random(0)
        self.per_second: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sample: list[Row] = []
        self._done = 0

    def begin(self, plan: WorkPlan) -> None:
        """Take what the plan refused."""
        self.reasons.update(entry.reason for entry in plan.refused)

    def start(self) -> None:
        """Count seconds from now."""
        self._begun = time.monotonic()

    def add(self, row: Row) -> None:
        """Take a row that has been committed."""
        self.per_second[int(time.monotonic() - self._begun)] += 1
        if row.size:
            self.sizes[row.size.bit_length() - 1] += 1
        if row.state == "quarantined":
            self.reasons[row.reason or "unknown"] += 1
            return
        self._done += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(row)
        elif (place := self._random.randrange(self._done)) < SAMPLE:
            self.sample[place] = row


def write_page(target: Path, summary: Summary, collected: Collector, images: ReportImages = "blurred") -> None:
    """Write the page, whole or not at all.

    Args:
        target: the HTML file.
        summary: of the run.
        collected: what was gathered while it ran.
        images: how the sample's pictures are shown.

    Raises:
        OSError: it can't be written.
    """
    with whole_file(target) as temporary:
        temporary.write_text(make_page(summary, collected, images), encoding="utf-8", errors="backslashreplace")


def make_page(summary: Summary, collected: Collector, images: ReportImages) -> str:
    """Return the page as text. See :func:`write_page`."""
    counts = "".join(
        f"<div><b>{value:,}</b>{name}</div>"
        for name, value in (
            ("inputs", summary.inputs),
            ("done", summary.done),
            ("skipped", summary.skipped),
            ("quarantined", summary.quarantined),
            ("left", summary.left),
        )
        if value or name != "left"
    )
    facts = [
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
    sections = [
        f'<div class="counts">{counts}</div>',
        _table([(name, _escape(value)) for name, value in facts if value]),
        "<h2>Rate over time</h2>" + _rates(collected.per_second),
        "<h2>Stages: share of the time at work</h2>" + _stages(summary),
        "<h2>Quarantine by reason</h2>" + _reasons(collected.reasons),
        "<h2>Sizes of the inputs' files</h2>" + _sizes(collected.sizes),
        f"<h2>A sample{' (blurred)' if images == 'blurred' else ''}</h2>" + _sample(summary, collected.sample, images),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>seseg-trt: a run</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>A run of seseg-trt</h1>\n'
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _escape(text: object) -> str:
    return html.escape(str(text))


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows) + "</table>"


def _rates(per_second: Counter[int]) -> str:
    if not per_second:
        return "<p>Nothing was done in this run.</p>"
    seconds = max(per_second) + 1
    width = -(-seconds // BARS_AT_MOST)
    values = [sum(per_second[t] for t in range(first, first + width)) / width for first in range(0, seconds, width)]
    labels = [f"{first} s" for first in range(0, seconds, width)]
    return _bars(values, labels, "images committed a second", f"seconds since the first image was begun, {width} s a bar")


def _sizes(sizes: Counter[int]) -> str:
    if not sizes:
        return "<p>No input was read in this run.</p>"
    bins = range(min(sizes), max(sizes) + 1)
    return _bars([sizes[b] for b in bins], [_bytes(1 << b) for b in bins], "files", "from this size to twice as much")


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"


def _bars(values: Sequence[float], labels: Sequence[str], upright: str, along: str) -> str:
    """Return a bar chart as SVG with its axes named."""
    left, top, width, height = 60, 24, 820, 190
    highest = max(values) or 1
    step = width / len(values)
    parts = [f'<text x="0" y="12">{_escape(upright)}</text>']
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{highest * share:,.4g}</text>')
    every = max(1, -(-len(values) // 12))
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        tall = height * value / highest
        x = left + index * step
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{top + height - tall:.1f}" width="{step * 0.84:.1f}" height="{tall:.1f}" fill="#3b6ea5">'
            f"<title>{_escape(label)}: {value:,.4g}</title></rect>"
        )
        if index % every == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{top + height + 16}" text-anchor="middle">{_escape(label)}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{_escape(along)}</text>')
    return f'<svg viewBox="0 0 {left + width + 10} {top + height + 44}" role="img">{"".join(parts)}</svg>'


def _stages(summary: Summary) -> str:
    if not summary.stages or not summary.seconds:
        return "<p>No stage ran.</p>"
    rows = [
        f'<tr><th>{_escape(stage.name)}</th><td><svg viewBox="0 0 300 14" width="300" height="14" role="img">'
        f'<rect width="300" height="14" fill="#eee"/><rect width="{300 * min(1.0, stage.busy / stage.workers / summary.seconds):.1f}" '
        f'height="14" fill="{"#b3541e" if stage.name == summary.bottleneck else "#3b6ea5"}"/></svg></td>'
        f'<td class="n">{100 * stage.busy / stage.workers / summary.seconds:.0f}%</td><td class="n">{stage.workers}</td>'
        f'<td class="n">{stage.rate:,.1f}</td><td class="n">{stage.starved:.1f}</td><td class="n">{stage.blocked:.1f}</td></tr>'
        for stage in summary.stages
    ]
    head = '<tr><th>stage</th><th>at work</th><th></th><th class="n">threads</th><th class="n">images/s alone</th>'
    return f'<table>{head}<th class="n">starved, s</th><th class="n">blocked, s</th></tr>{"".join(rows)}</table>'


def _reasons(reasons: Counter[str]) -> str:
    if not reasons:
        return "<p>Nothing was quarantined in this run.</p>"
    return "<table>" + "".join(f'<tr><th>{_escape(r)}</th><td class="n">{n:,}</td></tr>' for r, n in reasons.most_common()) + "</table>"


def _sample(summary: Summary, rows: Sequence[Row], images: ReportImages) -> str:
    figures = []
    outputs = open_outputs(summary.output_dir, summary.state_dir, durable=False)
    for row in sorted(rows, key=lambda row: row.path):
        readers: dict[str, Callable[[], bytes]] = {"input": functools.partial(_read_input, row.item())}
        for name, made in row.outputs.items():
            if made is not None:  # NAME_se.png: its last part says what it is
                readers[name.rpartition("_")[2].partition(".")[0]] = functools.partial(outputs.read, name)
        shown = {kind: picture for kind, read in readers.items() if (picture := _thumbnail(read, blur=images == "blurred"))}
        pictures = "".join(
            f'<span><img alt="{kind}" src="data:image/jpeg;base64,{picture}"><br>{kind}</span>' for kind, picture in shown.items()
        )
        figures.append(f"<figure><figcaption>{_escape(os.fsdecode(row.path))}</figcaption>{pictures}</figure>")
    return "".join(figures) or "<p>Nothing was done in this run.</p>"


def _read_input(item: WorkItem) -> bytes:
    return read_source(item, LARGEST_INPUT)[0]


def _thumbnail(read: Callable[[], bytes], *, blur: bool) -> str | None:
    """Return a small JPEG of an image as base64, or None where it can't be made (it has gone since)."""
    from PIL import ImageFilter, ImageOps

    from ..codecs import pillow
    from ..errors import BadImage
    from ..options import DecodeOptions

    try:
        image = ImageOps.contain(pillow.decode(read(), DecodeOptions()).image, THUMBNAIL)
    except (OSError, BadImage):
        return None
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(BLUR_RADIUS * max(image.size)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
