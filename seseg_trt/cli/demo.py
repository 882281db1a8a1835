"""Mask the shipped pictures: ``seseg-trt demo``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from .verb import verb


@verb("demo")
@click.argument("output_dir", type=click.Path(path_type=Path), default="demo-output")
def command(output_dir: Path) -> int:
    """Mask the pictures that come with seseg_trt, and draw a contact sheet of them.

    The demonstration network is for trying the program. It can't find explicit content.
    """
    from ..files import RunOptions, segment_files
    from ..options import MaskOptions
    from ..reports.contact_sheet import contact_sheet

    pictures = Path(str(resources.files("seseg_trt") / "data" / "images"))
    masks = MaskOptions(outputs=("mask", "se", "nse"), threshold=50)
    summary = segment_files(
        [pictures], output_dir, model="demo", masks=masks, options=RunOptions(device="cpu", on_change="redo", overwrite="redo")
    )
    click.echo("\n".join(summary.lines()), err=True)
    if summary.exit_code == 0:
        sources = sorted(pictures.iterdir(), key=lambda picture: (not picture.name.startswith("scene"), picture.name))
        sheet = contact_sheet(
            [(source, [output_dir / f"{source.stem}_{kind}.png" for kind in ("pred", "se", "nse")]) for source in sources]
        )
        target = output_dir / "contact-sheet.png"
        sheet.save(target)
        click.echo(f"look at {target}: each picture with its mask, and masked both ways")
    return summary.exit_code
