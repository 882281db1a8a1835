"""The local disk as a :class:`~seseg_trt.storage.base.Storage`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .atomic import atomic_write
from .base import ChangedError, Stat, Storage


class LocalStorage(Storage):
    """Files of this machine."""

    remote = False

    def stat(self, name: str) -> Stat:
        return _stat_of(os.stat(name))

    def is_file(self, name: str) -> bool:
        return os.path.isfile(name)

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(folder or ".")
        except FileNotFoundError:
            return []

    def read(self, name: str, check_size: Callable[[int], None], listed: Stat | None = None) -> tuple[bytes, Stat]:
        with _opened(name) as file:
            before = _stat_of(os.fstat(file.fileno()))
            check_size(before.size)
            data = file.read(before.size + 1) or b""
            while 0 < len(data) < before.size and (more := file.read(before.size + 1 - len(data))):
                data += more
            after = _stat_of(os.fstat(file.fileno()))
        if len(data) != before.size or after.mtime_ns != before.mtime_ns:
            raise ChangedError("the file changed while it was read")
        return data, before

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        with self.open(name) as file:
            file.seek(offset)
            return file.read(size)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with _opened(name) as raw, io.BufferedReader(raw, 4096) as file:
            yield file

    @contextlib.contextmanager
    def write(self, name: str, scratch: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
        with atomic_write(name, durable=durable) as file:
            yield file


def _stat_of(status: os.stat_result) -> Stat:
    return Stat(status.st_size, status.st_mtime_ns)


def _opened(name: str) -> io.FileIO:
    # O_NONBLOCK: if a pipe has taken the file's place, opening it must not wait for a writer
    return io.FileIO(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
