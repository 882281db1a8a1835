"""The lock file of a state folder. The kernel drops the lock when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .atomic import stopping

LOCK = "lock"
SECONDS_TO_LOOK = 0.2


@contextlib.contextmanager
def sole_owner(state: Path) -> Iterator[None]:
    """Hold a state folder's lock: while one run is at work there, no other is.

    The lock (flock) holds on one machine; machines need state folders of their own.

    Args:
        state: the folder; made when it is not there.

    Raises:
        UsageError: another run holds it.
        StoppedError: the folder can't be written, or its file system has no locks.
    """
    with stopping(f"the run's state can't be kept in {state}", "give --state a folder that can be written"):
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with stopping(f"{state} can't be locked", "give --state a folder on a local disk: its file system has no locks"):
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                raise UsageError(
                    f"process {owner or 'of another run'} is at work on {state}",
                    "wait for it; to part the work between runs give each --shard i/n and a --state folder of its own",
                ) from error
        with contextlib.suppress(OSError):  # a full disk: the number is for messages alone
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file, or wait: :func:`is_owned` holds the lock for a moment. A run holds it for longer than this waits."""
    until = time.monotonic() + SECONDS_TO_LOOK
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def is_owned(state: Path) -> bool:
    """Tell whether a run is at work on a state folder."""
    try:
        with open(state / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False
