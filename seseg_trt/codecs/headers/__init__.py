"""Read what a file's header says, before any decoder sees it, and strip the file of what its pixels do not need.

Decoders lose good pixels to bad metadata: a text of 2 MB, a profile with a wrong checksum, a short application segment. Some can be made
to crash by them (nvImageCodec 0.9 does on some JPEGs with two EXIF blocks). So a decoder gets the pixels alone, and the
orientation is read here. AVIF and HEIF files are passed whole: their decoders read the orientation.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable

from ...errors import BadImage, install_hint
from . import boxes, jpeg, png, simple, tiff
from .base import Header, NotThisFormat, cut_off, damaged, exif_orientation
from .kinds import unsupported
from .sniff import file_format, unsupported_kind

__all__ = ["Header", "exif_orientation", "read"]

_READERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WEBP": simple.read_webp,
    "GIF": simple.read_gif,
    "TIFF": tiff.read,
    "BMP": simple.read_bmp,
    "JPEG2000": boxes.read_jpeg2000,
    "AVIF": lambda data: boxes.read_heif(data, "AVIF"),
    "HEIF": lambda data: boxes.read_heif(data, "HEIF"),
    "PPM": simple.read_pnm,
    "ICO": simple.read_ico,
}


def read(data: bytes) -> Header:
    """Return what a file's header says. No pixel is decoded, and the kind is not checked.

    Raises:
        BadImage: ``empty``, ``not_an_image``, ``unsupported``, ``truncated`` or ``decode_error``. No other exception is raised,
            whatever the bytes are.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    name = file_format(data)
    if name == "HEIF" and importlib.util.find_spec("pillow_heif") is None:
        raise unsupported("a HEIF image (HEIC)", f"{install_hint('heif')} adds its decoder")
    if name is not None:
        try:
            return _READERS[name](data)
        except BadImage:
            raise
        except NotThisFormat:
            pass
        except (struct.error, IndexError, OverflowError) as error:
            raise cut_off(name, "its header is not whole") from error
        except Exception as error:  # one header that nobody foresaw must not end a run
            raise damaged(f"the {name}'s header can't be read: {type(error).__name__}") from error
    # No name for the error: its frame would hold the error, and the error its frame and the data.
    raise unsupported_kind(data) or BadImage("not_an_image", "no decoder knows what it is")
