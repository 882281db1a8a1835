"""Make the image sets: procedural JPEGs that resemble photographs; the same seed gives the same images.

An image has a few regions with soft or hard borders. Each region has a colour, a gradient of light and a texture of several octaves whose
amplitude falls with frequency, as in photographs. Sensor noise is added over the whole image. At JPEG quality 90 the sets have about 2
bits a pixel, and 1.3 to 1.7 bytes a pixel as PNG; the photographs that ship with the project have 1.5 to 2.3 bits and 1.1 to 1.8 bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.storage.atomic import atomic_write

QUALITY = 90
OCTAVES = 7
REGIONS = 12
VERSION = 1  # of the drawing; a set of another version is drawn again

Plane = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The definition of an image set.

    Attributes:
        name: the name of the set.
        sizes: (width, height) in pixels; the images take them in turn.
        count: the number of files.
        bad_every: every n-th file is damaged or not an image; 0: none.
        seed: the seed of all images.
        unique: the number of different images; the other files are copies of them. None: all are different.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    count: int
    bad_every: int = 0
    seed: int = 0
    unique: int | None = None


MIXED = ((320, 240), (512, 512), (683, 1024), (1280, 960), (1920, 1080), (960, 1280), (2592, 1944), (800, 600))

SETS = {
    s.name: s
    for s in (
        ImageSet("512x512", ((512, 512),), 24, seed=1),
        ImageSet("1280x960", ((1280, 960),), 48, seed=2),
        ImageSet("1280x960-many", ((1280, 960),), 2048, seed=2, unique=64),
        ImageSet("4000x3000", ((4000, 3000),), 8, seed=3, unique=4),
        ImageSet("mixed", MIXED, 24, seed=4),
        ImageSet("bad5", ((640, 480),), 100, bad_every=20, seed=5, unique=20),
        ImageSet("calibration", ((384, 288), (288, 384)), 176, seed=10),  # for INT8
        ImageSet("tiny", ((96, 64), (64, 80)), 4, seed=6),
    )
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An image set on disk.

    Attributes:
        name: the name of the set.
        folder: the folder of its files, without other files.
        paths: its files, in order.
        facts: for the record, as of :func:`describe`.
    """

    name: str
    folder: Path
    paths: tuple[str, ...]
    facts: dict[str, Any]


def draw(width: int, height: int, seed: int, index: int) -> npt.NDArray[np.uint8]:
    """Draw image ``index`` of ``seed``: uint8 [height, width, 3], RGB."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((VERSION, seed, index))))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, np.newaxis]
    x = np.linspace(0, 1, width, dtype=np.float32)[np.newaxis]
    texture = [_texture(rng, width, height) for _ in range(2)]
    channels = [np.zeros((height, width), np.float32) for _ in range(3)]
    for region in range(REGIONS):
        cover = np.float32(1) if region == 0 else _region(rng, x, y, texture[region % 2])
        light = np.float32(rng.uniform(-50, 50)) * x + np.float32(rng.uniform(-50, 50)) * y
        rough = texture[region % 2] * np.float32(rng.choice([3.0, 10.0, 20.0, 36.0])) + light
        grey = rng.uniform(40, 200)  # most photographed surfaces have little colour
        for channel, level in zip(channels, grey + rng.uniform(-45, 45, 3), strict=True):
            channel += (np.float32(level) + np.float32(rng.uniform(0.7, 1.2)) * rough - channel) * cover
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(2.6)
    return np.stack([np.clip(channel + grain, 0, 255).astype(np.uint8) for channel in channels], -1)


def _texture(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Return noise whose amplitude falls with frequency, with a standard deviation of about 1: float32 [height, width]."""
    from PIL import Image

    total = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        cell = 2 ** (OCTAVES - octave)
        grid = rng.standard_normal((height // cell + 2, width // cell + 2), dtype=np.float32)
        plane = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        total += plane * np.float32(0.85**octave)
    return total


def _region(rng: np.random.Generator, x: Plane, y: Plane, texture: Plane) -> Plane:
    """Return how much of each pixel a blob or a half-plane covers, 0..1; the texture distorts its border."""
    softness = np.float32(rng.choice([0.002, 0.01, 0.05]))
    bend = texture * np.float32(rng.uniform(0, 0.03))
    cx, cy = np.float32(rng.uniform(0, 1)), np.float32(rng.uniform(0, 1))
    if rng.random() < 0.3:
        a, b = np.float32(rng.uniform(-1, 1)), np.float32(rng.uniform(-1, 1))
        distance = (x - cx) * a + (y - cy) * b + bend
    else:
        rx, ry = np.float32(rng.uniform(0.06, 0.4)), np.float32(rng.uniform(0.06, 0.4))
        distance = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) - 1 + bend
        distance = distance * min(rx, ry)
    covered: Plane = np.clip(np.float32(0.5) - distance / (2 * softness), 0, 1)
    return covered


def jpeg(pixels: npt.NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """Encode pixels, uint8 [H, W, 3], as JPEG (4:2:0)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def damaged(good: bytes, kind: int) -> bytes:
    """Return the content of a bad file, by its kind modulo 4: a truncated JPEG, nothing, a text, random bytes."""
    return (good[: len(good) // 3], b"", b"this is a text, whatever its name says\n", hashlib.sha512(good).digest() * 64)[kind % 4]


def prepare(image_set: ImageSet, cache: Path) -> Prepared:
    """Draw a set into the cache, unless it is there already."""
    folder = cache / "images" / image_set.name
    wanted = json.dumps([VERSION, dataclasses.asdict(image_set)])
    stamp = cache / "images" / f"{image_set.name}.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8"))["made_of"] != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, data in _files(image_set):
            (folder / name).write_bytes(data)
        with atomic_write(stamp) as file:
            file.write(json.dumps({"made_of": wanted, "facts": describe(sorted(folder.iterdir()))}).encode())
    facts = json.loads(stamp.read_text(encoding="utf-8"))["facts"]
    return Prepared(image_set.name, folder, tuple(str(p) for p in sorted(folder.iterdir())), facts)


def _files(image_set: ImageSet) -> Iterator[tuple[str, bytes]]:
    drawn: list[bytes] = []
    for index in range(image_set.count):
        if image_set.unique is None or index < image_set.unique:
            drawn.append(jpeg(draw(*image_set.sizes[index % len(image_set.sizes)], image_set.seed, index)))
        data = drawn[index % len(drawn)]
        if image_set.bad_every and index % image_set.bad_every == image_set.bad_every - 1:
            data = damaged(data, index // image_set.bad_every)
        yield f"{index:05d}.jpg", data


def reader_set(folder: Path) -> Prepared:
    """Return the user's own images (``--images DIR``): the files in a folder, without its subfolders."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return Prepared(f"own:{folder.name}", folder, tuple(str(p) for p in paths), describe(paths))


def describe(paths: list[Path]) -> dict[str, Any]:
    """Describe files for a record.

    Returns:
        ``count``, of all files; ``bad``, the number of those that can't be decoded; ``megapixels`` and ``bits_per_pixel`` of the others;
        ``sha256``, over the bytes of all files.
    """
    from PIL import Image

    hasher, size, pixels, bad = hashlib.sha256(), 0, 0, 0
    for path in paths:
        data = path.read_bytes()
        hasher.update(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                pixels += image.width * image.height
                size += len(data)
        except (OSError, SyntaxError):
            bad += 1
    return {
        "count": len(paths),
        "bad": bad,
        "megapixels": round(pixels / 1e6, 4),
        "bits_per_pixel": round(8 * size / pixels, 3) if pixels else None,
        "sha256": hasher.hexdigest(),
    }
