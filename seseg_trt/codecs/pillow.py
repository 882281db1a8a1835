"""Decode images and encode JPEG and WebP with Pillow.

Only the formats of :data:`FORMATS` are opened: raster images with compiled decoders. Other Pillow formats run programs (PostScript),
are drawings (metafiles), have no signature (a text file can pass for a TGA), or are decoded by slow Python code.

Pillow's global state is left alone, including ``LOAD_TRUNCATED_IMAGES`` and its pixel limit: the size is checked here, from the header,
before any pixel is decoded. Warnings are ignored during decoding, see :class:`.silence.PillowSilence`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import re
import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import BadImage
from ..options import DecodeOptions, EncodeOptions, ImageFormat
from .silence import PillowSilence
from .sniff import TAR, ends_early, unsupported_kind

if TYPE_CHECKING:
    from PIL import Image, ImageFile

FORMATS: dict[str, str] = {
    "JPEG": "JpegImagePlugin",  # also the first image of an MPO, a file of several JPEGs
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",  # since Pillow 11.3
    "PPM": "PpmImagePlugin",  # PBM, PGM, PPM, PFM
    "ICO": "IcoImagePlugin",
}
"""The supported formats and their Pillow modules."""

WEAK_SIGNATURES = frozenset({"BMP", "PPM", "ICO"})
"""Formats whose signature is so short that text or noise can begin with it."""

ORIENTATION_TAG = 274
LONGEST_SIDE: dict[ImageFormat, int] = {"jpg": 65_535, "webp": 16_383, "png": 2**31 - 1}
WEBP_METHOD = 2
"""libwebp's effort, 0 to 6. On photographs, 2 takes half the time of the default (4) and makes files 5% larger."""

DecodedBy = Literal["dali", "nvimgcodec", "pillow"]

_SILENCE = PillowSilence()


