"""Draw charts as SVG; colours are those of the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from .html import render


def bar_chart(values: Sequence[float], labels: Sequence[str], upright: str, along: str) -> Markup:
    """Draw a bar chart with its two axes named. Labels are escaped."""
    return Markup(render("chart.html", values=values, labels=labels, upright=upright, along=along))


def size_label(count: int) -> str:
    """Return a number of bytes in the largest unit that fits, rounded down."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
