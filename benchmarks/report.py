"""Numbers from records: shares of limits, headlines, gaps in words."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from .cases import OURS
from .records import Ratio, Record, find, ratio

Contests = dict[str, list[Record]]
STAGES = ("read", "decode", "composite", "encode", "write")


@dataclasses.dataclass(frozen=True)
class Share:
    """How near a figure comes to the limit that binds it.

    Attributes:
        what: is measured.
        limit: that binds it.
        share: of the limit, 0..1, round by round.
        gap: in words.
    """

    what: str
    limit: str
    share: Ratio
    gap: str


def peak(records: Sequence[Record], kind: str) -> Record | None:
    """Return the best matrix product of a kind (``f32``, ``s8``, ``f16``), by its median."""
    found = [r for r in records if r.samples and r.case["figure"] == "limit" and str(r.case["what"]).startswith(kind + "-")]
    return max(found, key=lambda r: r.median, default=None)


def of_peak(engine: Record, limit: Record) -> Ratio:
    """Return the share of a matrix product's rate that an engine reaches, round by round; its operations are twice its MACs."""
    work = 2.0 * engine.facts["model"]["macs"]
    shares = sorted(work / seconds / rate for seconds, rate in zip(engine.samples, limit.samples, strict=False))
    return Ratio(statistics.median(shares), shares[0], shares[-1])


def best_benchmark_app(records: Sequence[Record], precision: str = "fp32") -> Record | None:
    """Return benchmark_app's faster hint."""
    found = [r for r in records if r.samples and r.case["who"] == "benchmark_app" and r.case["precision"] == precision]
    return min(found, key=lambda r: r.median, default=None)


def stage_sum(stages: Record) -> dict[str, float]:
    """Return each stage's seconds an image on one core."""
    count = stages.facts["count"]
    return {name: stages.facts["stage_seconds"][name] / count for name in STAGES}


def core_limit(engine: Record, stages: Record) -> float:
    """Return the seconds an image takes if every core is always at work: the engine, which uses all, and the other stages' core time."""
    return engine.median + sum(stage_sum(stages).values()) / int(engine.machine["cores"])


def shares(records: Sequence[Record], lane: str = "cpu") -> list[Share]:
    """Return every case of ours with its share of the limit that binds it, as far as both were measured in this contest."""
    found = []
    for record in records:
        if record.case["who"] != OURS or not record.samples or record.case["lane"] != lane:
            continue
        share = _engine_share(record, records) if record.case["figure"] == "engine" else None
        if record.case["figure"] == "end_to_end":
            share = _end_to_end_share(record, records)
        if share is not None:
            found.append(share)
    return found


def _engine_share(record: Record, records: Sequence[Record]) -> Share | None:
    kind = {"fp32": "f32", "int8": "s8", "fp16": "f16"}[record.case["precision"]]
    limit = peak(records, kind)
    if limit is None or not record.facts.get("model"):
        return None
    share = of_peak(record, limit)
    size = str(limit.case["what"]).partition("-")[2]
    name = f"{record.case['precision'].upper()} engine"
    words = (
        f"{1 - share.median:.0%} of the time goes to what a matrix product of {size} does not have: small layers, "
        "squeeze-and-excitation, activations written and read between layers"
        if share.median < 0.97
        else "none to speak of"
    )
    return Share(name, f"{limit.case['who']}'s {kind} matrix product of side {size}", share, words)


def _end_to_end_share(record: Record, records: Sequence[Record]) -> Share | None:
    same = {key: record.case[key] for key in ("lane", "images", "output")}
    stages = find(records, who=OURS, figure="stages", **same)
    engine = find(records, who=OURS, figure="engine", precision=record.case["precision"], backend=record.case["backend"])
    if stages is None or engine is None:
        return None
    limit = core_limit(engine, stages)
    values = sorted(limit / s for s in record.samples)
    share = Ratio(statistics.median(values), values[0], values[-1])
    each = stage_sum(stages)
    dearest = max(each, key=lambda name: each[name])
    words = (
        f"of {record.median * 1e3:.0f} ms an image the engine needs {engine.median * 1e3:.0f}, and the other stages "
        f"{sum(each.values()) * 1e3:.0f} ms of one core, {dearest} {each[dearest] * 1e3:.0f} of them; "
        + (f"{max(0.0, 1 - share.median):.0%} is filling and emptying the pipeline, and stages taking cores from the engine")
    )
    return Share(
        f"{record.case['precision'].upper()} end to end, {record.case['output']}, {record.case['images']}",
        "all cores, all the time",
        share,
        words,
    )


def headlines(contests: Contests) -> dict[str, Any] | None:
    """Return the CPU's headlines, None where nothing was measured; a figure that is missing is None."""
    records = contests.get("headline", [])
    if not any(r.samples for r in records):
        return None
    whole = find(records, who=OURS, figure="end_to_end", output="se", precision="fp32")
    engine = find(records, who=OURS, figure="engine", precision="fp32")
    original = find(records, who="original", figure="end_to_end")
    limit, app = peak(records, "f32"), best_benchmark_app(records)
    return {
        "end_to_end_vs_original": _median(ratio(whole, original) if whole and original else None),
        "engine_share_of_peak": _median(of_peak(engine, limit) if engine and limit else None),
        "engine_vs_benchmark_app": _median(ratio(engine, app) if engine and app else None),
        "end_to_end_share_of_engine": {output: _cpu_share_of_engine(contests, output) for output in ("mask", "se")},
    }


def gpu_headlines(contests: Contests) -> dict[str, Any] | None:
    """Return the GPU's headlines, None where nothing was measured on one."""
    records = [r for r in contests.get("gpu", []) if r.samples]
    engine = find(records, who=OURS, figure="engine", precision="fp16")
    if engine is None:
        return None
    limit, trtexec = peak(records, "f16"), find(records, who="trtexec", figure="engine", precision="fp16")
    return {
        "engine_images_per_second": round(engine.rate, 1),
        "engine_share_of_peak": _median(of_peak(engine, limit) if limit else None),
        "engine_vs_trtexec": _median(ratio(engine, trtexec) if trtexec else None),
        "end_to_end_share_of_engine": {output: _share_of_engine(records, output, "gpu", "fp16") for output in ("mask", "se")},
    }


def summary(contests_by_kind: dict[str, Contests]) -> dict[str, Any]:
    """Return the headlines of all records: of the CPU and of the GPU, each from the newest run that has them."""
    found: dict[str, Any] = {"cpu": None, "gpu": None}
    for name, headline, contest in (("cpu", headlines, "headline"), ("gpu", gpu_headlines, "gpu")):
        with_it = [c for c in contests_by_kind.values() if c.get(contest)]
        for contests in sorted(with_it, key=lambda c: c[contest][0].run):
            found[name] = headline(contests) or found[name]
    return found


def _cpu_share_of_engine(contests: Contests, output: str) -> float | None:
    """Return what is left end to end of the CPU engine's rate: of the contest that measures just that, or else of the headline."""
    found = (_share_of_engine(contests.get(name, []), output, "cpu", "fp32") for name in ("overlap", "headline"))
    return next((share for share in found if share is not None), None)


def _share_of_engine(records: Sequence[Record], output: str, lane: str, precision: str) -> float | None:
    fields = {"who": OURS, "lane": lane, "precision": precision}
    whole = find(records, figure="end_to_end", output=output, **fields)
    engine = find(records, figure="engine", **fields)
    return _median(ratio(whole, engine) if whole and engine else None)


def _median(value: Ratio | None) -> float | None:
    return None if value is None else round(value.median, 3)
