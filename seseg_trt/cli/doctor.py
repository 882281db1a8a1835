"""Show what this machine can run: ``seseg-trt doctor``."""

from __future__ import annotations

import dataclasses
import json

import click

from .option_groups import JSON
from .verb import SWITCH, Flag, under, verb


@verb("doctor")
@under("Options", JSON, Flag("--verbose -v", SWITCH, "Show every check, not only the first that failed."))
def command(as_json: bool, verbose: bool) -> int:
    """Show which lanes and backends this machine can run. For each other one, show what is missing and how to mend it.

    The exit code is 0 if any backend runs here, else 3.
    """
    from .. import __version__
    from ..doctor import diagnose, machine

    chains = diagnose()
    if as_json:
        found = [{"name": chain.name, "ok": chain.ok, "checks": [dataclasses.asdict(check) for check in chain.checks]} for chain in chains]
        click.echo(json.dumps({"version": __version__, "machine": machine(), "chains": found}))
    else:
        click.echo(f"seseg_trt {__version__}; {machine()}")
        for chain in chains:
            click.secho(f"{'yes' if chain.ok else ' no'}  ", fg="green" if chain.ok else "red", nl=False)
            click.secho(chain.name, bold=True)
            for check in chain.checks if verbose or chain.ok else [chain.broken]:
                assert check is not None
                click.echo(f"       {check.name}: {check.detail}")
                if check.mend and not check.ok:
                    click.echo("       to mend it: " + check.mend.replace("\n", "\n       "))
    runs = any(chain.ok for chain in chains if "backend" in chain.name)
    return 0 if runs else 3
