"""Inputs and outputs in object stores (``s3://``, ``gs://``, ``az://``, ...), by fsspec."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DeviceError, StoppedError, UsageError, install_hint
from .atomic import temporary_name
from .base import ChangedError, Stat, Storage
from .locations import fs_to_text, text_to_fs

_CHECK = "check its name, your rights and the network"

READ_AHEAD = 4 << 20
"""Bytes fetched beyond those asked for: a request costs about as long as these do."""

_AZURE = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another credential of adlfs)"
ACCOUNTS = {"az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}
"""Where an account is named for stores whose library wants one before anything else."""


@functools.lru_cache(maxsize=64)
def _store(protocol: str, authority: str = "") -> Any:
    """Return the file system of a protocol. Its credentials and endpoint come from where its library looks for them.

    Args:
        protocol: such as ``s3``.
        authority: ``container@account.dfs.core.windows.net``, where an address begins so; it names the account.

    Raises:
        DeviceError: fsspec, or its part for this protocol, is not installed.
        UsageError: there is no such protocol, or its library lacks an account or a key.
    """
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise DeviceError(f"{protocol}:// can't be read: {error}", install_hint("scale")) from error
    except ValueError as error:
        raise UsageError(f"there is no store {protocol}://: {error}", "s3://, gs:// and az:// are known ones") from error
    try:
        if protocol in ("s3", "s3a"):
            kind = _without_versions(kind)
        # a listing that is kept would hide what other processes have written meanwhile
        store = kind(use_listings_cache=False, **(kind._get_kwargs_from_urls(f"{protocol}://{authority}/") if authority else {}))
    except Exception as error:
        raise UsageError(
            f"{protocol}:// can't be opened: {_words(error)}", ACCOUNTS.get(protocol, "set what its library reads from the environment")
        ) from error
    named = authority.partition("@")[2].partition(".")[0]
    used = getattr(getattr(store, "service_client", None), "account_name", named)
    if named and used != named:
        raise UsageError(
            f"the address names the account {named}, and the environment leads to {used}",
            "unset AZURE_STORAGE_CONNECTION_STRING, or give it that account's",
        )
    return store


_MARK = "?versionId="


@functools.cache
def _without_versions(kind: Any) -> Any:
    """Return s3fs's file system with keys as they are: it takes ``?versionId=`` and what follows for no part of a key."""

    def split_path(self: Any, path: Any) -> Any:
        bucket, key, _ = kind.split_path(self, str(path).replace(_MARK, "?\0"))
        return bucket, key.replace("?\0", _MARK), None

    # not in fsspec's cache of file systems, which others clear by the class that they know: ours is _store's
    return type(kind.__name__, (kind,), {"split_path": split_path, "cachable": False})


def _split(name: str) -> tuple[Any, str]:
    protocol, _, path = name.partition("://")
    authority = path.partition("/")[0]
    return _store(protocol, authority if "@" in authority else ""), fs_to_text(path)


class ObjectStorage(Storage):
    """Every object store that fsspec knows, by its addresses. An object is seen whole or not at all."""

    remote = True

    def find(self, name: str) -> list[tuple[str, Stat]]:
        """Return every object under a folder: its name relative to the folder and its stat, in the order of the names.

        An object of exactly that name is returned as the empty name; a store may have both it and objects under it.

        Raises:
            UsageError: there is nothing under it.
            StoppedError: the store can't be asked.
        """
        store, path = _split(name)
        top = store._strip_protocol(path).rstrip("/")
        bucket, _, key_of_top = top.partition("/")
        try:
            found = store.find(path, detail=True)
            if isinstance(found, list):  # adlfs, where there is an object of that very name: it looks for nothing else
                found = store.find(bucket, prefix=key_of_top, detail=True)
            elif key_of_top and top not in found:  # s3fs and gcsfs, where there are objects under it as well
                found |= _object_at(store, top)
        except Exception as error:
            raise StoppedError(f"{name} can't be listed: {_words(error)}", _CHECK) from error
        listing = [
            (text_to_fs(str(key)[len(top) + 1 :]), _stat_of(entry))
            for key, entry in found.items()
            if str(key) == top or (str(key).startswith(f"{top}/") and not str(key).endswith("/"))
        ]
        if not listing:
            raise UsageError(f"there is nothing under {name}", "check its name")
        return sorted(listing)

    def stat(self, name: str) -> Stat:
        with _asking(name) as (store, path):
            return _stat_of(store.info(path))

    def is_file(self, name: str) -> bool:
        with _asking(name) as (store, path):
            try:
                return bool(store.info(path)["type"] == "file")
            except FileNotFoundError:
                return False

    def names(self, folder: str) -> list[str]:
        with _asking(folder) as (store, path):
            try:
                return [text_to_fs(str(key).rstrip("/").rpartition("/")[2]) for key in store.ls(path, detail=False)]
            except FileNotFoundError:
                return []

    def read(self, name: str, check_size: Callable[[int], None], listed: Stat | None = None) -> tuple[bytes, Stat]:
        stat = listed or self.stat(name)
        check_size(stat.size)
        # a range, since s3fs asks for the size of what is read whole; a byte more than there is, to notice an object that has grown
        data = self.read_range(name, 0, stat.size + 1) if stat.size else b""
        if len(data) != stat.size:
            raise ChangedError("the object changed since it was listed")
        return data, stat

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        with _asking(name) as (store, path):
            return bytes(store.cat_file(path, start=offset, end=offset + size)) if size else b""

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with _asking(name) as (store, path):  # it fetches ahead: what is looked for, a tar's headers, lies close together
            opened = store.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")
        with opened as file:
            yield file

    @contextlib.contextmanager
    def write(self, name: str, scratch: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
        scratch.mkdir(parents=True, exist_ok=True)
        upload = temporary_name(scratch / "upload")
        try:
            with open(upload, "wb") as file:
                yield file
            with _asking(name) as (store, path):
                store.put_file(upload, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(upload)

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole. Raises OSError."""
        with _asking(name) as (store, path):
            store.pipe_file(path, data)

    def remove(self, name: str) -> None:
        """Remove an object. Raises OSError."""
        with _asking(name) as (store, path):
            store.rm_file(path)


STORES = ObjectStorage()


def _stat_of(entry: Any) -> Stat:
    """Return a listing's entry as a stat. Whole seconds: a listing may know more of them than a single question."""
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("last_modified") or entry.get("created")
    if isinstance(changed, str):
        changed = datetime.datetime.fromisoformat(changed.replace("Z", "+00:00"))
    if isinstance(changed, datetime.datetime):
        changed = changed.timestamp()
    return Stat(int(entry.get("size") or 0), int(float(changed or 0)) * 10**9)


def _object_at(store: Any, key: str) -> dict[str, Any]:
    """Return the entry of an object, by its key, if there is one that may be asked for."""
    try:
        entry = store.info(key)
    except OSError as error:
        # S3 answers "forbidden" where somebody may read only what lies under a name; gcsfs says it in an OSError's words alone
        if isinstance(error, FileNotFoundError | PermissionError) or str(error).startswith("Forbidden"):
            return {}
        raise
    return {key: entry} if entry["type"] == "file" else {}


@contextlib.contextmanager
def _asking(name: str) -> Iterator[tuple[Any, str]]:
    """Give the store and the path of a name. Raise OSError for what its library raises: such libraries have errors of many families."""
    found = _split(name)
    try:
        yield found
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, _words(error), name) from error


def _words(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
