"""Write images with four kinds of damage; the same seed gives the same files."""

from __future__ import annotations

import random
from pathlib import Path

from tests.corpus import make_images

FORMATS = {
    "jpg": "good.jpg",
    "progressive.jpg": "progressive.jpg",
    "cmyk.jpg": "cmyk.jpg",
    "png": "good.png",
    "16.png": "rgb16.png",
    "webp": "photo.webp",
    "gif": "palette.transparent.gif",
    "lzw.tif": "photo.lzw.tif",
    "bmp": "photo.bmp",
    "ppm": "photo.ppm",
    "jp2": "photo.jp2",
    "ico": "icon.ico",
}


def write_mutated(folder: Path, count: int, seed: int) -> None:
    """Write ``count`` files in the formats of :data:`FORMATS`: truncated, bit-flipped, with another file's header, or spliced."""
    draw = random.Random(seed)
    images = {name.replace("_", "."): data for name, (data, outcome) in make_images().items() if outcome == "mask"}
    sources = {suffix: _find(images, name) for suffix, name in FORMATS.items()}
    folder.mkdir(parents=True)
    for number in range(count):
        suffix = list(sources)[number % len(sources)]
        data, other = sources[suffix], draw.choice(list(sources.values()))
        kind = number // len(sources) % 4
        (folder / f"{number:05d}.{suffix}").write_bytes(_mutated(data, other, kind, draw))


def _find(images: dict[str, bytes], name: str) -> bytes:
    """Return an image by its name, or by that name with a suffix, which the corpus adds to avoid collisions (``good.png.png``)."""
    wanted = name.replace("_", ".")
    found = [data for key, data in images.items() if key == wanted or key.startswith(wanted + ".")]
    if not found:
        raise KeyError(name)
    return found[0]


def _mutated(data: bytes, other: bytes, kind: int, draw: random.Random) -> bytes:
    if kind == 0:
        return data[: draw.randrange(len(data))]
    if kind == 1:
        flipped = bytearray(data)
        for _ in range(draw.randint(1, 64)):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == 2:
        length = draw.choice((4, 16, 64, 256))
        return other[:length] + data[length:]
    cut, begin = draw.randrange(len(data)), draw.randrange(len(other))
    return data[:cut] + other[begin : begin + draw.randrange(4096)] + data[cut + draw.randrange(256) :]
