"""Outputs in tars: staged as files first, so that they have all of a folder's guarantees, and packed when a tar's inputs are settled.

A tar is written beside its place and renamed whole; only then are its staged files removed. So a run that is killed leaves either the
staged files or the tar that holds them, or both, and packing again gives the same bytes: entries have fixed times and a fixed order.
An empty staged file is a tombstone: it removes the output from an earlier tar.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadImage, UsageError
from ..inputs.tar_entries import index_of
from ..inputs.tar_index import BLOCK, Entry
from ..journal.journal import JOURNAL, Journal
from ..journal.row import Row
from ..storage.base import Stat
from ..storage.locations import is_pattern, tar_name, tar_number
from ..storage.select import storage_of
from .base import writing_to
from .folder import OutputFolder

STAGED = "staged"


class TarOutputs(OutputFolder):
    """A tar, or a row of them; as a folder, that of the staged files.

    Args:
        target: the tar's name, or a pattern with a number (``masks-%06d.tar``); local, or of a store.
        state: the run's state folder; outputs are staged in it.
        durable: flush what is written to the disk.
        journal: of the run. Without it outputs can only be written, removed and read.

    Attributes:
        ignored: tars that are there, by their numbers and with their stat, and are to be replaced unread.
    """

    def __init__(self, target: str, state: Path, *, durable: bool, journal: Journal | None = None) -> None:
        super().__init__(state / STAGED, durable=durable)
        self.target = target
        self.ignored: dict[int, Stat] = {}
        self._storage = storage_of(target)
        self._state = state
        self._journal = journal
        self._any_packed: bool | None = None

    def size(self, name: str) -> int | None:
        size = super().size(name)
        if size is not None:
            return size or None
        found = None if self._journal is None else self._journal.packed(name)
        return None if found is None else found[1].size

    def read(self, name: str) -> bytes:
        if super().size(name):
            return super().read(name)
        if self._journal is not None:
            found = self._journal.packed(name)
        else:
            with contextlib.closing(Journal(self._state / JOURNAL, read_only=True)) as journal:
                found = journal.packed(name)
        if found is None:
            raise FileNotFoundError(f"{self.target} has no {name}")
        number, entry = found
        return self._storage.read_range(self.name(number), entry.offset, entry.size)

    def remove(self, name: str) -> None:
        super().remove(name)
        if self._any_packed is None:
            self._any_packed = bool(self.numbers())
        if self._any_packed:
            with contextlib.suppress(BadImage):  # what can't be a file's name never was one
                self.write(name, b"")

    # The tars. All that follows needs the journal.

    def name(self, number: int) -> str:
        """Return the name of a tar."""
        return tar_name(self.target, number)

    def numbers(self) -> list[int]:
        """Return which tars are there. Raises StoppedError."""
        with writing_to(self.target):
            if not is_pattern(self.target):
                return [0] if self._storage.is_file(self.target) else []
            found = self._storage.names(os.path.dirname(self.target))
        return sorted(number for name in found if (number := tar_number(self.target, name)) is not None)

    def refresh(self) -> None:
        """Make the journal's record of what is packed true of the tars that are there."""
        numbers = self.numbers()
        for number in numbers:
            self._stat_known(number)
        self._known.keep_tars(numbers)

    @property
    def _known(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def _stat_known(self, number: int) -> Stat | None:
        """Return the stat of a tar whose entries the journal knows, or None if it is not there (or to be replaced unread)."""
        name = self.name(number)
        try:
            stat = self._storage.stat(name)
        except OSError:
            return None
        if self.ignored.get(number) == stat:
            return None
        if self._known.tar_stat(number) != stat:
            with writing_to(name):
                index = index_of(name, stat)
            self._known.set_packed(number, stat, {**index.entries, **index.sidecars}.items())
        return stat

    def refuse_lossy(self, number: int) -> None:
        """Raise UsageError if a tar that is to be kept holds what would be lost if it were written again."""
        name = self.name(number)
        index = index_of(name)
        why = index.damage[1] if index.damage else index.refused[0].message if index.refused else ""
        if why:
            raise UsageError(f"{name} can't be kept, since not all of it can be read: {why}", "--overwrite redo replaces it")

    def pack(self, number: int, rows: Iterable[Row]) -> None:
        """Write one tar, unless it holds all that it should already.

        Args:
            number: which.
            rows: of its inputs, in their order. A pending one's outputs are left out.

        Raises:
            StoppedError: the disk, or the store, refused.
        """
        stat = self._stat_known(number)
        old = {} if stat is None else self._known.packed_in(number)
        entries: list[tuple[str, Entry | None]] = []
        mentioned: set[str] = set()
        staged: list[str] = []
        for row in rows:
            for name in sorted(row.outputs):
                if name in mentioned:
                    continue
                mentioned.add(name)
                size = super().size(name)
                if size is not None:
                    staged.append(name)
                if row.state != "pending" and (size or (size is None and name in old)):
                    entries.append((name, None if size else old[name]))
        entries += [(name, entry) for name, entry in old.items() if name not in mentioned]
        if stat is None or any(entry is None for _, entry in entries) or [name for name, _ in entries] != list(old):
            with writing_to(self.name(number)):
                self._write_tar(number, entries)
        for name in staged:
            super().remove(name)

    def _write_tar(self, number: int, entries: list[tuple[str, Entry | None]]) -> None:
        target = self.name(number)
        places = {}
        if not self._storage.remote:
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        with (
            self._storage.write(target, self._state, durable=self._durable) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar,
        ):
            for path, entry in entries:
                data = super().read(path) if entry is None else self._storage.read_range(target, entry.offset, entry.size)
                if entry is not None and len(data) != entry.size:
                    raise OSError(f"{target} changed while it was read")
                info = tarfile.TarInfo(path)  # no owner, the beginning of time, rw-r--r--
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                places[path] = Entry(0, tar.offset - -(-info.size // BLOCK) * BLOCK, info.size)
        self.ignored.pop(number, None)
        self._known.set_packed(number, self._storage.stat(target), places.items())

    def clear(self) -> None:
        """Remove the empty folders that staging leaves when all is packed."""
        for folder, _, _ in os.walk(self.root, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
