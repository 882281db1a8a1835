"""Find, read and decode the images of a measurement, a few at a time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..codecs import pillow
from ..errors import BadImage, UsageError
from ..inputs.item import InputItem, describe_os_error
from ..inputs.read import read_source
from ..inputs.scan import Scan
from ..masks.reference import sample_nearest
from ..options import DecodeOptions

if TYPE_CHECKING:
    from PIL import Image

In = TypeVar("In")
Out = TypeVar("Out")

Pixels = npt.NDArray[np.uint8]

WAY_OUT = "--images takes folders, files, globs, tars and addresses of object stores"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a set.

    Attributes:
        name: the relative path of a file, or any name.
        load: returns the encoded bytes, or RGB pixels as uint8 [H, W, 3], or raises BadImage. It may be called repeatedly, in any thread.
    """

    name: str
    load: Callable[[], bytes | Pixels]


@dataclasses.dataclass(frozen=True)
class Undecodable:
    """An image that can't be read or decoded. ``reason`` is a code of :data:`seseg_trt.errors.ReasonCode`."""

    name: str
    reason: str
    message: str


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An image with its pixels.

    Attributes:
        image: RGB, turned as the options say.
        sha256: of the encoded bytes, or of the pixels and their shape if it was never encoded.
        encoded: its bytes, or None if it was never encoded.
    """

    image: Image.Image
    sha256: bytes
    encoded: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What the network sees of an image: ``network_input``, uint8 [S, S, 3]. ``width`` and ``height`` are the image's own."""

    entry: Entry
    width: int
    height: int
    network_input: Pixels
    sha256: bytes


ImageSet = Sequence[Entry]


def entries_in(paths: Sequence[str | os.PathLike[str]], options: DecodeOptions | None = None) -> tuple[list[Entry], list[Undecodable]]:
    """Find images as ``segment`` does: in folders, files, globs, tars and object stores.

    Args:
        paths: what to look through.
        options: larger files than ``options.max_file_bytes`` are not read. None means the defaults.

    Returns:
        One entry for each file, and those that can't be opened.

    Raises:
        UsageError: a path names nothing, or there is no image at all.
        StoppedError: an object store can't be listed.
    """
    max_bytes = (options or DecodeOptions()).max_file_bytes
    scan = Scan(os.devnull, os.devnull, None)  # nothing is written, so nothing is closed to reading
    for path in paths:
        scan.add(os.fspath(path))
    refused = [Undecodable(item.path, reason, message) for item, reason, message in scan.refused]
    if not scan.items:
        first = f"; {refused[0].name}: {refused[0].message}" if refused else ""
        raise UsageError(f"there is no image in {', '.join(os.fspath(path) for path in paths)}{first}", WAY_OUT)
    return [Entry(item.path, functools.partial(_read, item, max_bytes)) for item in scan.items], refused


def _read(item: InputItem, max_bytes: int) -> bytes:
    try:
        return read_source(item, max_bytes)[0]
    except OSError as error:
        raise BadImage(*describe_os_error(error)) from error


def decode(entry: Entry, options: DecodeOptions) -> Decoded | Undecodable:
    """Read and decode one image."""
    try:
        loaded = entry.load()
        if isinstance(loaded, bytes):
            return Decoded(pillow.decode(loaded, options).image, hashlib.sha256(loaded).digest(), loaded)
    except BadImage as bad:
        return Undecodable(entry.name, bad.reason, bad.message)
    from PIL import Image

    digest = hashlib.sha256(repr(loaded.shape).encode() + np.ascontiguousarray(loaded).tobytes()).digest()
    return Decoded(Image.fromarray(loaded), digest)


def sample(entry: Entry, options: DecodeOptions, size: int) -> Sampled | Undecodable:
    """Read and decode one image, and return what the network sees of it."""
    decoded = decode(entry, options)
    if isinstance(decoded, Undecodable):
        return decoded
    image = decoded.image
    return Sampled(entry, image.width, image.height, sample_nearest(image, size), decoded.sha256)


def map_ahead(work: Callable[[In], Out], items: Iterable[In], workers: int = 2) -> Iterator[Out]:
    """Yield ``work(item)`` in order, while a few threads work a few items ahead."""
    with ThreadPoolExecutor(workers, "images") as pool:
        ahead: deque[Future[Out]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    yield from iter(lambda: list(itertools.islice(iterator, size)), [])


def batches(work: Callable[[In], Out | Undecodable], items: Iterable[In], size: int) -> Iterator[tuple[list[Out], list[Undecodable]]]:
    """Yield what ``work`` makes of ``size`` items at a time, worked ahead: what is good, and what can't be decoded."""
    for batch in batched(map_ahead(work, items), size):
        bad = [made for made in batch if isinstance(made, Undecodable)]
        yield [made for made in batch if not isinstance(made, Undecodable)], bad


def hash_of_set(digests: Iterable[bytes]) -> str:
    """Return a SHA-256 (hex) over the images' sorted hashes: of their contents and number, not of their names and order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def spread(entries: ImageSet, count: int) -> list[Entry]:
    """Return at most ``count`` entries, evenly spread."""
    count = min(count, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]
