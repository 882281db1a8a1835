"""What a tar holds: its headers read once, nothing taken out; and no damage that goes unsaid."""

from __future__ import annotations

import dataclasses
import os
import re
import tarfile
from typing import BinaryIO, NamedTuple

from ..errors import ReasonCode
from ..storage.locations import text_to_fs

BLOCK = tarfile.BLOCKSIZE
TAIL_BYTES = 1 << 20
"""How many bytes after the end mark of a tar are checked: no writer pads with more."""

_IMAGE = re.compile(
    r"\.(avif|bmp|dib|exr|gif|heic|heif|ico|j2k|jfif|jp2|jpe|jpeg|jpf|jpg|jpx|jxl|mpo|pbm|pgm|png|pnm|ppm|psd|qoi|svg|tga|tif|tiff|webp)$",
    re.IGNORECASE,
)
"""Suffixes of images, also of those that are not decoded. An entry beside an image of the same key is its sidecar."""

_ONE_BY_ONE = "tars put one after another are read as the first alone: give each by itself"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


class Entry(NamedTuple):
    """Where the bytes of a tar's regular file are. ``number`` counts all entries from 1."""

    number: int
    offset: int
    size: int


class BadEntry(NamedTuple):
    """An entry that can't be read. ``safe`` says that its name may serve as a path, and nobody else has it. Otherwise ``path`` only tells people."""

    number: int
    path: str
    safe: bool
    reason: ReasonCode
    message: str


@dataclasses.dataclass
class Index:
    """What a tar holds.

    Attributes:
        entries: regular files by their paths (links as the files that they lead to), in the order of the tar.
        refused: what can't be read, with the reasons.
        sidecars: entries that only describe an image of the same key, as webdataset's samples have them.
        damage: why the tar could not be read to its end, or None.
    """

    entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
    refused: list[BadEntry] = dataclasses.field(default_factory=list)
    sidecars: dict[str, Entry] = dataclasses.field(default_factory=dict)
    damage: tuple[ReasonCode, str] | None = None

    def __len__(self) -> int:
        return len(self.entries) + len(self.refused) + len(self.sidecars)


