"""Self-contained HTML: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ..certificate import write_whole

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .35rem 0; max-width: 80ch; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; } td.number, th.number { text-align: right; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.facts th { font-weight: 400; opacity: .8; white-space: nowrap; }
.verdict { display: inline-block; padding: .15rem .6rem; border-radius: .3rem; color: #fff; font-weight: 600; }
.passed { background: #16794a; } .failed { background: #b3261e; }
.case { border-top: 1px solid var(--line); padding: .8rem 0 1rem; }
.case h3 { font-size: .95rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .85rem; opacity: .8; }
figure img { width: 100%; max-width: 288px; height: auto; display: block; border: 1px solid var(--line); }
figure img.drawing { image-rendering: pixelated; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; vertical-align: -.05em; border: 1px solid var(--line); }
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page. ``body`` is HTML already; ``title`` is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Return anything as HTML text; names that are not UTF-8 are shown with their odd bytes as escapes."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode())


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of what and value."""
    body = "".join(f"<tr><th>{text(what)}</th><td>{text(value)}</td></tr>" for what, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """Return a table of text; with ``numbers`` all columns but the first are aligned to the right."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=number' if numbers and index else ''}>{text(cell)}</{tag}>" for index, cell in enumerate(row))

    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{top}<tbody>{body}</tbody></table>"


def figure(uri: str, caption: str, *, drawing: bool) -> str:
    """Return a picture with its caption; a drawing is enlarged without smoothing."""
    kind = ' class="drawing"' if drawing else ""
    return f'<figure><img{kind} src="{uri}" alt="{text(caption)}"><figcaption>{text(caption)}</figcaption></figure>'


def case(title: str, figures: Iterable[str]) -> str:
    """Return one image's pictures, side by side."""
    return f'<section class="case"><h3>{text(title)}</h3><div class="pictures">{"".join(figures)}</div></section>'


def key(color: tuple[int, int, int], meaning: str) -> str:
    """Return a coloured square and what it means."""
    return f'<span class="key" style="background: rgb{color}"></span> {text(meaning)}'


def write_page(path: str | Path, html: str) -> None:
    """Write a page, whole or not at all; raise UsageError where it can't be written."""
    write_whole(Path(path), html, "the page", "--page names another place")
