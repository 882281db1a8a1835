"""Finding inputs: files, folders, globs and lists, with every odd thing of a file system answered for."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK, S_ISREG
from typing import NamedTuple

from ..errors import ReasonCode, UsageError
from ..storage.base import Stat
from ..storage.locations import expand_range, is_compressed_tar, is_tar, may_be_path, tar_number
from ..storage.select import storage_of
from .item import InputItem, RejectedInput, describe_os_error
from .tar_entries import forget_stores, index_of

IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})
"""Files that file managers leave behind, compared in lower case; dot files are ignored as well."""
_FILE_TYPES = {S_IFDIR: "a folder", S_IFIFO: "a pipe", S_IFSOCK: "a socket", S_IFCHR: "a device", S_IFBLK: "a device"}


class _OpenFolder(NamedTuple):
    """A folder that is being walked: its device and inode, its path and the entries that are still to be met, by their names' bytes."""

    key: tuple[int, int]
    path: str
    entries: Iterator[os.DirEntry[str]]


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
        self.items: list[InputItem] = []
        self.ignored = 0
        self.refused: list[RejectedInput] = []
        self._output = os.path.realpath(output_dir)
        self._state = os.path.realpath(state_dir)
        self._output_name = output_dir.rstrip("/")
        self._remote_base = base.rstrip("/") if base is not None and storage_of(base).remote else None
        self._base = None if base is None or storage_of(base).remote else os.path.abspath(base)
        self._tar = self._output if is_tar(output_dir) else None
        self._tars: set[str] = set()
        self._closed: dict[str, dict[str, tuple[int, int] | None]] = {}

    def add(self, argument: str) -> None:
        """Add a file, a folder, a glob, or a range of tars (``data-{000000..000009}.tar``).

        A file that ends in ``.tar`` stands for its entries.

        Raises:
            UsageError: it names nothing, lies outside the base, or where the outputs go.
        """
        _check_name(argument)
        if (tars := expand_range(argument)) and not os.path.lexists(argument):
            for tar in tars:
                if not storage_of(tar).remote and not os.path.lexists(tar):
                    raise UsageError(f"there is no file {tar!r}, which is of the range {argument}", "check the range")
                self.add(tar)
        elif is_compressed_tar(argument) and not os.path.isdir(argument):
            raise UsageError(f"{argument} is compressed: its entries can't be found without reading all of it", "decompress it first")
        elif storage_of(argument).remote:
            self._add_remote(argument)
        elif os.path.lexists(argument):
            path = os.path.abspath(argument)
            is_folder = os.path.isdir(path)
            root = self._root(path if is_folder else os.path.dirname(path))
            if self._is_closed(root, path):
                raise UsageError(
                    f"the input {'folder ' if is_folder else ''}{argument} lies in the output folder", "choose another output folder"
                )
            self._add_local(root, path, is_folder=is_folder)
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
            if storage_of(path).remote:
                self._add_remote(path)
        absolute = [os.path.abspath(path) for path in paths if not storage_of(path).remote]
        if not absolute:
            return
        folders = {path for path in absolute if os.path.isdir(path)}
        parents = {path if path in folders else os.path.dirname(path) for path in absolute}
        root = self._root(os.path.commonpath(parents))
        for path in absolute:
            if not self._is_closed(root, path):
                self._add_local(root, path, is_folder=path in folders)

    def _root(self, folder: str) -> str:
        root = self._base or folder
        if os.path.realpath(root) == self._output:
            raise UsageError(
                f"the output folder is the input folder: {folder}", "choose another output folder; it may lie inside the input folder"
            )
        return root

    def _closed_in(self, root: str) -> dict[str, tuple[int, int] | None]:
        """Return the folders that are closed to a root's inputs, with device and inode; None for one that is not made yet."""
        if root not in self._closed:
            inside = _is_within(self._output, os.path.realpath(root))
            self._closed[root] = dict.fromkeys((self._state, self._output) if inside else (self._state,))
            for folder in self._closed[root]:
                with contextlib.suppress(OSError):
                    self._closed[root][folder] = _key(folder)
        return self._closed[root]

    def _is_closed(self, root: str, path: str) -> bool:
        """Tell whether a path lies where nothing is read: in the state folder, or in an output folder inside its root."""
        real = os.path.realpath(path)
        return self._is_output_tar(real) or any(_is_within(real, closed) for closed in self._closed_in(root))

    def _is_output_tar(self, path: str) -> bool:
        if self._tar is None or tar_number(self._tar, os.path.basename(path)) is None:
            return False
        return os.path.dirname(os.path.realpath(path)) == os.path.dirname(self._tar)

    def _add_remote(self, address: str) -> None:
        """Add an object, or all that lie under a folder of a store."""
        from ..storage.objects import STORES

        address = address.rstrip("/")
        root = address if self._remote_base is None else self._remote_base
        if root != address and not address.startswith(root + "/"):
            raise UsageError(f"{address} is not under the base folder {root}", "choose a --base that holds all inputs")
        if address == self._output_name or self._output_name.startswith(address + "/"):
            raise UsageError(
                f"the output folder {self._output_name} is, or lies in, the input folder {address}", "choose another output folder"
            )
        for name, stat in STORES.find(address):
            whole = f"{address}/{name}" if name else address
            folder = root if whole != root else root.rpartition("/")[0]  # a single object, named itself, lies in its own folder
            item = InputItem(folder, whole[len(folder) + 1 :], stat)
            if not name and is_tar(address):
                forget_stores()
                self._add_tar(item, based=self._remote_base is not None)
            elif may_be_path(item.path):
                self._take(item, S_IFREG)
            else:
                self._refuse(item, "unreadable", f"its name, {item.path!r}, can't be a path: a part of it is empty")

    def _add_local(self, root: str, path: str, *, is_folder: bool) -> None:
        relative = os.path.relpath(path, root)
        if relative == ".." or relative.startswith("../"):
            raise UsageError(f"{path} is not under the base folder {root}", "choose a --base that holds all inputs")
        item = InputItem(root.rstrip("/"), relative)
        if is_folder:
            self._add_folder(root, item._replace(path="") if relative == "." else item)
            return
        try:
            mode = os.stat(item.source).st_mode
        except OSError as error:
            self._refuse(item, *describe_os_error(error))
            return
        if is_tar(path) and S_ISREG(mode):
            self._add_tar(item, based=self._base is not None)
        else:
            self._take(item, mode)

    def _add_tar(self, tar: InputItem, *, based: bool) -> None:
        """Add a tar's entries: by their names alone, or relative to the base as if the tar were a folder."""
        name = tar.source
        real = name if storage_of(name).remote else os.path.realpath(name)
        if real in self._tars:
            return
        self._tars.add(real)
        if _is_ignored(tar.path):
            self.ignored += 1
            return
        try:
            tar_stat = storage_of(name).stat(name)
            index = index_of(name, tar_stat)
        except OSError as error:
            self._refuse(tar, *describe_os_error(error))
            return
        root, prefix = (tar.root, tar.path + "/") if based else (name, "")
        for path, entry in index.entries.items():
            self._take(InputItem(root, prefix + path, Stat(entry.size, tar_stat.mtime_ns), entry.offset), S_IFREG)
        for bad in index.refused:
            item = InputItem(root, prefix + bad.path) if bad.safe else InputItem(tar.root, f"{tar.path}#{bad.number}/{bad.path}")
            self._refuse(item, bad.reason, bad.message)
        self.ignored += len(index.sidecars)
        if index.damage is not None:
            self._refuse(tar, *index.damage)

    def _refuse(self, item: InputItem, reason: ReasonCode, message: str) -> None:
        if _is_ignored(item.path):
            self.ignored += 1
        else:
            self.refused.append(RejectedInput(item, reason, message))

    def _take(self, item: InputItem, mode: int) -> None:
        if not S_ISREG(mode):
            self._refuse(item, "not_a_file", f"it is {_FILE_TYPES.get(S_IFMT(mode), 'something else')}, not a regular file")
        elif _is_ignored(item.path):
            self.ignored += 1
        else:
            self.items.append(item)

    def _add_folder(self, root: str, folder: InputItem) -> None:
        """Add everything under a folder; links to folders are followed, never in a circle."""
        opened: list[_OpenFolder] = []
        self._open(root, folder, opened)
        while opened:
            here = opened[-1].path
            for entry in opened[-1].entries:
                item = InputItem(folder.root, f"{here}/{entry.name}" if here else entry.name)
                try:
                    if entry.is_symlink() and self._is_closed(root, item.source):
                        continue
                    if entry.is_dir():  # costs no system call where it is no link
                        self._open(root, item, opened)
                        break
                    if not entry.is_file(follow_symlinks=False):
                        self._take(item, entry.stat().st_mode)
                    elif not self._is_output_tar(item.source):
                        self._take(item, S_IFREG)
                except OSError as error:
                    self._refuse(item, *describe_os_error(error))
            else:
                opened.pop()

    def _open(self, root: str, folder: InputItem, opened: list[_OpenFolder]) -> None:
        """Put a folder upon those that it lies in, unless it is closed.

        Device and inode tell that: to resolve the path of each folder would cost far more in deep trees. A link that leads into a closed
        folder is seen by :meth:`_is_closed` where it is met.
        """
        path = os.path.join(root, folder.path)
        try:
            key = _key(path)
            if key in self._closed_in(root).values():
                return
            if any(key == above.key for above in opened):
                raise OSError(errno.ELOOP, "a link to a folder that it lies in")
            with os.scandir(path) as entries:
                opened.append(_OpenFolder(key, folder.path, iter(sorted(entries, key=lambda entry: os.fsencode(entry.name)))))
        except OSError as error:
            self._refuse(folder, *describe_os_error(error))


def _key(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _check_name(path: str) -> None:
    if "\0" in path:
        raise UsageError(f"{path[:100]!r} holds a NUL byte and can't be a path", "a list that is separated by NUL bytes needs --null")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_ignored(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower() in IGNORED_NAMES or path.startswith(".") or "/." in path
