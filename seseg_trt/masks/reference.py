"""Make masks and masked images with Pillow: the reference that all other implementations must match byte for byte.

The results are those of the original program, which used Pillow 5.4.1. They are the same with any Pillow since 11. The steps:

1. :func:`sample_nearest` makes the network's input.
2. :func:`resize_map` resizes the confidence map to the image's size.
3. :func:`apply_threshold` turns it into a mask of 0 and 255, or leaves it as an opacity map.
4. :func:`composite` covers a part of the image with the mask colour.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..options import MaskOptions, OutputKind

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

BAND_PIXELS = 1 << 18
"""The number of pixels that are composited at once. Bands avoid further copies of a large image."""

RANDOM_COLOR_DOMAIN = b"seseg_trt random colour 1"
"""The prefix of the hashed text for the random colour's key. It keeps the key distinct from other uses of SHA-256."""


@functools.lru_cache(maxsize=1024)
def nearest_index(source: int, target: int) -> npt.NDArray[np.int64]:
    """Return the index of the source pixel that Pillow 5's NEAREST takes for each target pixel along an axis.

    Pillow (``ImagingScaleAffine`` in Geometry.c) sums the scale in doubles, and the rounding of that sum decides ties. If ``target`` is a
    power of two such as 256, nothing is rounded and the index is ``(2 k + 1) * source // (2 * target)``. There is no closed form for
    other sizes.

    Args:
        source: the image's width or height in pixels, at least 1.
        target: the width or height to make, in pixels, at least 1.

    Returns:
        int64 [target], each within 0..source - 1; read-only, because it is shared between callers.
    """
    scale = source / target
    steps = np.full(target, scale)
    steps[0] = scale * 0.5
    # np.cumsum adds in sequence, as Pillow does; np.sum adds pairwise and would round differently.
    index = np.cumsum(steps).astype(np.int64)
    index.flags.writeable = False
    return index


@functools.lru_cache(maxsize=1024)
def _pillow_agrees(source: int, target: int) -> bool:
    """Return whether the installed Pillow's NEAREST takes the same pixels along an axis as :func:`nearest_index`."""
    from PIL import Image

    row = Image.fromarray(np.arange(source, dtype=np.int32)[np.newaxis])
    taken = np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0]
    return bool(np.array_equal(taken, nearest_index(source, target)))


def sample_nearest(rgb: Pixels | Image.Image, size: int) -> Pixels:
    """Make the network's input by resizing the image with Pillow 5's NEAREST.

    Args:
        rgb: an array, uint8 [H, W, 3], or a Pillow image of mode RGB, which avoids a copy.
        size: the side of the network's input, in pixels.

    Returns:
        uint8 [size, size, 3]; may be read-only.
    """
    if isinstance(rgb, np.ndarray):
        rows, columns = nearest_index(rgb.shape[0], size), nearest_index(rgb.shape[1], size)
        return rgb[rows[:, np.newaxis], columns]
    from PIL import Image

    if _pillow_agrees(rgb.width, size) and _pillow_agrees(rgb.height, size):
        return np.asarray(rgb.resize((size, size), Image.Resampling.NEAREST))
    return sample_nearest(np.asarray(rgb), size)


def resize_map(confidence: Pixels, width: int, height: int) -> Pixels:
    """Resize a confidence map to the image's size with Pillow 5's BICUBIC.

    Pillow 5 (``ImagingResample`` in Resample.c) resizes horizontally first and rounds to uint8 between the passes. Newer versions choose
    the order by the sizes, which changes the result. One call for each axis fixes the order.

    Args:
        confidence: the confidence map, uint8 [S, S].
        width, height: the image's size in pixels.

    Returns:
        uint8 [height, width]; may be read-only.
    """
    from PIL import Image

    bicubic = Image.Resampling.BICUBIC
    source = Image.fromarray(confidence)
    return np.asarray(source.resize((width, source.height), bicubic).resize((width, height), bicubic))


