"""Outputs in a local folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from ..storage.atomic import atomic_write, temporary_name
from .base import OutputInfo, Outputs, refused_name, writing_to

_PER_IMAGE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}
"""Errors of one output's name (EINVAL: FAT, NTFS and SMB refuse some characters). All others are of the disk, and end the run."""


class OutputFolder(Outputs):
    """A local folder. An output is written beside its place and renamed.

    Args:
        root: made by :meth:`prepare`, and not again: a disk that was unmounted must not be replaced by a folder of that name.
        durable: flush each file to the disk before it is renamed.
    """

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self._durable = durable
        self._made: set[str] = set()

    def prepare(self) -> None:
        with writing_to(self.root):
            os.makedirs(self.root, exist_ok=True)

    def size(self, name: str) -> int | None:
        try:
            return os.lstat(os.path.join(self.root, name)).st_size
        except OSError:
            return None

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> OutputInfo:
        target = os.path.join(self.root, name)
        with writing_to(self.root):
            try:
                try:
                    self._write(target, data)
                except FileNotFoundError:  # somebody removed a folder that we had made
                    self._made.clear()
                    self._write(target, data)
            except OSError as error:
                if error.errno in _PER_IMAGE:
                    raise refused_name(name, error.strerror) from error
                raise
            except ValueError as error:  # a zero byte, or a character that the locale lacks
                raise refused_name(name, str(error)) from error
        return hashlib.sha256(data).hexdigest(), len(data)

    def _write(self, target: str, data: bytes) -> None:
        folder = os.path.dirname(target)
        if folder not in self._made:
            os.stat(self.root)
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        with atomic_write(target, durable=self._durable, exclusive=False) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        target = os.path.join(self.root, name)
        for path in (target, temporary_name(target)):
            with contextlib.suppress(OSError):
                os.unlink(path)
