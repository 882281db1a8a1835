"""Bytes to pixels and pixels to lossy bytes, by Pillow.

Only formats of :data:`FORMATS` are opened: raster images whose decoders run inside this process. Pillow knows others that run
programs (PostScript), are drawings (metafiles), have no signature (a text could pass for a TGA), or are decoded by slow Python.

Nothing of Pillow's global state is changed: not its pixel limit (the size is checked here, from the header, before any pixel is
decoded), and not ``LOAD_TRUNCATED_IMAGES``. Its warnings are silenced while images are decoded, see :class:`.silence.PillowSilence`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadImage
from ..options import DecodeOptions, EncodeOptions
from .silence import PillowSilence
from .sniff import TAR, ends_early, unsupported_kind

if TYPE_CHECKING:
    from PIL import Image, ImageFile

FORMATS: dict[str, str] = {
    "JPEG": "JpegImagePlugin",  # and MPO: several JPEGs in a file, of which the first counts
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",  # from Pillow 11.3 on
    "PPM": "PpmImagePlugin",  # PBM, PGM, PPM, PFM
    "ICO": "IcoImagePlugin",
}
"""The formats that are decoded, and the modules of Pillow that do it."""

WEAK_SIGNATURES = frozenset({"BMP", "PPM", "ICO"})
"""Formats with a signature so short that a text or noise can begin with it."""

ORIENTATION_TAG = 274
JPEG_MAX_SIDE = 65_535
WEBP_MAX_SIDE = 16_383
SUBSAMPLING = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0"}
WEBP_METHOD = 2
"""libwebp's effort, 0 to 6: on a photograph, 2 takes half of the time of the default (4) and adds 5% to the file."""

_SILENCE = PillowSilence()


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """An image, ready to be masked.

    Attributes:
        image: mode RGB, the orientation applied, without metadata.
        width: of ``image``, in pixels.
        height: of ``image``, in pixels.
        source_format: a key of :data:`FORMATS`.
    """

    image: Image.Image
    width: int
    height: int
    source_format: str


def decode(data: bytes, options: DecodeOptions) -> Decoded:
    """Decode a file's bytes to 8-bit RGB; of several frames the first.

    The pixels are those of ``Image.convert("RGB")``: an alpha channel is dropped, not blended; CMYK is converted without a
    profile; 32-bit samples are clipped to 0..255. Only 16-bit greyscale is different: Pillow clips it, and here it is scaled by
    ``v >> 8``, which is what Pillow itself does with 16-bit RGB.

    The orientation is EXIF's, also in PNG, WebP and TIFF; an EXIF block that can't be read is as good as none.

    Args:
        data: the whole file.
        options: pixel limit and orientation.

    Raises:
        BadImage: with the reason ``empty``, ``not_an_image``, ``unsupported``, ``too_large``, ``truncated`` or ``decode_error``.
            Nothing else is raised, whatever the bytes are.

    One kind of damage is not noticed: a JPEG with a hole in its scan that still ends, or is zeros to its end. libjpeg fills such a
    hole with grey and only warns, and Pillow does not pass its warnings on. It is masked as the picture that it shows.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    with _SILENCE:
        try:
            source_format, image = _open(data)
        except BadImage:
            raise
        except Exception as error:
            raise _explained(error, data, "") from error
        try:
            return _load(source_format, image, options)
        except BadImage:
            raise
        except Exception as error:
            raise _explained(error, data, source_format) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says: a key of :data:`FORMATS`, Pillow's mode, the size before any turn, and whether it holds an EXIF block."""

    source_format: str
    mode: str
    width: int
    height: int
    has_exif: bool


def read_header(data: bytes) -> Header | None:
    """Return what a file's header says; None where it has none that can be read. Raises nothing."""
    with _SILENCE:
        try:
            source_format, image = _open(data)
            return Header(source_format, image.mode, *image.size, has_exif="exif" in image.info)
        except Exception:  # decode() will say what is wrong
            return None


