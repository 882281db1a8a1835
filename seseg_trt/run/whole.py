"""Files that several processes may write, whole or not at all, with nothing left over when one is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give an empty file beside a target to write to; put it in the target's place at the end, or remove it after an exception.

    One process at a time is inside: the others wait at the entrance, so what the last of them reads is in the file that stays. The file beside it
    always has the same name, so what a process that was killed left there is the next one's to use. The lock is of one machine (flock).

    Raises:
        OSError: it can't be written.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # file systems without locks: then two at once is the user's to avoid
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, temporary):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who was inside has put it into place, or removed it
    try:
        os.ftruncate(descriptor, 0)
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
