"""From a confidence map to masks and masked images, on the CPU: the reference that every other lane must match byte for byte.

The semantics are the original program's (Pillow 5.4.1), written so that any Pillow from 11 on gives its bytes. Step by step:

1. :func:`sample_nearest` makes the network's input.
2. :func:`resize_map` brings the confidence map to the image's size.
3. :func:`apply_threshold` makes a two-level mask of it, or leaves it an opacity map.
4. :func:`composite` covers the image with the mask colour.
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
"""How much of an image is composited at once: little enough that a large image needs no second and third copy of itself."""

RANDOM_COLOR_DOMAIN = b"seseg_trt random colour 1"
"""What the key of the random colour begins with, so that no other use of SHA-256 gives the same key."""


@functools.lru_cache(maxsize=1024)
def nearest_index(source: int, target: int) -> npt.NDArray[np.int64]:
    """Return which of ``source`` pixels Pillow 5's NEAREST takes for each of ``target`` pixels.

    Pillow (``ImagingScaleAffine`` in Geometry.c) adds the scale up in double, and the rounding of that sum decides ties. Where
    ``target`` is a power of two, as 256 is, nothing is rounded and the index is ``(2 k + 1) * source // (2 * target)``; at other
    sizes no closed form gives it.

    Args:
        source: the image's width or height, at least 1.
        target: the width or height to make, at least 1.

    Returns:
        int64 [target], each within 0..source - 1; read-only, because it is shared between callers.
    """
    scale = source / target
    steps = np.full(target, scale)
    steps[0] = scale * 0.5
    # cumsum adds one after the other (np.sum's pairwise order would round differently)
    index = np.cumsum(steps).astype(np.int64)
    index.flags.writeable = False
    return index


@functools.lru_cache(maxsize=1024)
def _pillow_agrees(source: int, target: int) -> bool:
    """Whether the installed Pillow's NEAREST takes the pixels of :func:`nearest_index` along one axis."""
    from PIL import Image

    row = Image.fromarray(np.arange(source, dtype=np.int32)[np.newaxis])
    taken = np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0]
    return bool(np.array_equal(taken, nearest_index(source, target)))


def sample_nearest(rgb: Pixels | Image.Image, size: int) -> Pixels:
    """Make the network's input: ``size`` x ``size`` pixels of the image, taken as Pillow 5's NEAREST takes them.

    Args:
        rgb: uint8 [H, W, 3], or an RGB image, which spares the copy into an array.
        size: the side of the network's input, in pixels.

    Returns:
        uint8 [size, size, 3]; it may be read-only.
    """
    if isinstance(rgb, np.ndarray):
        rows, columns = nearest_index(rgb.shape[0], size), nearest_index(rgb.shape[1], size)
        return rgb[rows[:, np.newaxis], columns]
    from PIL import Image

    if _pillow_agrees(rgb.width, size) and _pillow_agrees(rgb.height, size):
        return np.asarray(rgb.resize((size, size), Image.Resampling.NEAREST))
    return sample_nearest(np.asarray(rgb), size)


def resize_map(confidence: Pixels, width: int, height: int) -> Pixels:
    """Bring a confidence map to the image's size by Pillow's BICUBIC, the horizontal pass first.

    Pillow 5 always takes the horizontal pass first and rounds to uint8 between the passes; newer ones choose the order by the
    sizes, which changes bytes. Two calls, one an axis, leave them no choice.

    Args:
        confidence: uint8 [S, S].
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        uint8 [height, width]; it may be read-only.
    """
    from PIL import Image

    bicubic = Image.Resampling.BICUBIC
    source = Image.fromarray(confidence)
    return np.asarray(source.resize((width, source.height), bicubic).resize((width, height), bicubic))


