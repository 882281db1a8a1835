"""Atomic writes: a file is seen whole or not at all, and a writer that is killed leaves nothing that stays."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ..errors import StoppedError, UsageError


def temporary_name(path: str | os.PathLike[str]) -> str:
    """Return the name of a target's temporary file. It lies in the same folder and is the same at every try."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder, f".seseg-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}.tmp")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = False, exclusive: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write to; rename it to ``path`` at the end, or remove it after an exception.

    The temporary file lies beside its target, so the rename never crosses a disk. Its name depends on the target alone: the next
    writer replaces what a killed one left.

    Args:
        path: the target; what is there is replaced.
        durable: flush the file and its folder to the disk, so that they survive a power cut.
        exclusive: wait for other processes that write the same target. The lock (flock) holds on one machine. Without it the caller
            answers for being the only writer.

    Raises:
        OSError: it can't be written.
    """
    temporary = temporary_name(path)
    descriptor = lock_new(temporary) if exclusive else _make_new(temporary)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            yield file
        if durable:
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    else:  # from here on a file of the temporary's name is another writer's
        if durable:
            flush_folder(os.path.dirname(temporary) or ".")
    finally:
        os.close(descriptor)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError if :func:`atomic_write` could not write a file here. It makes and removes the temporary file, and nothing else."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    os.close(os.open(temporary_name(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666))
    os.unlink(temporary_name(path))


@contextlib.contextmanager
def unwritable(what: str, path: str | os.PathLike[str], hint: str) -> Iterator[None]:
    """Raise UsageError for an OSError: ``what`` can't be written to the path that the user named, and ``hint`` is the way out."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what} can't be written to {os.fspath(path)}: {error.strerror}", hint) from error


@contextlib.contextmanager
def stopping(what: str, hint: str) -> Iterator[None]:
    """Raise StoppedError for an OSError: ``what`` can't be done, and ``hint`` is the way out."""
    try:
        yield
    except OSError as error:
        raise StoppedError(f"{what}: {error.strerror or error}", hint) from error


def _make_new(path: str) -> int:
    """Make a file that nobody else has open; what is there goes, unread and not followed."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            os.unlink(path)


def lock_new(path: str | os.PathLike[str], waiting: Callable[[], None] | None = None) -> int:
    """Open a file, lock it and empty it; wait for whoever holds it, and call ``waiting`` before that. Return its descriptor."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            os.unlink(path)  # a link that leads elsewhere, which must not be followed
            continue
        try:
            with contextlib.suppress(OSError):  # a file system without locks: two writers at once are the user's to avoid
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if waiting is not None:
                        waiting()
                        waiting = None
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                if os.fstat(descriptor).st_nlink == 1:
                    os.ftruncate(descriptor, 0)
                    return descriptor
                os.unlink(path)  # a hard link to somebody's file, which must not be emptied
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has renamed or removed it


def _is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def flush_folder(folder: str) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
