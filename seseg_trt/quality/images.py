"""The images that a measurement runs over: named, read one after the other, never all in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..codecs import pillow
from ..errors import BadImage
from ..masks.reference import sample_nearest
from ..options import DecodeOptions
from ..run.file_states import describe_os_error
from ..run.scan import Scan

if TYPE_CHECKING:
    from PIL import Image

In = TypeVar("In")
Out = TypeVar("Out")

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a set.

    Attributes:
        name: the relative path of a file, or any name.
        load: gives the encoded bytes, or RGB pixels as uint8 [H, W, 3]; may be called several times, in any thread.
    """

    name: str
    load: Callable[[], bytes | Pixels]


@dataclasses.dataclass(frozen=True)
class Undecodable:
    """An image that could not be used: ``reason`` is a code of :data:`seseg_trt.errors.ReasonCode`."""

    name: str
    reason: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An image with its pixels.

    Attributes:
        image: RGB, orientation applied.
        sha256: of the encoded bytes, or of the pixels and their shape where there are none.
    """

    name: str
    image: Image.Image
    sha256: bytes


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What of an image the network sees: ``network_input`` uint8 [S, S, 3]; ``width`` and ``height`` are the image's."""

    entry: Entry
    width: int
    height: int
    network_input: Pixels
    sha256: bytes


ImageSet = Sequence[Entry]


def entries_in(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Entry], list[Undecodable]]:
    """Find the images of folders, files and globs, by the rules of ``segment``.

    Returns:
        One entry for each regular file, and what can't even be opened.

    Raises:
        UsageError: a path names nothing.
    """
    scan = Scan(os.devnull, os.devnull, None)  # nothing is written, so nothing is closed to reading
    for path in paths:
        scan.add(os.fspath(path))
    refused = [Undecodable(item.path, reason, message) for item, reason, message in scan.refused]
    return [Entry(item.path, _Reader(item.source)) for item in scan.items], refused


@dataclasses.dataclass(frozen=True)
class _Reader:
    path: str

    def __call__(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadImage(*describe_os_error(error)) from error


def decode(entry: Entry, options: DecodeOptions) -> Decoded | Undecodable:
    """Read and decode one image."""
    try:
        loaded = entry.load()
        if isinstance(loaded, bytes):
            return Decoded(entry.name, pillow.decode(loaded, options).image, hashlib.sha256(loaded).digest())
    except BadImage as bad:
        return Undecodable(entry.name, bad.reason, bad.message)
    from PIL import Image

    digest = hashlib.sha256(repr(loaded.shape).encode() + np.ascontiguousarray(loaded).tobytes()).digest()
    return Decoded(entry.name, Image.fromarray(loaded), digest)


def sample(entry: Entry, options: DecodeOptions, size: int) -> Sampled | Undecodable:
    """Read and decode one image, and keep what the network sees of it."""
    decoded = decode(entry, options)
    if isinstance(decoded, Undecodable):
        return decoded
    image = decoded.image
    return Sampled(entry, image.width, image.height, sample_nearest(image, size), decoded.sha256)


def overlapped(work: Callable[[In], Out], items: Iterable[In], workers: int = 2) -> Iterator[Out]:
    """Yield ``work(item)`` in order, worked on by a few threads that are never more than a few items ahead."""
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
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def hash_of_set(digests: Iterable[bytes]) -> str:
    """Return a SHA-256 (hex) over the images' own hashes, sorted: names and order don't count, content and number do."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def spread(entries: ImageSet, count: int) -> list[Entry]:
    """Return at most ``count`` entries, evenly spread."""
    if count >= len(entries):
        return list(entries)
    return [entries[index * len(entries) // count] for index in range(count)]
