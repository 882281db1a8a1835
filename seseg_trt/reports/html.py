"""Render self-contained pages: one file each, no script, nothing loaded from elsewhere. ``templates/`` has their skeleton and style."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.atomic import atomic_write, unwritable

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: the name of a file in ``templates/``.
        values: what the template shows. Everything that is not ``Markup`` is escaped; odd bytes of file names become visible escapes.
    """
    page = _environment().get_template(template).render(values)
    return page.encode("utf-8", "backslashreplace").decode()


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("seseg_trt.reports")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_page(path: str | Path, html: str) -> None:
    """Write a page atomically; raise UsageError where it can't be written."""
    with unwritable("the page", path, "--page names another place"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(html.encode())
