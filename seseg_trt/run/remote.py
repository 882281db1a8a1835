"""Inputs and outputs in object stores (``s3://``, ``gs://``, ``az://``, ...), by fsspec."""

from __future__ import annotations

import datetime
import errno
import functools
import hashlib
from pathlib import Path
from typing import Any

from ..errors import DeviceError, StoppedError, UsageError
from .output import Made

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
        raise DeviceError(f"{protocol}:// can't be read: {error}", "pip install 'seseg_trt[scale]'") from error
    except ValueError as error:
        raise UsageError(f"there is no store {protocol}://: {error}", "s3://, gs:// and az:// are known ones") from error
    try:
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


def _split(name: str) -> tuple[Any, str]:
    protocol, _, path = name.partition("://")
    authority = path.partition("/")[0]
    return _store(protocol, authority if "@" in authority else ""), path


def find(name: str) -> list[tuple[str, int]]:
    """Return the name, relative to the folder ``name``, and the size in bytes of every object under it, in order of their names.

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
        raise StoppedError(f"{name} can't be listed: {_words(error)}", "check its name, your rights and the network") from error
    listing = [
        (str(key)[len(top) + 1 :], int(entry.get("size") or 0))
        for key, entry in found.items()
        if str(key) == top or (str(key).startswith(f"{top}/") and not str(key).endswith("/"))
    ]
    if not listing:
        raise UsageError(f"there is nothing under {name}", "check its name")
    return sorted(listing)


def _object_at(store: Any, key: str) -> dict[str, Any]:
    """Return the entry of an object, by its key, if there is one that may be asked for."""
    try:
        entry = store.info(key)
    except (FileNotFoundError, PermissionError):
        return {}  # S3 answers "forbidden" where somebody may read only what lies under a name
    except OSError as error:
        if str(error).startswith("Forbidden"):  # as gcsfs says it
            return {}
        raise
    return {key: entry} if entry["type"] == "file" else {}


def stat(name: str) -> tuple[int, int]:
    """Return an object's size in bytes and its time of change in nanoseconds (0 where the store keeps none).

    Raises:
        OSError: it is not there, or can't be asked.
    """
    store, path = _split(name)
    with _os_errors(name):
        info = store.info(path)
        changed = info.get("LastModified") or info.get("mtime") or info.get("last_modified") or info.get("created")
    if isinstance(changed, str):
        changed = datetime.datetime.fromisoformat(changed.replace("Z", "+00:00"))
    if isinstance(changed, datetime.datetime):
        changed = changed.timestamp()
    return int(info.get("size") or 0), int(float(changed or 0) * 1e9)


def read(name: str) -> bytes:
    """Return an object's bytes.

    Raises:
        OSError: it is not there, or can't be read.
    """
    store, path = _split(name)
    with _os_errors(name):
        return bytes(store.cat_file(path))


def read_range(name: str, offset: int, size: int) -> bytes:
    """Return some bytes of an object; fewer where it ends. Raises OSError."""
    store, path = _split(name)
    with _os_errors(name):
        return bytes(store.cat_file(path, start=offset, end=offset + size)) if size else b""


def open_to_seek(name: str) -> Any:
    """Return an object as a file to seek in. It fetches ahead: what is looked for, an archive's headers, lies close together.

    Raises:
        OSError: it is not there, or can't be read.
    """
    store, path = _split(name)
    with _os_errors(name):
        return store.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")


@functools.lru_cache(maxsize=65536)
def is_object(name: str) -> bool:
    """Tell whether there is an object of that very name. The answer is kept."""
    store, path = _split(name)
    with _os_errors(name):
        try:
            return bool(store.info(path)["type"] == "file")
        except FileNotFoundError:
            return False


def exists(name: str) -> bool:
    """Tell whether there is an object of that very name, now. Raises StoppedError."""
    try:
        stat(name)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoppedError(f"{name} can't be asked for: {error.strerror}", "check its name, your rights and the network") from error
    return True


def list_folder(name: str) -> list[str]:
    """Return the names of the objects that lie in a folder itself. Raises StoppedError."""
    store, path = _split(name)
    try:
        return [str(key).rstrip("/").rpartition("/")[2] for key in store.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    except Exception as error:
        raise StoppedError(f"{name} can't be listed: {_words(error)}", "check its name, your rights and the network") from error


def put_file(local: Path, name: str) -> None:
    """Write an object, whole, from a local file. Raises StoppedError."""
    store, path = _split(name)
    try:
        store.put_file(str(local), path)
    except Exception as error:
        raise StoppedError(
            f"{name} can't be written: {_words(error)}", "mend that and run the same command again: what is done stays done"
        ) from error


class _os_errors:
    """Turns what a store's library raises to OSError: such libraries have errors of many families."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(errno.EIO, _words(error), self._name) from error


class RemoteOutputs:
    """A folder of an object store. An object is seen whole or not at all, as these stores work.

    Nothing temporary is seen there. Large objects (tars) go up in parts, and S3 keeps the parts of an upload that was killed, unseen, until a
    rule of the bucket (AbortIncompleteMultipartUpload) removes them.

    Args:
        root: its address.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._store, self._top = _split(self.root)
        self._sizes: dict[str, int] | None = None

    def size(self, name: str) -> int | None:
        """See :class:`seseg_trt.run.output.Outputs`. The folder is listed once, when it is first asked."""
        if self._sizes is None:
            try:
                self._sizes = dict(find(self.root))
            except UsageError:
                self._sizes = {}
        return self._sizes.get(name)

    def read(self, name: str) -> bytes:
        """See :class:`seseg_trt.run.output.Outputs`."""
        return read(f"{self.root}/{name}")

    def prepare(self) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        self._sizes = None

    def write(self, name: str, data: bytes) -> Made:
        """See :class:`seseg_trt.run.output.Outputs`."""
        try:
            self._store.pipe_file(f"{self._top}/{name}", data)
        except Exception as error:
            raise StoppedError(
                f"{self.root}/{name} can't be written: {_words(error)}",
                "mend that and run the same command again: what is done stays done, nothing else is taken for done",
            ) from error
        return hashlib.sha256(data).hexdigest(), len(data)

    def remove(self, name: str) -> None:
        """See :class:`seseg_trt.run.output.Outputs`."""
        try:
            self._store.rm_file(f"{self._top}/{name}")
        except Exception:
            return  # most often: it is not there; what stays is replaced when its input is done

    def sweep(self) -> None:
        """Do nothing: a store shows an object when it is whole."""

    def close(self) -> None:
        """See :class:`seseg_trt.run.output.Outputs`: there is nothing to do."""


def _words(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
