"""Draw a contact sheet: images and their outputs side by side, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import DecodeOptions

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("input", "mask", "se", "nse")
CELL = (240, 180)
GAP = 8
HEADER = 24
BACKGROUND, INK = (250, 250, 250), (40, 40, 40)


def contact_sheet(rows: Sequence[tuple[Path, Sequence[Path]]]) -> Image.Image:
    """Draw a row for each input: the image, then its outputs, each scaled to fit its cell.

    Args:
        rows: each input with its outputs, in the order of :data:`COLUMNS`.

    Returns:
        An RGB image.

    Raises:
        BadImage: an input can't be decoded.
        OSError: a file can't be read.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from ..codecs import pillow

    width = GAP + len(COLUMNS) * (CELL[0] + GAP)
    sheet = Image.new("RGB", (width, HEADER + GAP + len(rows) * (CELL[1] + GAP)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for column, title in enumerate(COLUMNS):
        draw.text((GAP + column * (CELL[0] + GAP) + CELL[0] // 2, HEADER // 2 + GAP // 2), title, INK, font, anchor="mm")
    for row, (source, outputs) in enumerate(rows):
        for column, path in enumerate([source, *outputs]):
            image = pillow.decode(path.read_bytes(), DecodeOptions(frames="first")).image
            corner = (GAP + column * (CELL[0] + GAP), HEADER + GAP + row * (CELL[1] + GAP))
            sheet.paste(ImageOps.pad(image, CELL, color=BACKGROUND), corner)
    return sheet
