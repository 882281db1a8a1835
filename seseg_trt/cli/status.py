"""Show how far runs are: ``seseg-trt status``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .option_groups import JSON
from .verb import under, verb


@verb("status")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@under("Options", JSON)
def command(folders: tuple[Path, ...], as_json: bool) -> int:
    """Show how far runs are. DIR is an output (a folder or a tar), or a folder that --state named.

    Several journals are merged. An input that is in more than one of them counts once, by its best state.
    """
    from ..journal.merge import merge_journals

    merged = merge_journals(folders)
    click.echo(json.dumps(merged.as_dict()) if as_json else "\n".join(merged.lines()))
    return 0
