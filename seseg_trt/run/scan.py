"""Finding inputs: files, folders, globs and lists, with every odd thing of a file system answered for."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ReasonCode, UsageError

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
        closed: folders (real paths) that are never read: the run's own outputs and state.
        base: what all names are relative to, or None: a folder's files to that folder, a file's to its own folder, grouped paths
            (a list, a glob) to their common parent.

    Attributes:
        items: regular files, in the order of the arguments and then of their names.
        ignored: how many files are left out for their names.
        refused: what can't be opened.
    """

    def __init__(self, closed: set[str], base: str | None) -> None:
        self.items: list[WorkItem] = []
        self.ignored = 0
        self.refused: list[Refused] = []
        self._closed = closed
        self._base = None if base is None else os.path.abspath(base)

    def add(self, argument: str) -> None:
        """Add a file, a folder or a glob.

        Raises:
            UsageError: it names nothing, or lies outside the base.
        """
        if os.path.isdir(argument):
            folder = os.path.abspath(argument)
            root = self._base or folder
            self._add_folder(root, _relative(folder, root))
        elif os.path.lexists(argument):
            path = os.path.abspath(argument)
            root = self._base or os.path.dirname(path)
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
        """
        absolute = [os.path.abspath(path) for path in paths]
        if not absolute:
            return
        parents = {path if os.path.isdir(path) else os.path.dirname(path) for path in absolute}
        root = self._base or os.path.commonpath(parents)
        for path in absolute:
            if os.path.isdir(path):
                self._add_folder(root, _relative(path, root))
            else:
                self._add_file(root, _relative(path, root))

    def _add_file(self, root: str, path: str) -> None:
        item = WorkItem(root.rstrip("/"), path)
        real = os.path.realpath(item.source)
        if any(real == closed or real.startswith(closed.rstrip("/") + "/") for closed in self._closed):
            return
        try:
            self._take(item, os.stat(item.source).st_mode)
        except OSError as error:
            self.refused.append(Refused(item, *describe_os_error(error)))

    def _add_folder(self, root: str, prefix: str) -> None:
        root = root.rstrip("/")
        for item, found in self._walk(root, "" if prefix == "." else prefix, frozenset()):
            if isinstance(found, OSError):
                if _is_ignored(item.path):
                    self.ignored += 1
                else:
                    self.refused.append(Refused(item, *describe_os_error(found)))
            else:
                self._take(item, found)

    def _take(self, item: WorkItem, mode: int) -> None:
        if _is_ignored(item.path):
            self.ignored += 1
        elif stat.S_ISREG(mode):
            self.items.append(item)
        else:
            self.refused.append(Refused(item, "not_a_file", f"it is {_file_type(mode)}, not a regular file"))

    def _walk(self, root: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[WorkItem, int | OSError]]:
        """Yield everything under root/prefix that is no folder; links to folders are followed, never in a circle."""
        here = WorkItem(root, prefix)
        folder = here.source if prefix else root or "/"
        try:
            status = os.stat(folder)
            if os.path.realpath(folder) in self._closed:
                return
            key = (status.st_dev, status.st_ino)
            if key in above:
                yield here, OSError(errno.ELOOP, "a link to a folder that it lies in")
                return
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield here, error
            return
        for entry in found:
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            try:
                # is_dir() of a folder that is no link costs no system call
                if entry.is_dir():
                    yield from self._walk(root, path, above | {key})
                elif entry.is_file(follow_symlinks=False):
                    yield WorkItem(root, path), stat.S_IFREG
                else:
                    yield WorkItem(root, path), entry.stat().st_mode
            except OSError as error:
                yield WorkItem(root, path), error


def describe_os_error(error: OSError) -> tuple[ReasonCode, str]:
    """Return the reason code and the sentence for an input that the operating system did not give."""
    if error.errno == errno.ENOENT:
        return "missing", "the file is not there, or is a link that leads nowhere"
    if error.errno == errno.ELOOP:
        return "link_loop", "symbolic links lead in a circle"
    if error.errno == errno.EISDIR:
        return "not_a_file", "it is a folder, not a file"
    return "unreadable", f"it can't be read: {error.strerror or error}"


def _relative(path: str, root: str) -> str:
    relative = os.path.relpath(path, root)
    if relative == ".." or relative.startswith("../"):
        raise UsageError(f"{path} is not under the base folder {root}", "choose a --base that holds all inputs")
    return relative


def _is_ignored(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower() in IGNORED_NAMES or path.startswith(".") or "/." in path


def _file_type(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
