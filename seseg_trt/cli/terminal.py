"""The standard streams: closed, full, or with a reader that has gone."""

from __future__ import annotations

import contextlib
import os
import sys

import click


class Terminal:
    """Standard error for what a user may miss: where its reader has gone or the disk is full, the work goes on.

    Args:
        descriptor: where to write.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write a text at once."""
        data = text.encode(self.encoding, "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def isatty(self) -> bool:
        """Return whether a person may be reading."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor


def say(text: str) -> None:
    """Write a line to standard error; go on where nobody can read it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


CLOSED: set[str] = set()
"""The standard streams that were closed when the program began."""


def open_standard_streams() -> None:
    """Give the null device to standard streams that are closed, so that no file that is opened later takes their place.

    ``sys.stdin`` stays None where it was closed: whoever wants to read from it has to know.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            CLOSED.add(name)
            os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free
            if descriptor:
                setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as the process


def flush_streams() -> None:
    """Flush Python's standard streams, where they are open and somebody reads them."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
