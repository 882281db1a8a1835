"""Entries of tars as inputs: an entry is read by its place in the tar, as if it were a file of its own.

The source of an entry is the tar's path with the entry's name after it, ``/in/data-000000.tar/x/a.jpg``. So a journal
or another process needs nothing more than the source. An entry that has no name of its own (two have the same) goes by its number in the
tar: ``/in/data-000000.tar#17/a.jpg``; it is quarantined and never read.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import threading
from collections.abc import Callable

from ..errors import BadImage
from ..storage.base import ChangedError, Stat
from ..storage.locations import TAR
from ..storage.select import storage_of
from .item import InputItem
from .tar_index import Entry, Index, read_index

ENTRIES_KEPT = 200_000
"""How many entries the indexes in memory hold together. The last index is kept however large it is."""

_NUMBERED = re.compile(r"\.tar#\d+/")


def split_source(source: str) -> tuple[str, str] | None:
    """Return the tar and the entry that a source names, or None: a folder may be called x.tar as well."""
    is_file = _is_tar_of_store if storage_of(source).remote else os.path.isfile
    begin = 0
    while (cut := source.find(TAR + "/", begin)) >= 0:
        begin = cut + len(TAR) + 1
        if is_file(source[: begin - 1]):
            return source[: begin - 1], source[begin:]
    return None


def is_numbered(source: str) -> bool:
    """Tell whether a source is of an entry that goes by its number: it can't be read."""
    return _NUMBERED.search(source) is not None


def numbered(source: str) -> str:
    """Return the source by number of an entry whose name another input has; see the module."""
    found = split_source(source)
    assert found is not None
    tar, path = found
    index = index_of(tar)
    entry = index.entries.get(path) or next((bad for bad in index.refused if bad.path == path), None)
    return f"{tar}#{entry.number if entry else 0}/{path}"


def stat_entry(tar: str, path: str) -> Stat:
    """Return the size of an entry and the mtime of its tar.

    Raises:
        OSError: it is not there.
    """
    stat = storage_of(tar).stat(tar)
    entry = index_of(tar, stat).entries.get(path)
    if entry is None:
        raise FileNotFoundError(f"{tar} has no entry {path}")
    return Stat(entry.size, stat.mtime_ns)


def read_entry(tar: str, path: str, check_size: Callable[[int], None], item: InputItem) -> tuple[bytes, Stat]:
    """Return an entry's bytes, with its size and the mtime of its tar.

    Args:
        tar, path: see :func:`split_source`.
        check_size: called before a byte is read; raises if the size is refused.
        item: what the scan of the tar said of it. It spares another process the reading of all headers.

    Raises:
        BadImage: it can't be read.
        ChangedError: the tar changed meanwhile.
        OSError: the tar can't be read.
    """
    storage = storage_of(tar)
    stat = storage.stat(tar)
    if item.listed is not None and item.offset is not None and item.listed.mtime_ns == stat.mtime_ns:
        entry = Entry(0, item.offset, item.listed.size)
    else:
        index = index_of(tar, stat)
        if path not in index.entries:
            found = [bad for bad in index.refused if bad.path == path and bad.safe]
            raise BadImage(found[0].reason, found[0].message) if found else BadImage("missing", "the tar has no such entry (any more)")
        entry = index.entries[path]
    check_size(entry.size)
    data = storage.read_range(tar, entry.offset, entry.size)
    if len(data) != entry.size or (not storage.remote and storage.stat(tar) != stat):
        raise ChangedError("the tar changed while it was read")
    return data, Stat(entry.size, stat.mtime_ns)


_indexes: dict[tuple[str, Stat], Index] = {}
_lock = threading.Lock()


def index_of(tar: str, stat: Stat | None = None) -> Index:
    """Return what a tar holds. It is read once, and again when its size or mtime (``stat``) is another.

    Raises:
        OSError: it can't be read; ChangedError: it changed meanwhile.
    """
    storage = storage_of(tar)
    stat = stat or storage.stat(tar)
    known = (tar, stat)
    with _lock:  # whoever waits wants the same tar, or soon will
        index = _indexes.pop(known, None)
        if index is None:
            with storage.open(tar) as file:
                index = read_index(file, stat.size)
            if storage.stat(tar) != stat:
                raise ChangedError(errno.EBUSY, "the tar changed while its headers were read", tar)
            while _indexes and sum(map(len, _indexes.values())) + len(index) > ENTRIES_KEPT:
                del _indexes[next(iter(_indexes))]
        _indexes[known] = index  # the last that was used comes last
    return index


@functools.lru_cache(maxsize=65536)
def _is_tar_of_store(name: str) -> bool:
    return storage_of(name).is_file(name)


forget_stores = _is_tar_of_store.cache_clear
"""Ask stores again which names are tars: a listing has just been made anew."""
