"""A contact sheet: some images with their outputs side by side, as one picture."""

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
    """Draw a row for each input: the image, then its outputs, each scaled to fit one cell.

    Args:
        rows: an input and its outputs, in the order of :data:`COLUMNS` (without the first).

    Returns:
        An RGB image.

    Raises:
        BadImage: an input can't be decoded.
        OSError: a file can't be read.
    """
    from PIL import Image, ImageDraw, ImageFont

    width = GAP + len(COLUMNS) * (CELL[0] + GAP)
    sheet = Image.new("RGB", (width, HEADER + GAP + len(rows) * (CELL[1] + GAP)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for column, title in enumerate(COLUMNS):
        draw.text((GAP + column * (CELL[0] + GAP) + CELL[0] // 2, HEADER // 2 + GAP // 2), title, INK, font, anchor="mm")
    for row, (source, outputs) in enumerate(rows):
        for column, path in enumerate([source, *outputs]):
            cell = _fitted(path)
            left = GAP + column * (CELL[0] + GAP) + (CELL[0] - cell.width) // 2
            top = HEADER + GAP + row * (CELL[1] + GAP) + (CELL[1] - cell.height) // 2
            sheet.paste(cell, (left, top))
    return sheet


def _fitted(path: Path) -> Image.Image:
    from PIL import ImageOps

    from ..codecs import pillow

    image = pillow.decode(path.read_bytes(), DecodeOptions()).image
    return ImageOps.contain(image, CELL)
