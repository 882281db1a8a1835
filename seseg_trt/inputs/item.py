"""One input, and why one can't be read."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from ..errors import ReasonCode
from ..storage.base import ChangedError, Stat


class InputItem(NamedTuple):
    """One input.

    Attributes:
        root: a folder, a tar or a store's folder.
        path: relative to ``root``; the input's identity. Bytes that are not UTF-8 are surrogate-escaped.
        listed: what the listing that found it said of it; None where a listing says nothing (local folders).
        offset: where an entry's bytes begin in its tar, if that is known.
    """

    root: str
    path: str
    listed: Stat | None = None
    offset: int | None = None

    @property
    def source(self) -> str:
        """The path to open."""
        return f"{self.root}/{self.path}"

    @property
    def identity(self) -> bytes:
        """The relative path as the bytes that the file system has."""
        return os.fsencode(self.path)


class RejectedInput(NamedTuple):
    """An input that can't even be opened; it is quarantined without being read."""

    item: InputItem
    reason: ReasonCode
    message: str


def describe_os_error(error: OSError) -> tuple[ReasonCode, str]:
    """Return the reason code and the sentence for an input that the operating system did not give."""
    if isinstance(error, ChangedError):
        return "changed", str(error.strerror or error)
    if isinstance(error, FileNotFoundError):  # the libraries of object stores raise it without a number
        return "missing", "the file is not there, or is a link that leads nowhere"
    if error.errno == errno.ELOOP:
        return "link_loop", "symbolic links lead in a circle"
    if error.errno == errno.EISDIR:
        return "not_a_file", "it is a folder, not a file"
    return "unreadable", f"it can't be read: {error.strerror or error}"
