"""Draw plots of records as PNG and SVG: ratios, stages, the roofline, growth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .cases import OURS
from .records import Record, find, ratio
from .report import Contests, peak, stage_sum
from .table import label

OURS_COLOR, PEER_COLOR, LIMIT_COLOR = "#1b6ca8", "#9aa5b1", "#c1440e"
FIGURE_LABEL = {"end_to_end": "end to end", "engine": "engine alone"}


def draw_all(contests: Contests, folder: Path) -> list[Path]:
    """Draw the plots that the records of a kind of machine allow.

    Args:
        contests: the records of each contest.
        folder: the folder to write into.

    Returns:
        The files that were written.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "seseg_trt", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    for contest, name, draw in (
        ("headline", "ratios", _ratios),
        ("headline", "stages", _stages),
        ("headline", "roofline", _roofline),
        ("gpu", "gpu-ratios", _ratios),
        ("gpu", "gpu-roofline", _roofline),
        ("growth-images", "growth-images", _growth_images),
        ("growth-megapixels", "growth-megapixels", _growth_megapixels),
    ):
        if contest in contests and any(r.samples for r in contests[contest]):
            drawn += _save(draw, contests[contest], folder / name)
    return drawn


def _save(draw: Callable[[Any, Sequence[Record]], bool], records: Sequence[Record], stem: Path) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    if not draw(figure, [r for r in records if r.samples]):
        return []
    first = records[0]
    figure.supxlabel(f"{first.kind}, run {first.run}", x=0.99, ha="right", fontsize=6, color="#777777")
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    figure.savefig(files[0], dpi=130, metadata={"Software": None})
    figure.savefig(files[1], metadata={"Date": None})
    return files


def _ratios(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the rate of each contestant as a multiple of the base's: bars of the median, with the range over the rounds."""
    drawn = False
    panels = [f for f in FIGURE_LABEL if any(r.case["figure"] == f for r in records)]
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, wanted in zip(axes, panels, strict=True):
        base = find(records, who="original", figure=wanted) or find(records, who=OURS, figure=wanted)
        same = [r for r in records if base is not None and all(r.case[k] == base.case[k] for k in ("figure", "images", "output"))]
        rows = [(r, ratio(r, base)) for r in same if base is not None]
        names = []
        for y, (record, value) in enumerate(rows):
            assert value is not None
            color = OURS_COLOR if record.case["who"] == OURS else PEER_COLOR
            errors = [[value.median - value.low], [value.high - value.median]]
            axis.barh(y, value.median, color=color, xerr=errors, error_kw={"lw": 1, "capsize": 2})
            axis.text(value.high, y, f"  {value.median:.2f}", va="center", fontsize=8)
            output = f", {record.case['output']}" if record.case["output"] else ""
            names.append((label(record) + output).replace(", ", "\n", 1))
            drawn = True
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.2 * max(value.high for _, value in rows if value is not None))
        axis.set_title(FIGURE_LABEL[wanted])
        axis.set_xlabel(f"rate, times that of {label(base) if base else ''}", fontsize=7)
    return drawn


