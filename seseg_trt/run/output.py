"""Writing outputs so that none is ever seen half-made, and so that what a full or vanished disk refuses is never taken for done."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from types import TracebackType

from ..errors import BadImage, StoppedError, UsageError

STATE_NAME = ".seseg"

_PER_IMAGE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ}
"""What is wrong with one output's name; everything else is wrong with the disk, and ends the run."""


class OutputFolder:
    """The folder that outputs go to.

    A file is written under ``.seseg/tmp`` on the same disk and then renamed to its place. What a killed run left there is removed
    when the folder is opened.

    Args:
        root: made when it is not there.
        durable: flush each file to the disk before it is renamed.
    """

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self._durable = durable
        self._temporary = root / STATE_NAME / "tmp"
        self._numbers = itertools.count()
        self._made: set[str] = set()
        try:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _stopped(root, error) from error

    def write(self, name: str, data: bytes) -> tuple[str, int]:
        """Write one output, whole or not at all, over what is there.

        Args:
            name: relative to the folder.
            data: the file's bytes.

        Returns:
            The SHA-256 (hex) and the size in bytes.

        Raises:
            BadImage: this name can't be a file (too long, or a folder is in its place).
            StoppedError: the disk refused: full, read-only, gone.
        """
        target = os.path.join(self.root, name)
        temporary = os.path.join(self._temporary, f"{os.getpid()}-{next(self._numbers)}")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            self._make_folder(os.path.dirname(target))
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):  # the folder is gone or read-only: that is what is being reported
                os.unlink(temporary)
            if error.errno in _PER_IMAGE:
                raise BadImage("encode_error", f"its output {name} can't be written: {error.strerror}") from error
            raise _stopped(self.root, error) from error
        return hashlib.sha256(data).hexdigest(), len(data)

    def remove(self, name: str) -> None:
        """Remove an output of ours, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.root, name))

    def _make_folder(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def close(self) -> None:
        """Remove the temporary folder, and the state folder if nothing else is in it."""
        for folder in (self._temporary, self._temporary.parent):
            try:
                folder.rmdir()
            except OSError:
                return


class RunLock:
    """Held by the one run that works on a state folder.

    Raises:
        UsageError: another run holds it.
        StoppedError: the state folder can't be written.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(state_dir / "lock", "a+", encoding="utf-8")  # noqa: SIM115 - it is held as long as the lock is
        except OSError as error:
            raise _stopped(state_dir, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"another run is at work on {state_dir}", "wait for it, or give this run an output folder or a --state folder of its own"
            ) from error

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _stopped(root: Path, error: OSError) -> StoppedError:
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return StoppedError(
        f"the output folder {root} can't be written: {what}",
        "mend that and run the same command again: what is done stays done, nothing else is taken for done",
    )
