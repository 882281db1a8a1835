"""``seseg-trt fetch``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..download import ORIGINAL_URL


@click.command(name="fetch", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path), help="Where to put it. Default: the cache.")
@click.option("--url", default=ORIGINAL_URL, show_default=True, help="Where to get it.")
def command(out: Path | None, url: str) -> int:
    """Bring the original checkpoint (Keras HDF5) from its published address; a cut-off transfer is resumed.

    Its SHA-256 is recorded beside it, and checked from then on. No hash was ever published, so the first time is on trust.
    """
    from tqdm import tqdm

    from .. import cache, download

    target = out or cache.home() / "checkpoints" / "original.hdf5"
    with tqdm(unit="B", unit_scale=True, desc=target.name, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        sha256 = download.fetch(target, url, progress)
    click.echo(f"{target}  sha256 {sha256}")
    click.echo(f"make a graph of it, in a checkout of seseg_trt: make engine CHECKPOINT={target}", err=True)
    return 0