def read_index(file: BinaryIO, size: int) -> Index:
    """Read all headers of an uncompressed tar.

    Args:
        file: can be sought in.
        size: of the tar in bytes.
    """
    return _Reader(file, size).read()


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._index = Index()
        self._links: dict[str, str | None] = {}
        self._folders: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._number = 0

    def read(self) -> Index:
        try:
            self._index.damage = self._read_all()
        except OSError:
            raise
        except Exception as error:  # of a header that tarfile stumbles over
            self._index.damage = self._damaged(str(error) or type(error).__name__)
        for path in self._links:
            self._resolve(path)
        self._index.entries = dict(sorted(self._index.entries.items(), key=lambda found: found[1].number))
        self._drop_sidecars()
        return self._index

    def _read_all(self) -> tuple[ReasonCode, str] | None:
        if self._size == 0:
            return "empty", "the tar has 0 bytes"
        try:
            opened = tarfile.open(fileobj=self._file, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        except tarfile.ReadError as error:
            return self._no_archive(error)
        with opened as tar:
            if tar.firstmember is None:  # type: ignore[attr-defined]  # Python 3.10's tarfile raises where there is no entry to come next
                return self._check_end(tar.offset)
            last = -1
            try:
                while (info := tar.next()) is not None:
                    if tar.offset <= last or info.size < 0:
                        return self._damaged("a header leads backwards")
                    last = tar.offset
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                    self._number += 1
                    self._add(info)
            except tarfile.ReadError as error:
                return self._ended() if tar.offset > self._size else self._damaged(str(error))
            return self._check_end(tar.offset)

    def _check_end(self, offset: int) -> tuple[ReasonCode, str] | None:
        self._file.seek(min(offset, self._size))
        header = self._file.read(BLOCK)
        if len(header) < BLOCK:
            return self._ended()
        if header.strip(b"\0"):
            return self._damaged("what follows is no header")
        if self._file.read(TAIL_BYTES).strip(b"\0"):
            return "unreadable", f"more bytes follow the mark that ends the tar, {self._after()}; {_ONE_BY_ONE}"
        return None

    def _ended(self) -> tuple[ReasonCode, str]:
        return "truncated", f"the tar ends without its end mark, {self._after()}; entries after it, if there were any, are lost"

    def _damaged(self, why: str) -> tuple[ReasonCode, str]:
        return "unreadable", f"the tar is damaged {self._after()} ({why}); entries after it, if there are any, can't be found"

    def _no_archive(self, error: Exception) -> tuple[ReasonCode, str]:
        self._file.seek(0)
        head = self._file.read(BLOCK)
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                return "unsupported", f"it is compressed with {kind}: decompress it first, so that its entries can be found"
        if len(head) < BLOCK:
            return "truncated", f"it is too short for a tar: {error}"
        return "unreadable", f"it is no tar: {error}"

    def _after(self) -> str:
        return f"after entry {self._number}" if self._number else "before its first entry"

    def _add(self, info: tarfile.TarInfo) -> None:
        info.name, info.linkname = text_to_fs(info.name), text_to_fs(info.linkname)
        parts = _parts(info.name)
        path = "/".join(parts)
        if info.isdir():
            self._folders.add(path)
        elif not parts or ".." in parts or "\0" in path:
            name = parts[-1].replace("\0", "?") if parts and parts[-1] != ".." else "nameless"
            self._refuse(name, "unreadable", f"its name, {info.name!r}, can't be a path inside the tar", safe=False)
        elif (first := self._numbers.setdefault(path, self._number)) != self._number:
            self._refuse(path, "collision", f"entry {first} of the same tar has the same name; rename one of the two", safe=False)
        elif info.islnk() or info.issym():
            self._links[path] = "/".join(_parts(info.linkname)) if info.islnk() else _led_to(path, info.linkname)
        elif info.issparse():
            self._refuse(path, "unreadable", "it is stored with holes (a sparse entry), which is not read; pack it without --sparse")
        elif not info.isreg():
            self._refuse(path, "not_a_file", f"it is {_kind(info)}, not a regular file")
        elif info.offset_data + info.size > self._size:
            self._refuse(path, "truncated", f"the tar ends within it: {self._size - info.offset_data} of its {info.size} bytes are there")
        else:
            self._index.entries[path] = Entry(self._number, info.offset_data, info.size)

    def _refuse(self, path: str, reason: ReasonCode, message: str, *, safe: bool = True) -> None:
        self._index.refused.append(BadEntry(self._number, path, safe, reason, message))

    def _resolve(self, path: str) -> None:
        """Answer for a link: it is the file that it leads to, as if the tar had been extracted."""
        self._number = self._numbers[path]
        at: str | None = path
        seen = set()
        while at in self._links and at not in seen:
            seen.add(at)
            at = self._links[at]
        if at in seen:
            self._refuse(path, "link_loop", "links of the tar lead in a circle")
        elif at in self._index.entries:
            self._index.entries[path] = self._index.entries[at]._replace(number=self._number)
        elif at in self._folders:
            self._refuse(path, "not_a_file", f"it is a link to a folder of the tar, {at}")
        elif at in self._numbers:
            self._refuse(path, "unreadable", f"it is a link to {at}, which can't be read")
        else:
            self._refuse(path, "missing", "it is a link that leads to nothing in the tar")

    def _drop_sidecars(self) -> None:
        """Leave out what only describes an image: 000001.json, 000001.cls beside 000001.jpg."""
        names = [*self._index.entries, *(bad.path for bad in self._index.refused if bad.safe)]
        described = {_key(path) for path in names if _IMAGE.search(path)}
        for path in [path for path in self._index.entries if not _IMAGE.search(path) and _key(path) in described]:
            self._index.sidecars[path] = self._index.entries.pop(path)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _led_to(path: str, target: str) -> str | None:
    """Return where a symbolic link leads, or None if that is outside the tar."""
    parts = _parts(os.path.normpath(os.path.join(os.path.dirname(path), target)))
    return None if target.startswith("/") or parts[:1] == [".."] else "/".join(parts)


def _key(path: str) -> str:
    """Return webdataset's key of an entry: its path up to the first dot of its name."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _kind(info: tarfile.TarInfo) -> str:
    if info.isfifo():
        return "a pipe"
    return "a device" if info.isdev() else f"an entry of the unknown type {info.type!r}"