def apply_threshold(mask: Pixels, threshold: int | None) -> Pixels:
    """Apply a threshold to an opacity map: 255 where ``m > 255 * threshold / 100``, else 0.

    The comparison is done in integers. The original compares with ``255*(t/100)`` in doubles; both give the same result for every
    threshold of 0 to 100 and every level.

    Args:
        mask: uint8 [H, W].
        threshold: a percentage, 0..100; None returns the mask unchanged.

    Returns:
        uint8 [H, W]; ``mask`` itself if the threshold is None.
    """
    if threshold is None:
        return mask
    marked = mask > np.uint8(255 * threshold // 100)
    return np.negative(marked.view(np.uint8))


def random_key(seed: int, identity: bytes, kind: OutputKind) -> tuple[int, int]:
    """Return the Philox key of an output's random colour, two 64-bit words; see :func:`random_color`."""
    text = b"\0".join((RANDOM_COLOR_DOMAIN, str(seed).encode(), kind.encode(), identity))
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def random_color(width: int, height: int, seed: int, identity: bytes, kind: OutputKind) -> Pixels:
    """Return the random mask colour of an output: every channel of every pixel is uniform over 0..255.

    The colour depends on the arguments alone, so it is the same in a resumed run, on another device and in another order of work.
    The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):

    - Key: the first 16 bytes of the SHA-256 of :data:`RANDOM_COLOR_DOMAIN`, the seed in decimal, the output kind and the identity, joined
      by zero bytes. They are read as two little-endian 64-bit words.
    - Counter: four 64-bit words. Block b = 0, 1, 2... has the counter (b + 1, 0, 0, 0), because NumPy increments before it draws.
    - Stream: the four output words of each block, little-endian, so block b gives bytes 32 b to 32 b + 31.
    - Image: byte i of the stream is byte i of the image in row-major order with interleaved RGB.

    Args:
        width, height: the image's size in pixels.
        seed: the user's seed.
        identity: the input's relative path (``os.fsencode``, separated by ``/``).
        kind: the output; ``se`` and ``nse`` get different colours.

    Returns:
        uint8 [height, width, 3].
    """
    key = np.array(random_key(seed, identity, kind), dtype=np.uint64)
    count = width * height * 3
    words = np.random.Philox(key=key).random_raw(-(-count // 8))
    stream = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return stream[:count].reshape(height, width, 3)


def composite(image: Image.Image, mask: Pixels, kind: OutputKind, options: MaskOptions, identity: bytes) -> Pixels:
    """Make an output: the mask itself, or the image with a part covered by the mask colour.

    Pillow's ``paste`` (``BLEND`` in ImagingUtils.h) computes ``a = image * (255 - m) + color * m + 128; out = ((a >> 8) + a) >> 8``.

    Args:
        image: mode RGB; it is not modified.
        mask: uint8 [H, W] of the image's size, from :func:`apply_threshold`.
        kind: ``mask`` returns the mask; ``nse`` covers the explicit parts; ``se`` covers everything else.
        options: the mask colour, and the seed of a random one.
        identity: the input's relative path (``os.fsencode``, separated by ``/``), the key of the random colour.

    Returns:
        uint8 [H, W] for ``mask``, not copied; uint8 [H, W, 3] otherwise.

    Raises:
        ValueError: the mask does not have the image's size.
    """
    if mask.shape != (image.height, image.width):
        raise ValueError(f"the mask is {mask.shape}, the image (height, width) {(image.height, image.width)}")
    if kind == "mask":
        return mask
    from PIL import Image

    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    two_level = not np.any(mask + np.uint8(1) > 1)  # only 0 and 255 are at most 1 after adding 1 modulo 256
    color = random_color(width, height, options.seed, identity, kind) if options.color == "random" else options.color
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # For uint8, ~m is 255 - m.
        cover = Image.fromarray(mask[top:bottom] if kind == "nse" else np.invert(mask[top:bottom]))
        band = image.crop((0, top, width, bottom))
        if two_level:
            # Pillow pastes twice as fast with a 1-bit mask, which needs no blending.
            cover = cover.convert("1", dither=Image.Dither.NONE)
        # Pasting an image of one colour takes half as long as pasting a colour, with the same result.
        sheet = Image.fromarray(color[top:bottom]) if isinstance(color, np.ndarray) else Image.new("RGB", (width, bottom - top), color)
        band.paste(sheet, (0, 0), cover)
        result[top:bottom] = np.asarray(band)
    return result
