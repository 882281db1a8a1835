"""``seseg-trt status``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="status", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folders: tuple[Path, ...], as_json: bool) -> int:
    """Say what the journals of runs hold. DIR is an output (a folder or a tar), or what --state named.

    Several journals are merged: an input that is in more than one of them counts once, by the best that became of it.
    """
    from ..run.merge import merge_journals

    merged = merge_journals(folders)
    if as_json:
        click.echo(json.dumps(merged.as_dict()))
    else:
        for line in merged.lines():
            click.echo(line)
    return 0
