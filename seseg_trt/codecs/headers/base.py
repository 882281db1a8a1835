"""Define what is known of a file before it is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ...errors import BadImage
from .kinds import Kind

ORIENTATION_TAG = 274


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says, and the file as a decoder gets it.

    Attributes:
        kind: what its samples are.
        width, height: the size in pixels of the picture that is decoded, before the orientation is applied.
        stripped: returns the file's bytes without metadata, one picture alone where the format allows it. Raises BadImage
            (``decode_error``) for a wrong checksum, or data that hold more than the picture.
        orientation: 1..8, as in EXIF; 0 if only the decoder finds it.
        pictures: how many pictures the file has: frames or pages; thumbnails and other sizes of the same picture are not counted.
        regular: its structure is the usual one, so a decoder that is not hardened may have it.
        cut: the file's structure shows that bytes are missing at its end; the picture may be whole all the same.
        complete: returns whether the data hold every row; None if the decoder says so itself.
    """

    kind: Kind
    width: int
    height: int
    stripped: Callable[[], bytes]
    orientation: int = 1
    pictures: int = 1
    regular: bool = True
    cut: bool = False
    complete: Callable[[], bool] | None = None


class NotThisFormat(Exception):
    """The file begins with a format's weak signature (``BM``, ``P5``) but is of another kind."""


def damaged(what: str) -> BadImage:
    """Return the error for a file whose header contradicts itself or the format."""
    return BadImage("decode_error", what)


def cut_off(file_format: str, what: str) -> BadImage:
    """Return the error for a file that lacks data."""
    return BadImage("truncated", f"the {file_format} ends too early: {what}")


def exif_orientation(block: object) -> int:
    """Return the orientation (1..8) in an EXIF block, or 1 if there is none or the block can't be read."""
    if not isinstance(block, bytes):
        return 1
    from PIL import Image

    try:
        exif = Image.Exif()
        exif.load(block)
        value = exif.get(ORIENTATION_TAG, 1)
    except Exception:  # a damaged block can make Pillow raise almost anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
