"""The tables: Markdown from records, put between the markers of README.md and benchmarks/RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import OURS
from .peers import PEERS
from .records import Ratio, Record, find, ratio
from .report import Contests, best_benchmark_app, shares

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
NOTHING = "No full run has been recorded.\n"


class Markers(Exception):
    """The file has no place for the table."""


def label(record: Record) -> str:
    """Return what people read for a case."""
    case = record.case
    who = PEERS[case["who"]].label if case["who"] in PEERS else "seseg_trt"
    details = [case["precision"].upper()] if case["network"] and case["who"] not in ("original", "keras") else []
    details += [str(case[key]) for key in ("backend", "what") if case[key] and case["figure"] != "stages"]
    return f"{who}, {', '.join(details)}" if details else who


def short_table(kinds: dict[str, Contests]) -> str:
    """Return the README's table, one figure a cell: how many times as fast seseg_trt is as each peer, in FP32 on the CPU.

    It speaks of one machine: the one with the newest full run.
    """
    newest = max((c for c in kinds.values() if c.get("headline")), key=lambda c: c["headline"][0].run, default=None)
    ours = find(newest["headline"], who=OURS, figure="end_to_end", output="se", precision="fp32") if newest else None
    if newest is None or ours is None:
        return NOTHING
    cpu = f"{ours.machine['cores']} cores of {ours.machine['cpu'].replace('(R)', '').strip()}"
    lines = [
        f"The full-size network in FP32 on {cpu} masks **{ours.rate:.1f} images a second**, each of {ours.case['images']} pixels, from file to PNG.",
        "",
        "| seseg_trt is so many times as fast as | from file to PNG | the network alone |",
        "|---|---|---|",
    ]
    rows = [*_short_rows(newest["headline"]), *_short_rows(newest.get("peers", []))]
    lines += [f"| {' | '.join(row)} |" for row in sorted(rows, key=lambda row: float(row[1] or 0), reverse=True)]
    return "\n".join(lines) + "\n"


def _short_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    ours = {figure: find(records, who=OURS, figure=figure, precision="fp32", backend=None) for figure in ("end_to_end", "engine")}
    rows = []
    for who in dict.fromkeys(str(r.case["who"]) for r in records if r.case["network"] and r.case["who"] != OURS):
        cells = []
        for figure, base in ours.items():
            peer = best_benchmark_app(records) if who == "benchmark_app" else find(records, who=who, figure=figure)
            times = ratio(base, peer) if base and peer and peer.case["figure"] == figure else None
            cells.append(f"{times.median:.1f}" if times else "")
        if any(cells):
            rows.append((PEERS[who].label, *cells))
    return rows


def tables(kinds: dict[str, Contests]) -> str:
    """Return all tables of all machine kinds' newest full runs."""
    parts = []
    for _, contests in sorted(kinds.items()):
        parts += _machine(contests)
    return "\n".join(parts).rstrip() + "\n" if parts else NOTHING


def _machine(contests: Contests) -> list[str]:
    first = next(iter(contests.values()))[0]
    machine = first.machine
    commits = sorted({str(r.commit.get("commit"))[:7] for records in contests.values() for r in records})
    devices = [gpu["name"] for gpu in machine["gpus"]] or [
        f"{machine['cpu'].strip()} ({', '.join(machine['isa'][-2:]) or 'no vector unit'})"
    ]
    lines = [
        f"**{machine['cores']} cores, {', '.join(devices)}{', virtual' if machine['virtual'] else ''}**, "
        f"{machine['memory_gib']:.0f} GiB, {machine['os'].split('-')[0]}; commit {', '.join(commits)}; {_load(contests)}.",
        "",
    ]
    for name in ("headline", "gpu"):
        if name in contests:
            lines += _end_to_end(contests[name]) + _engine(contests[name]) + _limits(contests[name])
    if "overlap" in contests:
        lines += _overlap(contests["overlap"])
    if "peers" in contests:
        lines += _peers(contests["peers"])
    if "sets" in contests:
        lines += _sets(contests["sets"])
    if "startup" in contests:
        lines += _startup(contests["startup"])
    return lines


def _load(contests: Contests) -> str:
    """Say how busy the machine was with other work, which all contestants had to share."""
    clocks = [records[0].clock for records in contests.values()]
    loads = [float(clock["load_before"]) for clock in clocks if "load_before" in clock]
    stolen = [float(clock["stolen_share"]) for clock in clocks if clock.get("stolen_share") is not None]
    said = f"load at the start: {min(loads):.1f} to {max(loads):.1f}" if loads else "load not recorded"
    return said + (f"; CPU steal: {min(stolen):.0%} to {max(stolen):.0%}" if stolen else "")


def _images(record: Record) -> str:
    images = record.facts["images"]
    mean = images["megapixels"] / max(1, images["count"] - images["bad"])
    return f"{images['set']}, {mean:.2f} MP, {images['bits_per_pixel']:.1f} bits a pixel"