def apply_threshold(mask: Pixels, threshold: int | None) -> Pixels:
    """Make a two-level mask of an opacity map: 255 where ``m > 255 * threshold / 100``, else 0.

    It is computed in integers, ``100 m > 255 threshold``. The original compares with ``255*(t/100)`` in NumPy 1.16, which
    works in double there; for each threshold of 0 to 100 and each level both give the same.

    Args:
        mask: uint8 [H, W].
        threshold: 0..100, a percentage; None leaves the mask as it is.

    Returns:
        uint8 [H, W]; ``mask`` itself where the threshold is None.
    """
    if threshold is None:
        return mask
    marked = mask > np.uint8(255 * threshold // 100)
    return np.negative(marked.view(np.uint8))


def random_key(seed: int, identity: bytes, kind: OutputKind) -> tuple[int, int]:
    """Return the two 64-bit words of Philox's key for one output's random colour; see :func:`random_color`."""
    text = b"\0".join((RANDOM_COLOR_DOMAIN, str(seed).encode(), kind.encode(), identity))
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def random_color(width: int, height: int, seed: int, identity: bytes, kind: OutputKind) -> Pixels:
    """Return the random mask colour of one output: each pixel and channel uniform over 0..255.

    It depends on nothing but its arguments, so that a resumed run, another device and another order of work give the same
    bytes. The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):

    - key: the first 16 bytes of SHA-256 over :data:`RANDOM_COLOR_DOMAIN`, a zero byte, the seed in decimal, a zero byte,
      the output kind, a zero byte, and the identity to its end. Taken as two little-endian 64-bit words, key0 and key1.
    - counter: four 64-bit words. Block b = 0, 1, 2... has the counter (b + 1, 0, 0, 0): NumPy counts before it draws.
    - stream: the four output words of each block in turn, each little-endian, so block b makes bytes 32 b to 32 b + 31.
    - image: byte i of the stream is byte i of the image, row-major, RGB interleaved.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        seed: what the user chose.
        identity: the input's relative path (``os.fsencode``, separated by ``/``).
        kind: the output it is for; ``se`` and ``nse`` differ.

    Returns:
        uint8 [height, width, 3].
    """
    key = np.array(random_key(seed, identity, kind), dtype=np.uint64)
    count = width * height * 3
    words = np.random.Philox(key=key).random_raw(-(-count // 8))
    stream = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return stream[:count].reshape(height, width, 3)


def composite(image: Image.Image, mask: Pixels, kind: OutputKind, options: MaskOptions, identity: bytes) -> Pixels:
    """Make one output: the mask itself, or the image with the mask colour over a part of it.

    Pillow's paste blends each byte as ``a = image * (255 - m) + color * m + 128; out = ((a >> 8) + a) >> 8``.

    Args:
        image: RGB; it is not changed.
        mask: uint8 [H, W] of the image's size, from :func:`apply_threshold`.
        kind: ``mask`` is the mask; ``nse`` covers what is marked; ``se`` covers all else.
        options: the colour, and the seed of a random one.
        identity: the input's relative path (``os.fsencode``, separated by ``/``), which keys the random colour.

    Returns:
        uint8 [H, W] for ``mask``, which is not copied, else uint8 [H, W, 3].
    """
    if mask.shape != (image.height, image.width):
        raise ValueError(f"the mask is {mask.shape}, the image (height, width) {(image.height, image.width)}")
    if kind == "mask":
        return mask
    from PIL import Image

    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    two_level = _is_two_level(mask)
    color = random_color(width, height, options.seed, identity, kind) if options.color == "random" else options.color
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # For uint8, ~m is 255 - m.
        cover = Image.fromarray(mask[top:bottom] if kind == "nse" else np.invert(mask[top:bottom]))
        band = image.crop((0, top, width, bottom))
        if two_level:
            # Nothing is blended then, and Pillow covers twice as fast where it knows.
            cover = cover.convert("1", dither=Image.Dither.NONE)
        # Pillow blends the same bytes from an image of one colour as from the colour, in half of the time.
        band.paste(_sheet(color, top, bottom, width), (0, 0), cover)
        result[top:bottom] = np.asarray(band)
    return result


def _sheet(color: Pixels | tuple[int, int, int], top: int, bottom: int, width: int) -> Image.Image:
    """Return rows ``top`` to ``bottom`` of the mask colour as an image."""
    from PIL import Image

    if isinstance(color, np.ndarray):
        return Image.fromarray(color[top:bottom])
    return Image.new("RGB", (width, bottom - top), color)


def _is_two_level(mask: Pixels) -> bool:
    """Whether each byte is 0 or 255, of which alone the sum with 1 is at most 1, modulo 256."""
    return not bool(np.any(mask + np.uint8(1) > 1))
