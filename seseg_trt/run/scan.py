"""Finding inputs: files, folders, globs and lists, with every odd thing of a file system answered for."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ReasonCode, UsageError
from .archive import BadEntry
from .file_states import describe_os_error, file_type
from .names import expand_range, is_compressed_tar, is_remote, is_tar, may_be_path, tar_number
from .shards import ShardChangedError, index_of

IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})
"""Files that file managers leave behind, compared in lower case; dot files are ignored as well."""


class WorkItem(NamedTuple):
    """One input. ``path`` is relative to ``root`` and is its identity; bytes that are not UTF-8 are surrogate-escaped."""

    root: str
    path: str

    @property
    def source(self) -> str:
        """The path to open."""
        return f"{self.root}/{self.path}"

    @property
    def identity(self) -> bytes:
        """The relative path as the bytes that the file system has."""
        return os.fsencode(self.path)


class Refused(NamedTuple):
    """An input that can't even be opened; it is quarantined without being read."""

    item: WorkItem
    reason: ReasonCode
    message: str


class Scan:
    """Walks arguments and collects what they name.

    Args:
        output_dir: where outputs go. What lies in it is never read, where it lies inside an input folder.
        state_dir: the run's own files: never read.
        base: what all names are relative to, or None: a folder's files to that folder, a file's to its own folder, grouped paths
            (a list, a glob) to their common parent.

    Attributes:
        items: regular files, in the order of the arguments and then of their names.
        ignored: how many files are left out for their names.
        refused: what can't be opened.
    """

    def __init__(self, output_dir: str, state_dir: str, base: str | None) -> None:
        self.items: list[WorkItem] = []
        self.ignored = 0
        self.refused: list[Refused] = []
        self._output = os.path.realpath(output_dir)
        self._state = os.path.realpath(state_dir)
        self._output_name = output_dir.rstrip("/")
        self._remote_base = base.rstrip("/") if base is not None and is_remote(base) else None
        self._base = None if base is None or is_remote(base) else os.path.abspath(base)
        self._tar = self._output if is_tar(output_dir) else None
        self._shards: set[str] = set()
        self._closed: dict[str, set[str]] = {}
        self._keys: dict[str, set[tuple[int, int]]] = {}

    def add(self, argument: str) -> None:
        """Add a file, a folder, a glob, or a range of tar shards (``data-{000000..000009}.tar``).

        A file that ends in ``.tar`` stands for its entries.

        Raises:
            UsageError: it names nothing, lies outside the base, or where the outputs go.
        """
        _check_name(argument)
        if (shards := expand_range(argument)) and not os.path.lexists(argument):
            for shard in shards:
                if not is_remote(shard) and not os.path.lexists(shard):
                    raise UsageError(f"there is no file {shard!r}, which is of the range {argument}", "check the range")
                self.add(shard)
        elif is_compressed_tar(argument) and not os.path.isdir(argument):
            raise UsageError(f"{argument} is compressed: its entries can't be found without reading all of it", "decompress it first")
        elif is_remote(argument):
            self._add_remote(argument)
        elif os.path.isdir(argument):
            folder = os.path.abspath(argument)
            root = self._root(folder)
            if self._is_closed(root, folder):
                raise UsageError(f"the input folder {argument} lies in the output folder", "choose another output folder")
            self._add_folder(root, _relative(folder, root))
        elif os.path.lexists(argument):
            path = os.path.abspath(argument)
            root = self._root(os.path.dirname(path))
            if self._is_closed(root, path):
                raise UsageError(f"the input {argument} lies in the output folder", "choose another output folder")
            self._add_file(root, _relative(path, root))
        elif glob.has_magic(argument):
            found = sorted(glob.glob(argument, recursive=True))
            if not found:
                raise UsageError(f"nothing matches {argument!r}", "quote the pattern; ** matches folders at any depth")
            # `**` names a folder and each thing in it as well: the things are enough
            self.add_group([path for path in found if not os.path.isdir(path)] if "**" in argument else found)
        else:
            raise UsageError(f"there is no file or folder {argument!r}", "check the path")

    def add_group(self, paths: list[str]) -> None:
        """Add paths that belong together: their names are relative to the base, or to their common parent.

        A path that is not there is refused, not an error: one stale line must not end a run over a long list.

        Raises:
            UsageError: one lies outside the base, or can't be a path.
        """
        for path in paths:
            _check_name(path)
            if is_remote(path):
                self._add_remote(path)
        absolute = [os.path.abspath(path) for path in paths if not is_remote(path)]
        if not absolute:
            return
        folders = {path for path in absolute if os.path.isdir(path)}
        parents = {path if path in folders else os.path.dirname(path) for path in absolute}
        root = self._root(os.path.commonpath(parents))
        for path in absolute:
            if self._is_closed(root, path):
                continue
            if path in folders:
                self._add_folder(root, _relative(path, root))
            else:
                self._add_file(root, _relative(path, root))

    def _root(self, folder: str) -> str:
        root = self._base or folder
        if os.path.realpath(root) == self._output:
            raise UsageError(
                f"the output folder is the input folder: {folder}", "choose another output folder; it may lie inside the input folder"
            )
        return root

    def _is_closed(self, root: str, path: str) -> bool:
        """Tell whether a path lies where nothing is read: in the state folder, or in an output folder inside its root."""
        if root not in self._closed:
            inside = _is_within(self._output, os.path.realpath(root))
            self._closed[root] = {self._state, self._output} if inside else {self._state}
        real = os.path.realpath(path)
        return self._is_output_tar(real) or any(_is_within(real, closed) for closed in self._closed[root])

    def _is_output_tar(self, path: str) -> bool:
        if self._tar is None:
            return False
        folder, _, name = path.rpartition("/")
        return folder == os.path.dirname(self._tar) and tar_number(self._tar, name) is not None

    def _closed_keys(self, root: str) -> set[tuple[int, int]]:
        """Return device and inode of the folders that are closed: to resolve the path of each folder would cost far more in deep trees.

        A link that leads into a closed folder is seen by :meth:`_is_closed` where it is met.
        """
        if root not in self._keys:
            self._is_closed(root, root)
            self._keys[root] = set()
            for folder in self._closed[root]:
                with contextlib.suppress(OSError):  # not made yet
                    status = os.stat(folder)
                    self._keys[root].add((status.st_dev, status.st_ino))
        return self._keys[root]

    def _add_remote(self, address: str) -> None:
        """Add an object, or all that lie under a folder of a store."""
        from . import remote

        address = address.rstrip("/")
        root = address if self._remote_base is None else self._remote_base
        if root != address and not address.startswith(root + "/"):
            raise UsageError(f"{address} is not under the base folder {root}", "choose a --base that holds all inputs")
        prefix = address[len(root) :].strip("/")
        if address == self._output_name or self._output_name.startswith(address + "/"):
            raise UsageError(
                f"the output folder {self._output_name} is, or lies in, the input folder {address}", "choose another output folder"
            )
        for name, _ in remote.find(address):
            item = WorkItem(root, f"{prefix}/{name}" if prefix and name else prefix or name)
            if not item.path:  # a single object, named itself
                parent, _, own_name = address.rpartition("/")
                item = WorkItem(parent, own_name)
            if not name and is_tar(address):
                remote.is_object.cache_clear()
                self._add_shard(item, based=self._remote_base is not None)
            elif may_be_path(item.path) or _is_ignored(item.path):
                self._take(item, stat.S_IFREG)
            else:
                self.refused.append(Refused(item, "unreadable", f"its name, {item.path!r}, can't be a path: a part of it is empty"))

    def _add_file(self, root: str, path: str) -> None:
        item = WorkItem(root.rstrip("/"), path)
        try:
            mode = os.stat(item.source).st_mode
        except OSError as error:
            self._refuse(item, error)
            return
        if is_tar(path) and stat.S_ISREG(mode):
            self._add_shard(item, based=self._base is not None)
        else:
            self._take(item, mode)

    def _add_shard(self, shard: WorkItem, *, based: bool) -> None:
        """Add an archive's entries: by their names alone, or relative to the base as if the archive were a folder."""
        name = shard.source
        real = name if is_remote(name) else os.path.realpath(name)
        if real in self._shards:
            return
        self._shards.add(real)
        if _is_ignored(shard.path):
            self.ignored += 1
            return
        try:
            index = index_of(name)
        except ShardChangedError as error:
            self.refused.append(Refused(shard, "changed", str(error.strerror)))
            return
        except OSError as error:
            self._refuse(shard, error)
            return
        root, prefix = (shard.root, shard.path + "/") if based else (name, "")
        for path in index.entries:
            self._take(WorkItem(root, prefix + path), stat.S_IFREG)
        for bad in index.refused:
            if _is_ignored(bad.path if bad.safe else _harmless(bad)):
                self.ignored += 1
            else:
                item = (
                    WorkItem(root, prefix + bad.path) if bad.safe else WorkItem(shard.root, f"{shard.path}#{bad.number}/{_harmless(bad)}")
                )
                self.refused.append(Refused(item, bad.reason, bad.message))
        self.ignored += len(index.sidecars)
        if index.damage is not None:
            self.refused.append(Refused(shard, *index.damage))

    def _add_folder(self, root: str, prefix: str) -> None:
        for item, found in self._walk(root, "" if prefix == "." else prefix):
            if isinstance(found, OSError):
                self._refuse(item, found)
            else:
                self._take(item, found)

    def _refuse(self, item: WorkItem, error: OSError) -> None:
        if _is_ignored(item.path):
            self.ignored += 1
        else:
            self.refused.append(Refused(item, *describe_os_error(error)))

    def _take(self, item: WorkItem, mode: int) -> None:
        if _is_ignored(item.path):
            self.ignored += 1
        elif stat.S_ISREG(mode):
            self.items.append(item)
        else:
            self.refused.append(Refused(item, "not_a_file", f"it is {file_type(mode)}, not a regular file"))

    def _walk(self, root: str, prefix: str) -> Iterator[tuple[WorkItem, int | OSError]]:
        """Yield everything under root/prefix that is no folder; links to folders are followed, never in a circle."""
        top = root.rstrip("/")
        opened: list[tuple[tuple[int, int], Iterator[os.DirEntry[str]], str]] = []
        folder: str | None = prefix
        while folder is not None or opened:
            if folder is not None:
                here, folder = folder, None
                try:
                    found = self._open(root, here, [key for key, _, _ in opened])
                except OSError as error:
                    yield WorkItem(top, here), error
                else:
                    opened.append((*found, here))
                continue
            _, entries, here = opened[-1]
            entry = next(entries, None)
            if entry is None:
                opened.pop()
                continue
            item = WorkItem(top, f"{here}/{entry.name}" if here else entry.name)
            try:
                if entry.is_symlink() and self._is_closed(root, item.source):
                    continue
                # is_dir() of a folder that is no link costs no system call
                if entry.is_dir():
                    folder = item.path
                elif entry.is_file(follow_symlinks=False):
                    ours = self._tar is not None and tar_number(self._tar, entry.name) is not None
                    if not ours or not self._is_output_tar(os.path.realpath(item.source)):
                        yield item, stat.S_IFREG
                else:
                    yield item, entry.stat().st_mode
            except OSError as error:
                yield item, error

    def _open(self, root: str, prefix: str, above: list[tuple[int, int]]) -> tuple[tuple[int, int], Iterator[os.DirEntry[str]]]:
        """Return a folder's key and its entries in the order of their names' bytes; of a closed folder, none."""
        folder = os.path.join(root, prefix) if prefix else root
        status = os.stat(folder)
        key = (status.st_dev, status.st_ino)
        if key in self._closed_keys(root):
            return key, iter(())
        if key in above:
            raise OSError(errno.ELOOP, "a link to a folder that it lies in")
        with os.scandir(folder) as entries:
            return key, iter(sorted(entries, key=lambda entry: os.fsencode(entry.name)))


def _relative(path: str, root: str) -> str:
    relative = os.path.relpath(path, root)
    if relative == ".." or relative.startswith("../"):
        raise UsageError(f"{path} is not under the base folder {root}", "choose a --base that holds all inputs")
    return relative


def _check_name(path: str) -> None:
    if "\0" in path:
        raise UsageError(f"{path[:100]!r} holds a NUL byte and can't be a path", "a list that is separated by NUL bytes needs --null")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_ignored(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower() in IGNORED_NAMES or path.startswith(".") or "/." in path


def _harmless(bad: BadEntry) -> str:
    """Return a path for an entry that can have none of its own name."""
    if bad.reason == "collision":
        return bad.path
    name = bad.path.replace("\0", "?").rpartition("/")[2]
    return "nameless" if name == ".." else name
