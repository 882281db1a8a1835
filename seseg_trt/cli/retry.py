"""Run quarantined inputs again: ``seseg-trt retry``."""

from __future__ import annotations

import click

from .option_groups import DEVICES, NETWORK, PROCESSES, RUN, STATE, Display, display
from .verb import under, verb


@verb("retry")
@click.argument("output_dir", type=click.Path(), metavar="OUTPUT_DIR")
@under(RUN, STATE)
@under(NETWORK, DEVICES, PROCESSES)
@display
def command(output_dir: str, state_dir: str | None, device: str, processes: int | None, display: Display) -> int:
    """Run the quarantined inputs of OUTPUT_DIR (a folder or a tar) again, with the model and the options of the run before."""
    from ..files import retry_files
    from ..options import RunOptions
    from .console import run_shown

    options = RunOptions(state_dir=state_dir, device=device, processes=processes)
    with run_shown(output_dir, options, quiet=display.silent) as shown:
        summary = retry_files(output_dir, options=options, observer=shown.observer)
    return shown.finish(summary, as_json=display.as_json, quiet=display.quiet)