def probe_pixels(data: bytes) -> int:
    """Return how many pixels an image will have, read from its header; 0 where it has none that can be read. Raises nothing."""
    with _SILENCE:
        try:
            width, height = _open(data)[1].size
        except Exception:  # decode() will say what is wrong
            return 0
    return max(0, width) * max(0, height)


def probe_size(data: bytes, options: DecodeOptions) -> tuple[int, int]:
    """Return the (width, height) that :func:`decode` will give, read from the header.

    A PNG may keep its orientation behind its pixels; it is then not known here.

    Raises:
        BadImage: as :func:`decode`, for what a header can show.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    with _SILENCE:
        source_format, image = _open(data)
        _check_size(image.size, options)
        try:
            already, own = 1, exif_orientation(image.info.get("exif"))
            if source_format == "TIFF":
                already = own = _tiff_orientation_to_come(image)
        except Exception as error:
            raise _explained(error, data, source_format) from error
    wanted = own if options.exif_orientation else 1
    width, height = image.size
    # orientations 5 to 8 lay an image on its side
    return (height, width) if (wanted >= 5) != (already >= 5) else (width, height)


def encode_lossy(image: Image.Image, options: EncodeOptions) -> bytes:
    """Encode an image as JPEG or WebP, without any metadata.

    Args:
        image: RGB.
        options: format (``jpg`` or ``webp``), quality and chroma subsampling.

    Raises:
        BadImage: ``encode_error``: a side is too long for the format, or the encoder failed.
        ValueError: the format is ``png``: see :mod:`seseg_trt.codecs.png`.
    """
    if options.format == "png":
        raise ValueError("PNG is not lossy")
    limit = JPEG_MAX_SIDE if options.format == "jpg" else WEBP_MAX_SIDE
    if max(image.size) > limit:
        raise BadImage(
            "encode_error",
            f"an image of {image.width} x {image.height} pixels can't be a {options.format}: the longest side is {limit}; png takes it",
        )
    parameters: dict[str, Any] = {"quality": options.quality}
    if options.format == "jpg":
        parameters |= {"format": "JPEG", "subsampling": SUBSAMPLING[options.subsampling]}
    else:
        parameters |= {"format": "WEBP", "method": WEBP_METHOD}
    buffer = io.BytesIO()
    try:
        _without_metadata(image).save(buffer, **parameters)
    except (OSError, ValueError, MemoryError) as error:
        raise BadImage("encode_error", f"the {options.format} encoder failed: {_words(error)}") from error
    return buffer.getvalue()


def _open(data: bytes) -> tuple[str, ImageFile.ImageFile]:
    """Return the format and the image, of which only the header has been read.

    It is what ``Image.open`` does, without its check of the size, which warns and raises at a limit that is global to the
    process, and without its warnings about bytes that are no image.
    """
    failures: list[tuple[str, Exception]] = []
    for name, factory, accept in _openers():
        if not accept(data[:16]):
            continue
        try:
            return name, factory(io.BytesIO(data), "")
        except Exception as error:
            failures.append((name, error))
    kind = unsupported_kind(data)
    if kind is not None:
        way_out = "name it itself as an input, and its entries are read" if kind == TAR else "convert it to an image first"
        raise BadImage("unsupported", f"it is {kind}, which is not decoded; {way_out}")
    for name, failure in failures:
        if name not in WEAK_SIGNATURES:
            raise _explained(failure, data, name) from failure
    raise BadImage("not_an_image", "no decoder knows what it is") from (failures[0][1] if failures else None)


@functools.lru_cache(maxsize=1)
def _openers() -> tuple[tuple[str, Any, Any], ...]:
    """Return (format, factory, accept) of each format that the installed Pillow can open."""
    from PIL import Image

    openers = []
    for name, module in FORMATS.items():
        try:
            importlib.import_module(f"PIL.{module}")
        except ImportError:  # an older Pillow
            continue
        if name in Image.OPEN:
            factory, accept = Image.OPEN[name]
            openers.append((name, factory, functools.partial(_accepts, accept)))
    return tuple(openers)


def _accepts(accept: Any, prefix: bytes) -> bool:
    # A plugin without its native library answers with a sentence instead of True.
    return accept(prefix) is True


def _load(source_format: str, image: ImageFile.ImageFile, options: DecodeOptions) -> Decoded:
    _check_size(image.size, options)
    already_applied = _tiff_orientation_to_come(image) if source_format == "TIFF" else 1
    own_orientation = image.tag_v2.get(ORIENTATION_TAG) if source_format == "TIFF" else None  # type: ignore[attr-defined]
    image.load()
    _check_size(image.size, options)  # a GIF's frame and an icon's image may be larger than the header says
    if own_orientation is None:
        own_orientation = exif_orientation(image.info.get("exif"))
    wanted = own_orientation if options.exif_orientation else 1
    rgb = _turned(_without_metadata(_to_rgb(image, source_format)), already_applied, wanted)
    return Decoded(rgb, rgb.width, rgb.height, source_format)


def _check_size(size: tuple[int, int], options: DecodeOptions) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("decode_error", f"it says that it is {width} x {height} pixels")
    if width * height > options.max_pixels:
        raise BadImage(
            "too_large",
            f"{width} x {height} is {width * height} pixels, over the limit of {options.max_pixels}; --max-pixels raises it",
        )


def _to_rgb(image: Image.Image, source_format: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and source_format in ("PNG", "PPM")):
        return _grey16_to_rgb(image, source_format)
    # Only pixels count here; Pillow would look for a place of the transparent colour in the result, and may fail to find one.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image, source_format: str) -> Image.Image:
    from PIL import Image

    bits = 16
    if source_format == "TIFF":  # 12-bit samples are stored as they are; other formats' decoders scale them up to 16
        bits = int(image.tag_v2.get(258, (16,))[0])  # type: ignore[attr-defined]
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _without_metadata(image: Image.Image) -> Image.Image:
    """Return the same pixels, not copied, as a plain image that holds nothing else of the file."""
    from PIL import Image

    return Image.Image()._new(image.im)


def exif_orientation(block: object) -> int:
    """Return the orientation, 1..8, that an EXIF block states; 1 if it states none or can't be read."""
    if not isinstance(block, bytes):
        return 1
    from PIL import Image

    try:
        exif = Image.Exif()
        exif.load(block)
        value = exif.get(ORIENTATION_TAG, 1)
    except Exception:  # what a damaged block makes Pillow raise is open-ended
        return 1
    return value if isinstance(value, int) else 1


