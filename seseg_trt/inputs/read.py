"""Reading inputs, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import BadImage
from ..storage.base import ChangedError, Stat
from ..storage.select import storage_of
from .item import InputItem, describe_os_error
from .tar_entries import read_entry, split_source, stat_entry


def stat_source(item: InputItem) -> Stat:
    """Return an input's size and mtime, as its listing said or as they are now.

    Raises:
        OSError: it is not there, or can't be asked.
    """
    if item.listed is not None:
        return item.listed
    entry = split_source(item.source)
    return storage_of(item.root).stat(item.source) if entry is None else stat_entry(*entry)


def read_source(item: InputItem, max_bytes: int, admit: Callable[[int], None] = lambda size: None) -> tuple[bytes, Stat]:
    """Return an input's bytes, with the size and mtime that they belong to.

    Args:
        item: the input.
        max_bytes: a larger one is refused.
        admit: called with the size before a byte is read; it may wait until there is room.

    Raises:
        BadImage: it is empty, larger than ``max_bytes``, or changed while it was read.
        OSError: it can't be read.
    """

    def check_size(size: int) -> None:
        if size == 0:
            raise BadImage("empty", "the file has 0 bytes")
        if size > max_bytes:
            raise BadImage("too_large", f"the file has {size} bytes, and --max-pixels admits none over {max_bytes}")
        admit(size)

    entry = split_source(item.source)
    try:
        if entry is not None:
            return read_entry(*entry, check_size, item)
        return storage_of(item.root).read(item.source, check_size, item.listed)
    except ChangedError as error:
        raise BadImage(*describe_os_error(error)) from error
