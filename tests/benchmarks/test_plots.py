"""Test that plots are drawn from records, with labelled axes."""

from __future__ import annotations

from pathlib import Path

from benchmarks import plots
from benchmarks.cases import OURS, Case

from .test_records import headline, record


def test_plots_are_drawn_with_named_axes(tmp_path: Path) -> None:
    contests = {
        "headline": [*headline(), record(Case("openblas", "limit", "copy", network=""), (2e10, 2e10, 2e10), unit="B/s")],
        "growth-images": [
            record(Case(OURS, "end_to_end", network="demo", images="512x512", output="mask", count=n), (0.01,), contest="growth-images")
            for n in (10, 100)
        ],
    }
    for point, count in zip(contests["growth-images"], (10, 100), strict=True):
        point.facts["images"]["count"] = count
    drawn = {path.name for path in plots.draw_all(contests, tmp_path)}
    assert drawn == {f"{name}.{kind}" for name in ("ratios", "stages", "roofline", "growth-images") for kind in ("png", "svg")}
    assert all((tmp_path / name).stat().st_size > 1000 for name in drawn)


def test_a_plot_without_its_records_is_not_drawn(tmp_path: Path) -> None:
    assert plots.draw_all({"headline": headline()[:1]}, tmp_path)  # only the ratios
    assert not (tmp_path / "roofline.svg").exists()
    assert plots.draw_all({}, tmp_path) == []