def _tiff_orientation_to_come(image: ImageFile.ImageFile) -> int:
    """Return the orientation that Pillow will apply while it loads a TIFF, asked for or not."""
    value = image.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, applied: int, wanted: int) -> Image.Image:
    """Return ``image``, to which the orientation ``applied`` has been applied, with ``wanted`` instead."""
    from PIL import Image

    if applied == wanted:
        return image
    turn = Image.Transpose
    methods = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    undone = {6: 8, 8: 6}.get(applied, applied)
    for orientation in (undone, wanted):
        if orientation in methods:
            image = image.transpose(methods[orientation])
    return image


def _explained(error: Exception, data: bytes, source_format: str) -> BadImage:
    """Return the reason for what a decoder raised."""
    from PIL import Image

    words = _words(error)
    if isinstance(error, Image.DecompressionBombError):
        return BadImage("too_large", f"Pillow takes it for a decompression bomb: {words}")
    if isinstance(error, MemoryError):
        return BadImage("decode_error", "there is not enough memory to decode it")
    says_so = re.search(r"truncat|not enough image data|unexpected end|end of file", words, re.IGNORECASE)
    reads_beyond = isinstance(error, (struct.error, IndexError, EOFError))
    if says_so or reads_beyond or ends_early(data, source_format):
        return BadImage("truncated", f"the {source_format or 'image'} ends too early: {words}")
    return BadImage("decode_error", f"the {source_format or 'image'} is damaged: {words}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
