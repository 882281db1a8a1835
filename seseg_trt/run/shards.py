"""Tar shards as inputs: an entry is read by its place in the archive, as if it were a file of its own.

The source of an entry is the archive's path with the entry's name after it, ``/in/data-000000.tar/x/a.jpg``. So a journal, a claim or
another process needs nothing more than the source. An entry that has no name of its own (two have the same) goes by its number in the
archive: ``/in/data-000000.tar#17/a.jpg``; it is quarantined and never read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ..errors import BadImage
from .archive import Entry, Index, read_index
from .names import TAR, is_remote

ENTRIES_KEPT = 200_000
"""Indexes of so many entries are kept in memory; the one that is used is kept however large it is."""

_NUMBERED = re.compile(r"\.tar#\d+/")


class ShardChangedError(OSError):
    """An archive was replaced or written to while its headers were read."""


def split_source(source: str) -> tuple[str, str] | None:
    """Return the archive and the entry that a source names, or None: a folder may be called x.tar as well."""
    begin = 0
    while (cut := source.find(TAR + "/", begin)) >= 0:
        begin = cut + len(TAR) + 1
        if _is_file(source[: begin - 1]):
            return source[: begin - 1], source[begin:]
    return None


def is_numbered(source: str) -> bool:
    """Tell whether a source is of an entry that goes by its number: it can't be read."""
    return _NUMBERED.search(source) is not None


def numbered(source: str) -> str:
    """Return what an entry is called if its name is another's already; see the module."""
    found = split_source(source)
    assert found is not None
    shard, path = found
    index = index_of(shard)
    number = next((bad.number for bad in index.refused if bad.path == path), 0) if path not in index.entries else index.entries[path].number
    return f"{shard}#{number}/{path}"


def stat_entry(shard: str, path: str) -> tuple[int, int]:
    """Return the size of an entry and the archive's time of change in nanoseconds.

    Raises:
        OSError: it is not there.
    """
    key = _stat(shard)
    entry = index_of(shard, key).entries.get(path)
    if entry is None:
        raise FileNotFoundError(f"{shard} has no entry {path}")
    return entry.size, key[1]


def read_entry(shard: str, path: str, check_size: Callable[[int], None]) -> tuple[bytes, int, int]:
    """Return an entry's bytes, its size and the archive's time of change, all of one moment.

    Args:
        shard, path: see :func:`split_source`.
        check_size: raises BadImage of a size that is not wanted.

    Raises:
        BadImage: it can't be read, or the archive changed meanwhile.
        OSError: the archive can't be read.
    """
    try:
        return _read_entry(shard, path, check_size)
    except ShardChangedError as error:
        raise BadImage("changed", str(error.strerror)) from error


def _read_entry(shard: str, path: str, check_size: Callable[[int], None]) -> tuple[bytes, int, int]:
    if is_remote(shard):
        key = _stat(shard)
        entry = _find(index_of(shard, key), path)
        check_size(entry.size)
        data = read_range(shard, entry.offset, entry.size)
        if len(data) != entry.size:
            raise BadImage("changed", "the archive changed while it was read")
        return data, entry.size, key[1]
    with _opened(shard) as file:
        key = _key(os.fstat(file.fileno()))
        entry = _find(index_of(shard, key), path)
        check_size(entry.size)
        data = os.pread(file.fileno(), entry.size, entry.offset)
        while len(data) < entry.size and (more := os.pread(file.fileno(), entry.size - len(data), entry.offset + len(data))):
            data += more
        if len(data) != entry.size or _key(os.fstat(file.fileno())) != key:
            raise BadImage("changed", "the archive changed while it was read")
    return data, entry.size, key[1]


def read_range(name: str, offset: int, size: int) -> bytes:
    """Return some bytes of a file or an object; fewer where it ends. Raises OSError."""
    if is_remote(name):
        from . import remote

        return remote.read_range(name, offset, size)
    with _opened(name) as file:
        file.seek(offset)
        return file.read(size)


def _find(index: Index, path: str) -> Entry:
    entry = index.entries.get(path)
    if entry is not None:
        return entry
    for bad in index.refused:
        if bad.path == path and bad.safe:
            raise BadImage(bad.reason, bad.message)
    raise BadImage("missing", "the archive has no such entry (any more)")


_indexes: OrderedDict[tuple[str, int, int], Index] = OrderedDict()
_lock = threading.Lock()


def index_of(shard: str, key: tuple[int, int] | None = None) -> Index:
    """Return what an archive holds. It is read once, and again when its size or time of change (``key``) is another.

    Raises:
        OSError: it can't be read; ShardChangedError: it changed meanwhile.
    """
    size, mtime_ns = key or _stat(shard)
    known = (shard, size, mtime_ns)
    with _lock:  # whoever waits, wants the same archive, or soon will
        index = _indexes.get(known)
        if index is None:
            with _open_to_seek(shard) as file:
                index = read_index(file, size)
            if _stat(shard) != (size, mtime_ns):
                raise ShardChangedError(errno.EBUSY, "the archive changed while its headers were read", shard)
            _indexes[known] = index
            while len(_indexes) > 1 and sum(map(len, _indexes.values())) > ENTRIES_KEPT:
                _indexes.popitem(last=False)
        _indexes.move_to_end(known)
    return index


def stat_shard(shard: str) -> tuple[int, int]:
    """Return an archive's size in bytes and its time of change in nanoseconds. Raises OSError."""
    return _stat(shard)


def _stat(shard: str) -> tuple[int, int]:
    if is_remote(shard):
        from . import remote

        return remote.stat(shard)
    return _key(os.stat(shard))


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _is_file(name: str) -> bool:
    if is_remote(name):
        from . import remote

        return remote.is_object(name)
    return os.path.isfile(name)


def _opened(shard: str) -> io.FileIO:
    # O_NONBLOCK: if a pipe has taken the file's place, opening it must not wait for a writer
    return io.FileIO(os.open(shard, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


@contextlib.contextmanager
def _open_to_seek(shard: str) -> Iterator[BinaryIO]:
    if is_remote(shard):
        from . import remote

        with remote.open_to_seek(shard) as file:
            yield file
    else:
        with _opened(shard) as raw, io.BufferedReader(raw, 4096) as file:
            yield file
