"""Download the original checkpoint: ``seseg-trt fetch``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..models.download import ORIGINAL_URL
from .verb import FILE, Flag, text, under, verb


@verb("fetch")
@under(
    "Options",
    Flag("--out", FILE, "Write the checkpoint to FILE.", shown="the cache"),
    Flag("--url", text("URL"), "Fetch it from this address.", ORIGINAL_URL),
)
def command(out: Path | None, url: str) -> int:
    """Download the original checkpoint (Keras HDF5) from its published address. An interrupted download is resumed.

    The file's SHA-256 is recorded beside it and checked at every later use. No hash was ever published, so the first download is
    taken on trust.
    """
    from tqdm import tqdm

    from ..models import cache, download

    target = out or cache.home() / "checkpoints" / "original.hdf5"
    with tqdm(unit="B", unit_scale=True, desc=target.name, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        sha256 = download.fetch(target, url, progress)
    click.echo(f"{target}  sha256 {sha256}")
    click.echo(f"to make a graph of it, in a checkout of seseg_trt: make engine CHECKPOINT={target}", err=True)
    return 0
