"""``seseg-trt retry``."""

from __future__ import annotations

import sys

import click


@click.command(name="retry", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output_dir", type=click.Path(), metavar="DIR")
@click.option("--state", "state_dir", type=click.Path(), help="The state folder of the run, if it was not in DIR.")
@click.option("--device", default="auto", show_default=True, help="As for segment.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary; errors are still shown.")
def command(output_dir: str, state_dir: str | None, device: str, as_json: bool, quiet: bool) -> int:
    """Run all quarantined inputs of the output DIR (a folder, or a tar) again, with the options and the model of the run before."""
    from ..console import run_shown
    from ..files import retry_files
    from ..run_options import RunOptions

    options = RunOptions(state_dir=state_dir, device=device)
    with run_shown(output_dir, options, quiet=quiet or (as_json and not sys.stderr.isatty())) as shown:
        summary = retry_files(output_dir, options=options, watch=shown.watch)
    return shown.finish(summary, as_json=as_json, quiet=quiet)
