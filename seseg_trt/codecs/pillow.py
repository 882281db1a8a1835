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
from . import headers
from .headers import Header, kinds
from .silence import PillowSilence

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
    "HEIF": "",  # by pillow-heif, an extra
}
"""The supported formats and their Pillow modules."""

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
    """Decode a file to 8-bit RGB.

    The pixels are those of ``Image.convert("RGB")``: an alpha channel is dropped, not blended; CMYK is converted without a
    profile. 16-bit greyscale is the exception: Pillow clips it, and here it is scaled by ``v >> 8``, as Pillow does for 16-bit RGB.
    Kinds of samples that were not checked (:mod:`.headers.kinds`) are refused.

    The orientation is read from EXIF, also in PNG, WebP and TIFF. An unreadable EXIF block is ignored.

    Args:
        data: the whole file.
        options: the pixel limit, what to do with several pictures, and whether to apply the orientation.

    Raises:
        BadImage: with the reason ``empty``, ``not_an_image``, ``unsupported``, ``several_frames``, ``too_large``, ``truncated`` or
            ``decode_error``. No other exception is raised, whatever the bytes are.

    Some damage goes unnoticed: a JPEG with data missing inside its scan. libjpeg fills the gap with grey and warns, but Pillow
    does not pass the warning on. Such an image is masked as it appears.
    """
    header = headers.read(data)
    check(header, options)
    stripped = header.stripped()
    with _SILENCE:
        try:
            return _load(header, stripped, options)
        except BadImage:
            raise
        except Exception as error:
            raise _explained(error, header) from error


def check(header: Header, options: DecodeOptions) -> None:
    """Refuse what the header shows not to be decodable.

    Raises:
        BadImage: ``unsupported``, ``several_frames``, ``too_large`` or ``decode_error``.
    """
    kind = header.kind
    _check_frames(kind.format, header.pictures, options)
    _check_size((header.width, header.height), options)
    kinds.check(kind)


def probe_size(data: bytes, options: DecodeOptions) -> tuple[int, int]:
    """Return the (width, height) that :func:`decode` would give, in pixels, from the header alone.

    Raises:
        BadImage: as :func:`decode`, for errors that the header shows.
    """
    header = headers.read(data)
    check(header, options)
    (width, height), orientation = (header.width, header.height), header.orientation
    if orientation == 0:
        with _SILENCE:
            try:
                image = _open(header.kind.format, header.stripped())
            except Exception as error:
                raise _explained(error, header) from error
            (width, height), orientation = image.size, headers.exif_orientation(image.info.get("exif"))
    return (height, width) if orientation >= 5 and options.exif_orientation else (width, height)


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
    bad = too_long(*image.size, options.format)
    if bad is not None:
        try:
            raise bad
        finally:
            del bad  # its frame would hold it, and it its frame and the image
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


def load_plugins() -> None:
    """Import Pillow's decoders now, so that the first image does not wait for them."""
    _openers()


def _open(file_format: str, data: bytes) -> ImageFile.ImageFile:
    """Return an unloaded image.

    This is ``Image.open`` for one format, without its size check, whose limit is global to the process.
    """
    opener = _openers().get(file_format)
    if opener is None:
        raise kinds.unsupported(f"a file of the format {file_format}", "a newer Pillow may decode it")
    factory, accept = opener
    says = accept(data[:16]) if accept else None
    if isinstance(says, str):  # a plugin whose native library is missing
        raise kinds.unsupported(f"a file of the format {file_format}", f"Pillow says: {says}")
    image: ImageFile.ImageFile = factory(io.BytesIO(data), "")
    return image


@functools.lru_cache(maxsize=1)
def _openers() -> dict[str, tuple[Any, Any]]:
    """Return (factory, accept) for each format that the installed Pillow supports."""
    from PIL import Image

    for module in FORMATS.values():
        if module:
            with contextlib.suppress(ImportError):  # an older Pillow
                importlib.import_module(f"PIL.{module}")
    found = {name: Image.OPEN[name] for name in FORMATS if name in Image.OPEN and FORMATS[name]}
    with contextlib.suppress(ImportError):
        found["HEIF"] = importlib.import_module("pillow_heif").HeifImageFile, None
    return found


def _load(header: Header, stripped: bytes, options: DecodeOptions) -> DecodedImage:
    source_format = header.kind.format
    image = _open(source_format, stripped)
    if source_format == "HEIF":  # its reader counts the images that are no thumbnails, depth maps or tiles
        _check_frames(source_format, getattr(image, "n_frames", 1), options)
    _check_size(image.size, options)
    image.load()
    _check_size(image.size, options)
    if source_format not in ("AVIF", "HEIF") and image.size != (header.width, header.height):
        raise BadImage("decode_error", f"the {source_format} was decoded to another size than its header states")
    # A row that the decoder did not reach is 0.
    if header.complete is not None and ("interlaced" in header.kind.compression or not _last_row(image).any()) and not header.complete():
        raise BadImage("truncated", f"the {source_format} ends too early: rows are missing")
    rgb = _to_rgb(image, header)
    orientation = header.orientation or headers.exif_orientation(image.info.get("exif"))
    turned = _turned(_without_metadata(rgb), orientation if options.exif_orientation else 1)
    return DecodedImage(turned, turned.width, turned.height, "pillow", source_format)


def _last_row(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(image.crop((0, image.height - 1, image.width, image.height)))


def _check_frames(file_format: str, pictures: int, options: DecodeOptions) -> None:
    if pictures > 1 and options.frames == "refuse":
        raise BadImage(
            "several_frames",
            f"the {file_format} has {pictures} pictures, and a mask shows one; --frames first masks the first, and no other",
        )


def _check_size(size: tuple[int, int], options: DecodeOptions) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("decode_error", f"its header states a size of {width} x {height} pixels")
    if width * height > options.max_pixels:
        raise BadImage(
            "too_large",
            f"{width} x {height} is {width * height} pixels, over the limit of {options.max_pixels}; --max-pixels raises it",
        )


def _to_rgb(image: Image.Image, header: Header) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        from PIL import Image

        # Pillow scales 12-bit samples to 16 bits in other formats, but not in TIFF.
        bits = header.kind.depth if header.kind.format == "TIFF" else 16
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    # convert() would map the transparent colour into the result, and can fail at that.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _without_metadata(image: Image.Image) -> Image.Image:
    """Return an image that shares the pixels, without a copy, and nothing else."""
    from PIL import Image

    return Image.Image()._new(image.im)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation."""
    from PIL import Image

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
    return image.transpose(methods[orientation]) if orientation in methods else image


def _explained(error: Exception, header: Header) -> BadImage:
    """Turn a decoder's exception into a BadImage with a reason."""
    from PIL import Image

    words = _words(error)
    if isinstance(error, Image.DecompressionBombError):
        return BadImage("too_large", f"Pillow takes it for a decompression bomb: {words}")
    if isinstance(error, MemoryError):
        return BadImage("decode_error", "there is not enough memory to decode it")
    says_so = re.search(r"truncat|not enough image data|unexpected end|end of file", words, re.IGNORECASE)
    reads_beyond = isinstance(error, (struct.error, IndexError, EOFError))
    if says_so or reads_beyond or header.cut:
        return BadImage("truncated", f"the {header.kind.format} ends too early: {words}")
    return BadImage("decode_error", f"the {header.kind.format} is damaged: {words}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
