"""Outputs in tars: staged as files first, so that they have all of a folder's guarantees, and packed when a tar's inputs are settled.

A tar is written beside its place and renamed whole; only then are its staged files removed. So whoever is killed leaves either the staged
files or the tar that holds them, or both, and packing again gives the same bytes: entries have fixed times and a fixed order.
A staged file of 0 bytes says that an output is gone which an earlier tar may hold: no output is ever that short.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadImage, UsageError
from .archive import BLOCK, Entry
from .journal import Row
from .names import is_pattern, is_remote, tar_name, tar_number
from .output import Made, OutputFolder, flush_folder, stopped
from .shards import index_of, read_range, stat_shard

STAGED, PACKED = "staged", "packed"
_SIZE_BITS = 48


class TarOutputs:
    """A tar, or a row of them.

    Args:
        target: the tar's name, or a pattern with a number (``masks-%06d.tar``); local, or of a store.
        state: the run's state folder; outputs are staged in it.
        durable: flush what is written to the disk.

    Attributes:
        ignored: tars that are there, by their numbers and with their size and time of change, and are to be replaced unread.
    """

    def __init__(self, target: str, state: Path, *, durable: bool) -> None:
        self.target = target
        self.ignored: dict[int, tuple[int, int]] = {}
        self._state = state
        self._durable = durable
        self._staged = OutputFolder(state / STAGED, durable=durable)
        self._packed: dict[str, int] | None = None
        self._any_packed = True
        self._unrecorded: set[int] = set()

    # See :class:`seseg_trt.run.output.Outputs`.

    def size(self, name: str) -> int | None:
        """See :class:`seseg_trt.run.output.Outputs`. What the tars hold is asked once."""
        size = self._staged.size(name)
        if size is not None:
            return size or None
        packed = self._where().get(name)
        return None if packed is None else packed & ((1 << _SIZE_BITS) - 1)

    def read(self, name: str) -> bytes:
        """See :class:`seseg_trt.run.output.Outputs`."""
        if self._staged.size(name):
            return self._staged.read(name)
        packed = self._where().get(name)
        entry = None if packed is None else (self.holds(packed >> _SIZE_BITS) or {}).get(name)
        if packed is None or entry is None:
            raise FileNotFoundError(f"{self.target} has no {name}")
        return read_range(self.name(packed >> _SIZE_BITS), entry.offset, entry.size)

    def prepare(self) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        self._packed = None
        self._any_packed = bool(self.numbers())
        self._staged.prepare()

    def write(self, name: str, data: bytes) -> Made:
        """See :class:`seseg_trt.run.output.Outputs`."""
        return self._staged.write(name, data)

    def remove(self, name: str) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        self._staged.remove(name)
        if self._any_packed:
            with contextlib.suppress(BadImage):  # what can't be a file's name never was one
                self._staged.write(name, b"")

    def sweep(self) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        self._staged.sweep()

    def close(self) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        self._staged.close()
        with contextlib.suppress(OSError):
            os.rmdir(self._staged.root)

    def _where(self) -> dict[str, int]:
        """Return each packed output's tar and size, in one number: there may be millions of them."""
        if self._packed is None:
            self._packed = {}
            for number in self.numbers():
                held = self.holds(number) or {}
                self._packed.update((name, number << _SIZE_BITS | entry.size) for name, entry in held.items())
        return self._packed

    # The tars.

    def name(self, number: int) -> str:
        """Return the name of a tar."""
        return tar_name(self.target, number)

    def numbers(self) -> list[int]:
        """Return which tars are there."""
        folder = os.path.dirname(self.target)
        if is_remote(self.target):
            from . import remote

            found = remote.list_folder(folder) if is_pattern(self.target) else [os.path.basename(self.target)]
            found = found if is_pattern(self.target) or remote.exists(self.target) else []
        else:
            try:
                found = os.listdir(folder or ".")
            except FileNotFoundError:
                return []
        return sorted(number for name in found if (number := tar_number(self.target, name)) is not None)

    def holds(self, number: int) -> dict[str, Entry] | None:
        """Return what a tar holds, in its order, or None if it is not there (or to be replaced unread)."""
        name = self.name(number)
        try:
            stat = stat_shard(name)
        except OSError:
            return None
        if self.ignored.get(number) == stat:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(self._record(number).read_bytes())
            if record["tar"] == os.path.basename(name) and tuple(record["stat"]) == stat:
                return {path: Entry(0, offset, size) for path, offset, size in record["entries"]}
        self._unrecorded.add(number)
        try:
            index = index_of(name, stat)
        except OSError as error:
            raise stopped(name, error) from error
        return dict(sorted({**index.entries, **index.sidecars}.items(), key=lambda found: found[1].offset))

    def refuse_lossy(self, number: int) -> None:
        """Raise UsageError if a tar that is to be kept holds what would be lost if it were written again."""
        name = self.name(number)
        index = index_of(name)
        why = index.damage[1] if index.damage else index.refused[0].message if index.refused else ""
        if why:
            raise UsageError(f"{name} can't be kept, since not all of it can be read: {why}", "--overwrite redo replaces it")

    def _record(self, number: int) -> Path:
        return self._state / PACKED / f"{number}.json"

    def pack(self, number: int, rows: Iterable[Row]) -> None:
        """Write one tar, unless it holds all that it should already.

        Args:
            number: which.
            rows: of its inputs, in their order. A pending one's outputs are left out.

        Raises:
            StoppedError: the disk, or the store, refused.
        """
        held = self.holds(number)
        old = held or {}
        entries: list[tuple[str, Entry | None]] = []
        mentioned: set[str] = set()
        staged: list[str] = []
        for row in rows:
            for name in sorted(row.outputs):
                if name in mentioned:
                    continue
                mentioned.add(name)
                size = self._staged.size(name)
                if size is not None:
                    staged.append(name)
                if row.state == "pending":
                    continue
                if size:
                    entries.append((name, None))
                elif size is None and name in old:
                    entries.append((name, old[name]))
        entries += [(name, entry) for name, entry in old.items() if name not in mentioned]
        try:
            if held is None or any(entry is None for _, entry in entries) or [name for name, _ in entries] != list(old):
                self._write_tar(number, entries)
            elif number in self._unrecorded:
                self._write_record(number, [(name, entry.offset, entry.size) for name, entry in old.items()])
        except OSError as error:
            raise stopped(self.name(number), error) from error
        for name in staged:
            self._staged.remove(name)

    def _write_tar(self, number: int, entries: list[tuple[str, Entry | None]]) -> None:
        target = self.name(number)
        folder, name = os.path.split(target)
        remote_target = is_remote(target)
        temporary = str(self._state / "packing.tmp") if remote_target else os.path.join(folder, f".{name}.tmp")
        os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
        places = []
        try:
            with open(temporary, "wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
                    for path, entry in entries:
                        size = self._add(tar, target, path, entry)
                        tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                        places.append((path, tar.offset - -(-size // BLOCK) * BLOCK, size))
                file.flush()
                if self._durable:
                    os.fsync(file.fileno())
            if remote_target:
                from . import remote

                remote.put_file(Path(temporary), target)
                os.unlink(temporary)
            else:
                os.replace(temporary, target)
                if self._durable:
                    flush_folder(folder or ".")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self.ignored.pop(number, None)
        self._write_record(number, places)

    def _write_record(self, number: int, places: list[tuple[str, int, int]]) -> None:
        """Keep where each entry lies in a tar, so that the next run need not read all its headers."""
        target = self.name(number)
        record = {"tar": os.path.basename(target), "stat": stat_shard(target), "entries": places}
        self._unrecorded.discard(number)
        self._record(number).parent.mkdir(parents=True, exist_ok=True)
        written = self._record(number).with_suffix(".tmp")
        written.write_text(json.dumps(record), encoding="ascii")
        os.replace(written, self._record(number))

    def _add(self, tar: tarfile.TarFile, target: str, path: str, entry: Entry | None) -> int:
        info = tarfile.TarInfo(path)  # no owner, the beginning of time, rw-r--r--
        if entry is None:
            with open(self._staged.root / path, "rb") as file:
                info.size = os.fstat(file.fileno()).st_size
                tar.addfile(info, file)
        else:
            data = read_range(target, entry.offset, entry.size)
            if len(data) != entry.size:
                raise OSError(f"{target} changed while it was read")
            info.size = entry.size
            tar.addfile(info, io.BytesIO(data))
        return info.size

    def clear(self) -> None:
        """Remove what staging leaves when all is packed: empty folders, and what a killed run had begun to pack."""
        self.close()
        for folder, _, _ in os.walk(self._staged.root, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        with contextlib.suppress(OSError):
            os.unlink(self._state / "packing.tmp")
        for path in (self._state / PACKED).glob("*.tmp"):
            path.unlink(missing_ok=True)
        if not is_remote(self.target):
            folder = os.path.dirname(self.target)
            for name in os.listdir(folder or ".") if os.path.isdir(folder or ".") else ():
                if name.startswith(".") and name.endswith(".tar.tmp") and tar_number(self.target, name[1:-4]) is not None:
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(folder, name))
