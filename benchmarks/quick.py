"""Compare the ratios of the quick suite with the committed ones."""

from __future__ import annotations

from collections.abc import Sequence

from .cases import OURS
from .records import Ratio, Record, find, ratio
from .report import Contests, best_benchmark_app, of_peak, peak
from .runner import STOLEN_AT_MOST

Ratios = dict[str, Ratio]


def ratios(records: Sequence[Record]) -> Ratios:
    """Return the ratios of a contest, by a name for people.

    End to end is compared with the original program and with the engine; the engine with the matrix product and with benchmark_app.
    """
    original, limit = find(records, who="original", figure="end_to_end"), peak(records, "f32")
    engine, app = find(records, who=OURS, figure="engine", precision="fp32"), best_benchmark_app(records)
    found: Ratios = {}
    for record in records:
        if record.case["who"] != OURS or not record.samples:
            continue
        name = f"{record.case['precision'].upper()} {record.case['figure'].replace('_', ' ')} {record.case['output']}".strip()
        if record.case["figure"] == "end_to_end" and original is not None:
            value = ratio(record, original)
            if value is not None:
                found[f"{name}, times the original"] = value
        if record.case["figure"] == "end_to_end" and record.case["precision"] == "fp32" and engine is not None:
            value = ratio(record, engine)
            if value is not None:
                found[f"{name}, share of the engine's rate"] = value
    if engine is not None and engine.samples:
        if limit is not None:
            found["FP32 engine, share of the matrix product"] = of_peak(engine, limit)
        value = ratio(engine, app) if app is not None else None
        if value is not None:
            found["FP32 engine, times OpenVINO's benchmark_app"] = value
    return found


def hold(quick: Sequence[Record], committed: dict[str, Contests]) -> list[str]:
    """Compare the ratios of a quick run with the committed ones.

    Args:
        quick: the records of the quick run.
        committed: the committed records, by kind of machine.

    Returns:
        A line for each ratio: the committed ratio beside it, and whether their ranges overlap.
    """
    if not quick:
        return ["nothing was measured"]
    kind = quick[0].kind
    theirs = {
        name: value for contest in ("headline", "overlap") for name, value in ratios(committed.get(kind, {}).get(contest, [])).items()
    }
    lines = [] if theirs else [f"no full run on this kind of machine ({kind}) is committed, so there is nothing to compare with:"]
    for name, value in ratios([r for r in quick if r.contest == "headline"]).items():
        other = theirs.get(name)
        if other is None:
            lines.append(f"{name}: {value}")
            continue
        meets = value.low <= other.high and other.low <= value.high
        lines.append(f"{name}: {value}; committed {other}: {'within its spread' if meets else 'OUTSIDE its spread'}")
    stolen = max((share for record in quick for share in record.facts.get("stolen", [])), default=0.0)
    if stolen > STOLEN_AT_MOST:
        lines.append(f"CPU steal was up to {stolen:.0%} during a measurement: on a quieter machine the ratios may differ")
    return lines
