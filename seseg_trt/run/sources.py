"""Reading inputs: local files here, entries of tar shards by :mod:`seseg_trt.run.shards`, object stores by :mod:`seseg_trt.run.remote`."""

from __future__ import annotations

import os

from ..errors import BadImage
from .names import is_remote
from .scan import WorkItem
from .shards import read_entry, split_source, stat_entry


def stat_source(item: WorkItem) -> tuple[int, int]:
    """Return an input's size in bytes and its time of change in nanoseconds.

    Raises:
        OSError: it is not there, or can't be asked.
    """
    entry = split_source(item.source)
    if entry is not None:
        return stat_entry(*entry)
    if is_remote(item.root):
        from . import remote

        return remote.stat(item.source)
    status = os.stat(item.source)
    return status.st_size, status.st_mtime_ns


def read_source(item: WorkItem, max_bytes: int) -> tuple[bytes, int, int]:
    """Return an input's bytes, its size and its time of change in nanoseconds, all of one moment.

    Raises:
        BadImage: it is empty, larger than ``max_bytes``, or changed while it was read.
        OSError: it can't be read.
    """
    entry = split_source(item.source)
    if entry is not None:
        return read_entry(*entry, lambda size: _check_size(size, max_bytes))
    if is_remote(item.root):
        from . import remote

        size, mtime_ns = remote.stat(item.source)
        _check_size(size, max_bytes)
        data = remote.read(item.source)
        if len(data) != size:
            raise BadImage("changed", "the object changed while it was read")
        return data, size, mtime_ns
    # O_NONBLOCK: if a pipe has taken the file's place since the plan, opening it must not wait for a writer
    with open(os.open(item.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        before = os.fstat(file.fileno())
        _check_size(before.st_size, max_bytes)
        data = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise BadImage("changed", "the file changed while it was read")
    return data, before.st_size, before.st_mtime_ns


def _check_size(size: int, max_bytes: int) -> None:
    if size == 0:
        raise BadImage("empty", "the file has 0 bytes")
    if size > max_bytes:
        raise BadImage("too_large", f"the file has {size} bytes, and --max-pixels admits none over {max_bytes}")