@dataclasses.dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image with its orientation applied, without metadata.

    Attributes:
        image: a ``PIL.Image`` of mode RGB if Pillow decoded it, otherwise an array, uint8 [H, W, 3].
        width, height: the size in pixels.
        decoded_by: the library.
        source_format: a key of :data:`FORMATS` if Pillow decoded it.
    """

    image: Any
    width: int
    height: int
    decoded_by: DecodedBy
    source_format: str = ""


def decode(data: bytes, options: DecodeOptions) -> DecodedImage:
    """Decode a file to 8-bit RGB. Only the first frame of an animation is decoded.

    The pixels are those of ``Image.convert("RGB")``: an alpha channel is dropped, not blended; CMYK is converted without a
    profile; 32-bit samples are clipped to 0..255. 16-bit greyscale is the exception: Pillow clips it, and here it is scaled by
    ``v >> 8``, as Pillow does for 16-bit RGB.

    The orientation is read from EXIF, also in PNG, WebP and TIFF. An unreadable EXIF block is ignored.

    Args:
        data: the whole file.
        options: the pixel limit, and whether to apply the orientation.

    Raises:
        BadImage: with the reason ``empty``, ``not_an_image``, ``unsupported``, ``too_large``, ``truncated`` or ``decode_error``.
            No other exception is raised, whatever the bytes are.

    One kind of damage goes unnoticed: a JPEG with data missing inside its scan. libjpeg fills the gap with grey and warns, but Pillow
    does not pass the warning on. Such an image is masked as it appears.
    """
    source_format = ""
    with _SILENCE:
        try:
            source_format, image = _open(data)
            return _load(source_format, image, options)
        except BadImage:
            raise
        except Exception as error:
            raise _explained(error, data, source_format) from error


def read_header(data: bytes) -> tuple[str, ImageFile.ImageFile] | None:
    """Return a file's format (a key of :data:`FORMATS`) and its image, not yet loaded; None if its header can't be read. Never raises."""
    with _SILENCE:
        try:
            return _open(data)
        except Exception:  # decode() reports the error
            return None


def probe_pixels(data: bytes) -> int:
    """Return an image's pixel count from its header, or 0 if the header can't be read. Never raises."""
    header = read_header(data)
    return max(0, header[1].width) * max(0, header[1].height) if header is not None else 0


def probe_size(data: bytes, options: DecodeOptions) -> tuple[int, int]:
    """Return the (width, height) that :func:`decode` would give, in pixels, from the header alone.

    A PNG's orientation is missed if its EXIF chunk follows the pixels.

    Raises:
        BadImage: as :func:`decode`, for errors that the header shows.
    """
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
    # orientations 5 to 8 swap width and height
    return (height, width) if (wanted >= 5) != (already >= 5) else (width, height)


def encode_lossy(image: Image.Image, options: EncodeOptions) -> bytes:
    """Encode an image as JPEG or WebP, without metadata.

    Args:
        image: an image of mode RGB.
        options: format (``jpg`` or ``webp``), quality and chroma subsampling.

    Returns:
        The file's bytes.

    Raises:
        BadImage: ``encode_error``: a side is too long for the format, or the encoder failed.
        ValueError: the format is ``png``; use :mod:`seseg_trt.codecs.png`.
    """
    if options.format == "png":
        raise ValueError("PNG is not lossy")
    if bad := too_long(*image.size, options.format):
        raise bad
    parameters: dict[str, Any] = {"quality": options.quality}
    if options.format == "jpg":
        parameters |= {"format": "JPEG", "subsampling": ":".join(options.subsampling)}
    else:
        parameters |= {"format": "WEBP", "method": WEBP_METHOD}
    buffer = io.BytesIO()
    try:
        _without_metadata(image).save(buffer, **parameters)
    except (OSError, ValueError, MemoryError) as error:
        raise BadImage("encode_error", f"the {options.format} encoder failed: {_words(error)}") from error
    return buffer.getvalue()


def too_long(width: int, height: int, image_format: ImageFormat) -> BadImage | None:
    """Return the error (``encode_error``) if a side, in pixels, is too long for a format, otherwise None."""
    longest = LONGEST_SIDE[image_format]
    if max(width, height) <= longest:
        return None
    why = f"an image of {width} x {height} pixels can't be a {image_format}: the longest side is {longest}; png takes it"
    return BadImage("encode_error", why)


def _open(data: bytes) -> tuple[str, ImageFile.ImageFile]:
    """Read a file's header; return the format and the unloaded image.

    This is ``Image.open`` without its size check, whose limit is global to the process, and without its warnings about files that are
    not images.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    failures: list[tuple[str, Exception]] = []
    for name, factory, accept in _openers():
        if accept(data[:16]) is not True:  # a plugin whose native library is missing returns an error text
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
    """Return (format, factory, accept) for each format that the installed Pillow supports."""
    from PIL import Image

    for module in FORMATS.values():
        with contextlib.suppress(ImportError):  # an older Pillow
            importlib.import_module(f"PIL.{module}")
    return tuple((name, *Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)


def _load(source_format: str, image: ImageFile.ImageFile, options: DecodeOptions) -> DecodedImage:
    _check_size(image.size, options)
    already_applied = _tiff_orientation_to_come(image) if source_format == "TIFF" else 1
    own_orientation = image.tag_v2.get(ORIENTATION_TAG) if source_format == "TIFF" else None  # type: ignore[attr-defined]
    image.load()
    _check_size(image.size, options)  # a GIF frame or an icon can be larger than its header states
    if own_orientation is None:
        own_orientation = exif_orientation(image.info.get("exif"))
    wanted = own_orientation if options.exif_orientation else 1
    rgb = _turned(_without_metadata(_to_rgb(image, source_format)), already_applied, wanted)
    return DecodedImage(rgb, rgb.width, rgb.height, "pillow", source_format)


def _check_size(size: tuple[int, int], options: DecodeOptions) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("decode_error", f"its header states a size of {width} x {height} pixels")
    if width * height > options.max_pixels:
        raise BadImage(
            "too_large",
            f"{width} x {height} is {width * height} pixels, over the limit of {options.max_pixels}; --max-pixels raises it",
        )


def _to_rgb(image: Image.Image, source_format: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and source_format in ("PNG", "PPM")):
        from PIL import Image

        bits = 16
        if source_format == "TIFF":  # Pillow scales 12-bit samples to 16 bits in other formats, but not in TIFF
            bits = int(image.tag_v2.get(258, (16,))[0])  # type: ignore[attr-defined]
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    # convert() would map the transparent colour into the result, and can fail at that.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _without_metadata(image: Image.Image) -> Image.Image:
    """Return an image that shares the pixels, without a copy, and nothing else."""
    from PIL import Image

    return Image.Image()._new(image.im)


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
    return value if isinstance(value, int) else 1


def _tiff_orientation_to_come(image: ImageFile.ImageFile) -> int:
    """Return the orientation that Pillow applies by itself when it loads a TIFF."""
    value = image.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, applied: int, wanted: int) -> Image.Image:
    """Undo the orientation ``applied`` and apply ``wanted``."""
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
    """Turn a decoder's exception into a BadImage with a reason."""
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