def _stages(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the core time that an image takes in each stage and in the engine, as stacked bars, and the measured total as a line."""
    stages = [r for r in records if r.case["figure"] == "stages"]
    engines = [r for r in records if r.case["figure"] == "engine" and r.case["who"] == OURS]
    if not stages or not engines:
        return False
    axis = figure.subplots()
    cores = int(stages[0].machine["cores"])
    names, y = [], 0
    for engine in engines:
        for record in stages:
            left, parts = 0.0, {"engine": engine.median * cores, **stage_sum(record)}
            for index, (name, seconds) in enumerate(parts.items()):
                axis.barh(y, seconds * 1e3, left=left * 1e3, color=f"C{index}", label=name if y == 0 else None)
                left += seconds
            whole = find(
                records,
                who=OURS,
                figure="end_to_end",
                precision=engine.case["precision"],
                output=record.case["output"],
                lane=record.case["lane"],
            )
            if whole is not None:
                axis.plot(
                    [whole.median * cores * 1e3] * 2,
                    [y - 0.4, y + 0.4],
                    color="black",
                    lw=2,
                    label="measured end to end" if y == 0 else None,
                )
            names.append(f"{engine.case['precision'].upper()}, {record.case['output']}")
            y += 1
    axis.set_yticks(range(y), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"core milliseconds an image, on {cores} cores")
    axis.set_title(f"Core time of each stage alone, and of the whole run: {stages[0].case['images']}")
    axis.legend(fontsize=7, ncols=4)
    return True


def _roofline(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the roofline: operations a second over operations a byte, limits as lines, engines and stages as points."""
    copy = find(records, figure="limit", what="copy")
    ceilings = {kind: peak(records, kind) for kind in ("f32", "f16", "s8")}
    points = [
        (label(r), *_engine_point(r), r.case["who"] == OURS)
        for r in records
        if r.case["figure"] == "engine" and r.facts.get("model", {}).get("macs")
    ]
    for record in records:
        if record.case["figure"] == "stages":
            points += [(f"{n}, {record.case['output']}, one core", x, y, True) for n, x, y in _stage_points(record)]
    if copy is None or not points or not any(ceilings.values()):
        return False
    axis = figure.subplots()
    lowest, highest = min(p[1] for p in points) / 3, max(p[1] for p in points) * 8
    top = max(c.median for c in ceilings.values() if c)
    for kind, ceiling in ceilings.items():
        if ceiling is not None:
            knee = ceiling.median / copy.median
            axis.plot([max(lowest, knee), highest], [ceiling.median] * 2, color=LIMIT_COLOR, lw=1)
            axis.text(highest, ceiling.median * 1.05, f"{kind} matrix product, {ceiling.median / 1e9:.0f} Gop/s", ha="right", fontsize=7)
    axis.plot([lowest, top / copy.median], [lowest * copy.median, top], color=LIMIT_COLOR, lw=1)
    axis.text(lowest * 1.1, lowest * copy.median * 1.6, f"memory, {copy.median / 1e9:.0f} GB/s copied", fontsize=7, rotation=24)
    for index, (name, x, y, own) in enumerate(points):
        # a peer's square is hollow and larger, so that it does not hide our point at the same place
        look: dict[str, Any] = {"marker": "o"} if own else {"marker": "s", "markersize": 9, "fillstyle": "none"}
        axis.plot(x, y, linestyle="none", color=f"C{index % 10}", label=f"{name}: {y / 1e9:.3g} Gop/s", **look)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations for each byte moved")
    axis.set_ylabel("operations a second")
    axis.set_title("Roofline; an operation of decode, composite and encode is a byte of raw pixels")
    axis.legend(fontsize=6, loc="lower right")
    axis.grid(alpha=0.3, which="both", lw=0.4)
    return True


def _engine_point(record: Record) -> tuple[float, float]:
    work = 2.0 * record.facts["model"]["macs"]
    return work / record.facts["model"]["bytes_moved"], work / record.median


def _stage_points(record: Record) -> list[tuple[str, float, float]]:
    """Return (stage, operations a byte, operations a second). Here an operation is a byte of raw pixels decoded, composited or encoded."""
    images = record.facts["images"]
    pixels = images["megapixels"] * 1e6 / images["count"]
    decoded, rendered = 3 * pixels, pixels if record.case["output"] == "mask" else 3 * pixels
    encoded_in, encoded_out = pixels * images["bits_per_pixel"] / 8, record.facts["bytes_out"] / record.facts["count"]
    seconds = stage_sum(record)
    return [
        ("decode", decoded / (decoded + encoded_in), decoded / seconds["decode"]),
        ("composite", rendered / (decoded + 2 * rendered), rendered / seconds["composite"]),
        ("encode", rendered / (rendered + encoded_out), rendered / seconds["encode"]),
    ]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the least-squares slope of log y over log x: 1 means proportional, 0 constant."""
    lx, ly = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mx, my = sum(lx) / len(lx), sum(ly) / len(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum((a - mx) ** 2 for a in lx)


def _growth_images(figure: Any, records: Sequence[Record]) -> bool:
    return _growth(figure, records, [float(r.facts["images"]["count"]) for r in records], "images in a run", whole_run=True)


def _growth_megapixels(figure: Any, records: Sequence[Record]) -> bool:
    return _growth(figure, records, [r.facts["images"]["megapixels"] / r.facts["images"]["count"] for r in records], "megapixels an image")


def _scale(axis: Any, values: Sequence[float]) -> None:
    """Make a matplotlib axis logarithmic with plain numbers; linear from 0 if its values differ by less than a factor of 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if max(values) < 2 * min(values):
        (axis.axes.set_ylim if axis.axis_name == "y" else axis.axes.set_xlim)(0, 1.3 * max(values))
    else:
        wide = max(values) > 100 * min(values)
        (axis.axes.set_yscale if axis.axis_name == "y" else axis.axes.set_xscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _growth(figure: Any, records: Sequence[Record], xs: list[float], xlabel: str, whole_run: bool = False) -> bool:
    times = [r.median * r.facts["count"] for r in records] if whole_run else [r.median for r in records]
    panels = [
        ("time of the run, s" if whole_run else "time an image, s", times),
        ("peak memory, MB", [r.facts["peak_rss"] / 1e6 for r in records]),
        (
            "an image's cost, ms" if whole_run else "a megapixel's cost, ms",
            [1e3 * (t / x) for t, x in zip(times, xs, strict=True)],
        ),
    ]
    for axis, (ylabel, ys) in zip(figure.subplots(1, 3), panels, strict=True):
        axis.plot(xs, ys, "o-", color=OURS_COLOR)
        _scale(axis.xaxis, xs)
        _scale(axis.yaxis, ys)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        larger = max(2, len(xs) // 2)
        axis.set_title(f"slope {slope(xs, ys):.2f}, of the {larger} largest {slope(xs[-larger:], ys[-larger:]):.2f}", fontsize=8)
        axis.grid(alpha=0.3, which="both", lw=0.4)
    case = records[0].case
    figure.suptitle(f"Growth: {case['network']} network, {case['output']} as PNG, {records[0].machine['cores']} cores", fontsize=10)
    return True
