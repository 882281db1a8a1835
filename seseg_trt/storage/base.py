"""What every place for bytes does: a disk, or an object store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol


class Stat(NamedTuple):
    """A file's size in bytes and its mtime in nanoseconds (0 where the store keeps none)."""

    size: int
    mtime_ns: int


class ChangedError(OSError):
    """A file changed while it was read."""


class Storage(Protocol):
    """Bytes under names. Each method takes a whole name: a path, or an address such as ``s3://bucket/key``.

    Attributes:
        remote: each access is a request over a network.
    """

    remote: bool

    def stat(self, name: str) -> Stat:
        """Return a file's size and mtime. Raises OSError."""

    def is_file(self, name: str) -> bool:
        """Tell whether there is a file of that very name. Raises OSError where that can't be asked."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the files and folders in a folder, or nothing if it is not there. Raises OSError."""

    def read(self, name: str, check_size: Callable[[int], None], listed: Stat | None = None) -> tuple[bytes, Stat]:
        """Return a file's bytes, with the size and mtime that they belong to.

        Args:
            name: of the file.
            check_size: called before a byte is read; raises if the size is refused.
            listed: what a listing said of the file; spares an object store a request.

        Raises:
            ChangedError: the file changed meanwhile.
            OSError: it is not there, or can't be read.
        """

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of a file; fewer where it ends. Raises OSError."""

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to seek and read in. Raises OSError."""

    def write(self, name: str, scratch: Path, *, durable: bool = False) -> AbstractContextManager[BinaryIO]:
        """Give a file to write to; it becomes ``name`` at the end, whole, or is removed after an exception.

        Args:
            name: of the file; what is there is replaced.
            scratch: a local folder for what is on its way to a store.
            durable: flush it to the disk first.

        Raises:
            OSError: it can't be written.
        """
