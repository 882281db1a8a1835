"""``seseg-trt demo``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click


@click.command(name="demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output_dir", type=click.Path(path_type=Path), default="demo-output")
def command(output_dir: Path) -> int:
    """Mask the pictures that ship with seseg_trt with its demonstration network, and draw a contact sheet of them.

    The demonstration network is there to try the program. It knows nothing of the real task.
    """
    from ..files import RunOptions, segment_files
    from ..options import MaskOptions
    from ..run.contact_sheet import contact_sheet

    pictures = Path(str(resources.files("seseg_trt") / "data" / "images"))
    masks = MaskOptions(outputs=("mask", "se", "nse"), threshold=50)
    summary = segment_files(
        [pictures], output_dir, model="demo", masks=masks, options=RunOptions(device="cpu", on_change="redo", overwrite="redo")
    )
    for line in summary.lines():
        click.echo(line, err=True)
    if summary.exit_code == 0:
        sources = sorted(pictures.iterdir(), key=lambda picture: (not picture.name.startswith("scene"), picture.name))
        sheet = contact_sheet(
            [(source, [output_dir / f"{source.stem}_{kind}.png" for kind in ("pred", "se", "nse")]) for source in sources]
        )
        target = output_dir / "contact-sheet.png"
        sheet.save(target)
        click.echo(f"look at {target}: each picture with its mask, and masked both ways")
    return summary.exit_code
