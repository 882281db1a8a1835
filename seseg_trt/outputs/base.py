"""What every place for outputs does."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Protocol

from ..errors import BadImage, StoppedError

RUN_AGAIN = "mend that and run the same command again: what is done stays done, nothing else is taken for done"

OutputInfo = tuple[str, int]
"""An output's SHA-256 (hex) and size in bytes."""


class Outputs(Protocol):
    """Where outputs go, by names relative to it."""

    def prepare(self) -> None:
        """Make the place itself, once for a run. Raises StoppedError."""

    def size(self, name: str) -> int | None:
        """Return the size in bytes of what is there under a name, or None."""

    def read(self, name: str) -> bytes:
        """Return an output's bytes. Raises OSError."""

    def write(self, name: str, data: bytes) -> OutputInfo:
        """Write one output, whole or not at all, over what is there.

        Raises:
            BadImage: the place refuses this name.
            StoppedError: nothing can be written.
        """

    def remove(self, name: str) -> None:
        """Remove an output of ours and its temporary file, if they are there."""


def refused_name(name: str, why: object) -> BadImage:
    """Return the error for an output whose name the place refuses."""
    return BadImage("encode_error", f"its output {name!r} can't be written under that name: {why}; rename the input")


@contextlib.contextmanager
def writing_to(where: object) -> Iterator[None]:
    """Raise StoppedError for an OSError: outputs can't be written, which ends the run."""
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
        raise StoppedError(f"the output folder {where} can't be written: {what}", RUN_AGAIN) from error