def _end_to_end(records: Sequence[Record]) -> list[str]:
    cases = [r for r in records if r.case["figure"] == "end_to_end"]
    original = find(records, who="original", figure="end_to_end")
    measured = [r for r in cases if r.samples]
    if not measured:
        return []
    versions = original.versions if original else {}
    with_it = f" (TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, Pillow {versions['pillow']})" if original else ""
    lines = [
        f"End to end, from encoded bytes to committed PNG ({_images(measured[0])}), one interleaved run of "
        f"{len(measured[0].samples)} rounds; medians, and the least and the most of the rounds in brackets:",
        "",
        "| | times the original | output | images/s | ms an image | PNG KB | mask IoU against the original |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in cases:
        if not record.samples:
            lines.append(f"| {label(record)} | absent: {record.absent} | {record.case['output']} | | | | |")
            continue
        comparable = original is not None and original.case["output"] == record.case["output"]
        times = _ratio(ratio(record, original) if original and comparable else None)
        agreement = record.facts.get("agreement")
        iou = f"{agreement['iou_same_pixels']:.4f} ({agreement['iou_same_files']:.4f} with its decoder)" if agreement else ""
        size = record.facts["bytes_out"] / record.facts["count"] / 1e3
        name = label(record) + (with_it if record.case["who"] == "original" else "")
        lines.append(f"| {name} | {times} | {record.case['output']} | {record.rate:.2f} | {_milliseconds(record)} | {size:.0f} | {iou} |")
    return [*lines, "", *_certificates(measured)]


def _certificates(records: Iterable[Record]) -> list[str]:
    for record in records:
        certificate = record.facts.get("model", {}).get("certificate")
        if certificate:
            return [
                f"The INT8 graph's certificate: {certificate_line(certificate)}. It was made without a gate, for its rate alone: its weights are random, and random maps lose most by 8 bits.",
                "",
            ]
    return []


def certificate_line(certificate: dict[str, Any]) -> str:
    """Return the figures of a certificate in a line."""
    iou = certificate["iou"]
    return (
        f"{certificate['line']} (worst image {iou['worst']:.4f}, flipped pixels {certificate['flip_rate']:.3%}, "
        f"{certificate['images']} images, threshold {certificate['threshold']})"
    )


def _engine(records: Sequence[Record]) -> list[str]:
    cases = [r for r in records if r.case["figure"] == "engine"]
    if not any(r.samples for r in cases):
        return []
    ours = find(records, who=OURS, figure="engine", precision="fp16" if cases[0].case["lane"] == "gpu" else "fp32")
    lines = [
        "The engine alone, inputs resident:",
        "",
        f"| | times seseg_trt, {ours.case['precision'].upper() if ours else ''} | images/s | ms an image | GMAC/s |",
        "|---|---|---|---|---|",
    ]
    for record in cases:
        if not record.samples:
            lines.append(f"| {label(record)} | absent: {record.absent} | | | |")
            continue
        macs = record.facts.get("model", {}).get("macs")
        work = f"{macs * record.rate / 1e9:.0f}" if macs else ""
        times = _ratio(ratio(record, ours) if ours else None)
        lines.append(f"| {label(record)} | {times} | {record.rate:.2f} | {_milliseconds(record)} | {work} |")
    return [*lines, ""]


def _limits(records: Sequence[Record]) -> list[str]:
    lines = ["The limits, measured in the same run, and how near each figure comes to the one that binds it:", ""]
    lines += ["| limit | |", "|---|---|"]
    for record in records:
        if record.case["figure"] == "limit" and record.samples:
            unit = "Gop/s" if record.unit == "op/s" else "GB/s"
            what = str(record.case["what"]).replace("f32-", "FP32, side ").replace("s8-", "8-bit, side ").replace("f16-", "FP16, side ")
            name = "copying memory, all cores" if what == "copy" else f"{PEERS[record.case['who']].label}, {what}"
            lines.append(f"| {name} | {record.median / 1e9:.0f} {unit} ±{record.spread:.0%} |")
        elif record.case["figure"] == "limit":
            lines.append(f"| {label(record)} | absent: {record.absent} |")
    for record in records:
        if record.case["figure"] == "stages" and record.samples:
            count = record.facts["count"]
            each = ", ".join(f"{name} {seconds / count * 1e3:.1f} ms" for name, seconds in record.facts["stage_seconds"].items())
            lines.append(f"| each stage alone, one core, {record.case['images']} to {record.case['output']} | {each} |")
    lines += ["", "| | share of its limit | the limit | the gap |", "|---|---|---|---|"]
    lane = records[0].case["lane"]
    lines += [
        f"| {s.what} | {s.share.median:.0%} ({s.share.low:.0%} to {s.share.high:.0%}) | {s.limit} | {s.gap} |"
        for s in shares(records, lane)
    ]
    return [*lines, ""]


def _overlap(records: Sequence[Record]) -> list[str]:
    """What is left of the engine's rate, from a contest of nothing else."""
    engine = find(records, who=OURS, figure="engine")
    whole = [r for r in records if r.case["figure"] == "end_to_end" and r.samples]
    if engine is None or not whole:
        return []
    rounds = len(engine.samples)
    lines = [
        f"How well reading, decoding, compositing, encoding and writing hide behind the network: FP32, {rounds} rounds of a run of nothing else; "
        "the median of the rounds' shares, their middle half and their extremes:",
        "",
        "| output | share of the engine's rate | middle half | least to most | ms an image | engine, ms an image |",
        "|---|---|---|---|---|---|",
    ]
    for record in whole:
        shares = [e / r for e, r in zip(engine.samples, record.samples, strict=True)]
        low, _, high = statistics.quantiles(shares, n=4, method="inclusive") if rounds > 1 else shares * 3
        lines.append(
            f"| {record.case['output']} | **{statistics.median(shares):.2f}** | {low:.2f} to {high:.2f} | {min(shares):.2f} to {max(shares):.2f} "
            f"| {_milliseconds(record)} | {_milliseconds(engine)} |"
        )
    return [*lines, ""]


def _peers(records: Sequence[Record]) -> list[str]:
    lines = ["What one would use otherwise, FP32, the same checkpoint, images and outputs; seseg_trt is so many times as fast:", ""]
    lines += ["| | end to end | engine alone | versions |", "|---|---|---|---|"]
    ours = {figure: find(records, who=OURS, figure=figure, backend=None) for figure in ("end_to_end", "engine")}
    for key in dict.fromkeys((r.case["who"], r.case["backend"]) for r in records):
        mine = [r for r in records if (r.case["who"], r.case["backend"]) == key]
        if key == (OURS, None):
            continue
        cells, versions = [], {}
        for figure in ("end_to_end", "engine"):
            record = next((r for r in mine if r.case["figure"] == figure), None)
            base = ours[figure]
            if record is None or not record.samples or base is None:
                cells.append(f"absent: {record.absent}" if record is not None and record.absent else "")
                continue
            versions = record.versions
            cells.append(_ratio(ratio(base, record)))
        shown = ", ".join(
            f"{k} {v}" for k, v in versions.items() if k in ("tensorflow", "keras", "onnxruntime", "torch", "openvino", "pillow")
        )
        lines.append(f"| {label(mine[0])} | {cells[0]} | {cells[1]} | {shown} |")
    return [*lines, ""]


def _sets(records: Sequence[Record]) -> list[str]:
    lines = [
        "Other images, full-size network, FP32:",
        "",
        "| images | times the plain loop | output | images/s | megapixels/s | left out |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for record in records:
        case = record.case
        if case["who"] != OURS or case["figure"] != "end_to_end":
            continue
        if not record.samples:
            lines.append(f"| {case['images']} | absent: {record.absent} | {case['output']} | | | |")
            continue
        plain = find(records, who="onnxruntime", figure="end_to_end", images=case["images"], output=case["output"])
        images = record.facts["images"]
        mean = images["megapixels"] / max(1, images["count"] - images["bad"])
        bad = record.facts["quarantined"]
        masked = record.rate * (1 - bad / record.facts["count"])
        times = _ratio(ratio(record, plain) if plain else None) or "not compared"
        left = f"{bad} of {record.facts['count']}, quarantined" if bad else "0"
        lines.append(f"| {_images(record)} | {times} | {case['output']} | {record.rate:.2f} | {masked * mean:.1f} | {left} |")
    return [*lines, ""]


def _startup(records: Sequence[Record]) -> list[str]:
    base = find(records, figure="startup", what="python")
    lines = ["Start-up, each in a fresh process:", "", "| | ms, Python's own start counted | without it | target |", "|---|---|---|---|"]
    for what, name, target in (("import", "`import seseg_trt`", "100 ms without it"), ("help", "`seseg-trt --help`", "500 ms in all")):
        record = find(records, figure="startup", what=what)
        if record is not None and base is not None:
            lines.append(f"| {name} | {_milliseconds(record)} | {(record.median - base.median) * 1e3:.0f} | {target} |")
    return [*lines, ""]


def _ratio(value: Ratio | None) -> str:
    return "" if value is None else f"**{value.median:.2f}** ({value.low:.2f} to {value.high:.2f})"


def _milliseconds(record: Record) -> str:
    low, high = min(record.samples) * 1e3, max(record.samples) * 1e3
    digits = 0 if record.median >= 0.02 else 1
    return f"{record.median * 1e3:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


PAGES: dict[str, Callable[[dict[str, Contests]], str]] = {"README.md": short_table, "benchmarks/RESULTS.md": tables}
"""What is generated, by the page that it goes into."""


def put_into(path: Path, block: str) -> str:
    """Return a file's text with the block between its markers.

    Raises:
        Markers: it is not there, or has not each of them once, in order.
    """
    if not path.is_file():
        raise Markers(f"there is no {path.name}")
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Markers(f"{path.name} must have {BEGIN} and, after it, {END}, each once")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{block}{END}{rest.split(END)[1]}"
