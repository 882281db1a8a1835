"""Writing outputs so that none is ever seen half-made, and so that what a full or vanished disk refuses is never taken for done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import Protocol

from ..errors import BadImage, StoppedError
from .names import STATE_NAME, is_remote, is_tar
from .presence import Presence

_PER_IMAGE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ}
"""What is wrong with one output's name; everything else is wrong with the disk, and ends the run."""

Made = tuple[str, int]
"""An output's SHA-256 (hex) and size in bytes."""


class Outputs(Protocol):
    """Where outputs go."""

    def size(self, name: str) -> int | None:
        """Return the size in bytes of what is there under a name, or None."""
        ...

    def read(self, name: str) -> bytes:
        """Return an output's bytes. Raises OSError."""
        ...

    def prepare(self) -> None:
        """Get ready to write. Raises StoppedError."""
        ...

    def write(self, name: str, data: bytes) -> Made:
        """Write one output, whole or not at all, over what is there. Raises BadImage (of this name) and StoppedError (of all)."""
        ...

    def remove(self, name: str) -> None:
        """Remove an output of ours, if it is there."""
        ...

    def sweep(self) -> None:
        """Remove what killed runs left behind."""
        ...

    def close(self) -> None:
        """Leave nothing but outputs."""
        ...


class OutputFolder:
    """A local folder.

    A file is written under ``.seseg/tmp`` on the same disk and then renamed to its place. What killed runs left there is removed
    when the folder is prepared.

    Args:
        root: made when it is not there.
        durable: flush each file to the disk before it is renamed.
    """

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self._durable = durable
        self._state = root / STATE_NAME
        self._numbers = itertools.count()
        self._made: set[str] = set()
        self._presence: Presence | None = None
        self._temporary = ""

    def size(self, name: str) -> int | None:
        """See :class:`Outputs`."""
        try:
            return os.lstat(os.path.join(self.root, name)).st_size
        except OSError:
            return None

    def read(self, name: str) -> bytes:
        """See :class:`Outputs`."""
        return (self.root / name).read_bytes()

    def prepare(self) -> None:
        """Make the temporary folder of this process, and remove those of dead ones."""
        try:
            self._presence = Presence(self._state / "writers", {})
            folders = self._state / "tmp"
            self._temporary = os.path.join(folders, self._presence.name)
            while not os.path.isdir(self._temporary):  # another process that ends may remove its empty parent meanwhile
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(self._temporary)
            self._clear_dead(self._presence)
        except OSError as error:
            raise stopped(self.root, error) from error
        except StoppedError as error:
            raise stopped(self.root, error.__cause__) from error

    def _clear_dead(self, presence: Presence) -> None:
        presence.clear_dead()  # one that died before it had a temporary folder, or after, left only its sign
        for name in os.listdir(self._state / "tmp"):
            if not presence.is_alive(name):
                shutil.rmtree(self._state / "tmp" / name, ignore_errors=True)

    def write(self, name: str, data: bytes) -> Made:
        """See :class:`Outputs`."""
        target = os.path.join(self.root, name)
        temporary = os.path.join(self._temporary, str(next(self._numbers)))
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            self._place(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):  # the folder is gone or read-only: that is what is being reported
                os.unlink(temporary)
            if error.errno in _PER_IMAGE:
                raise BadImage("encode_error", f"its output {name} can't be written: {error.strerror}") from error
            raise stopped(self.root, error) from error
        return hashlib.sha256(data).hexdigest(), len(data)

    def _place(self, temporary: str, target: str) -> None:
        folder = os.path.dirname(target)
        self._make_folder(folder)
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            # somebody removed a folder that we had made; if the temporary file has gone as well, the whole output folder has
            self._made.discard(folder)
            os.stat(temporary)
            self._make_folder(folder)
            os.replace(temporary, target)
        if self._durable:
            flush_folder(folder)

    def _make_folder(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def remove(self, name: str) -> None:
        """See :class:`Outputs`."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.root, name))

    def sweep(self) -> None:
        """Remove what killed runs left behind, where this process has nothing to write and so is not prepared."""
        if any((self._state / name).is_dir() for name in ("tmp", "writers")):
            self.prepare()
            self.close()

    def close(self) -> None:
        """Remove the temporary folder, and those of processes that died meanwhile; and the state folder if nothing else is in it."""
        if self._presence is not None:
            with contextlib.suppress(OSError):  # the output folder has gone
                self._clear_dead(self._presence)
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._presence.close()
            self._presence = None
        for folder in (self._state / "tmp", self._state / "writers", self._state):
            with contextlib.suppress(OSError):
                folder.rmdir()


def open_outputs(target: str, state: Path, *, durable: bool) -> Outputs:
    """Return the outputs that a name means: tars, staged in the state folder; a local folder; one of an object store."""
    if is_tar(target):
        from .tar_outputs import TarOutputs

        return TarOutputs(target, state, durable=durable)
    if is_remote(target):
        from .remote import RemoteOutputs

        return RemoteOutputs(target)
    return OutputFolder(Path(target), durable=durable)


def flush_folder(folder: str) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stopped(where: object, error: BaseException | None) -> StoppedError:
    """Return the error that ends a run whose outputs can't be written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full"
    else:
        what = (isinstance(error, OSError) and error.strerror) or str(error)
    return StoppedError(
        f"the output folder {where} can't be written: {what}",
        "mend that and run the same command again: what is done stays done, nothing else is taken for done",
    )
