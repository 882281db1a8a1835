"""Download the original checkpoint, resuming a broken transfer, and check it against the hash recorded at the first download."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError, DeviceError, UsageError
from ..storage.atomic import atomic_write
from .artifact import HDF5_MAGIC, sha256_of

ORIGINAL_URL = "https://www.qalaymiqan.com/se_seg/checkpoint.hdf5"
"""The address at which the original authors published the checkpoint in 2019. They published no hash."""

_PIECE = 1 << 20
_TIMEOUT_SECONDS = 60


def record_path(target: Path) -> Path:
    """Return the path of the JSON file beside ``target`` that records its URL and hash."""
    return target.with_name(target.name + ".json")


def fetch(target: Path, url: str = ORIGINAL_URL, progress: Callable[[int, int | None], None] = lambda done, total: None) -> str:
    """Download a checkpoint, resuming an earlier transfer that was cut off.

    Args:
        target: the file to write. An existing file is checked against its record and not downloaded again.
        url: an http or https address.
        progress: called with the bytes received so far and the total (None if the server does not say).

    Returns:
        The file's SHA-256 (hex).

    Raises:
        UsageError: the URL is not http(s), the target can't be written, or it exists and was not downloaded by this function.
        DeviceError: the host can't be reached, or the transfer was cut off; the next call resumes it.
        CheckpointError: the file is not HDF5, or its hash differs from the recorded one.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is not an http or https address", "a file that you have needs no fetching")
    recorded = _recorded(target)
    if target.exists():
        return _check_present(target, recorded)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url, part, progress)
        sha256 = sha256_of(part)
        with open(part, "rb") as file:
            head = file.read(len(HDF5_MAGIC))
        if head != HDF5_MAGIC:
            part.unlink()
            raise CheckpointError(
                f"{url} returned a file that is not HDF5: the checkpoint may have been removed",
                "make engine CHECKPOINT=... takes a checkpoint that you have",
            )
        if recorded is not None and recorded != sha256:
            part.unlink()
            raise CheckpointError(
                f"{url} returned a file with SHA-256 {sha256}, not {recorded} as recorded in {record_path(target)}",
                "if you trust the new file, delete the record and fetch again",
            )
        record = {"url": url, "sha256": sha256, "bytes": part.stat().st_size, "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        with atomic_write(record_path(target)) as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())
        os.replace(part, target)
    except OSError as error:
        raise UsageError(f"{target} can't be written: {error.strerror}", "choose another --out") from error
    return sha256


def _recorded(target: Path) -> str | None:
    try:
        found = json.loads(record_path(target).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"the record {record_path(target)} can't be read: {error}", "delete it to fetch again") from error
    return str(found)


def _check_present(target: Path, recorded: str | None) -> str:
    sha256 = sha256_of(target)
    if recorded is None:
        raise UsageError(f"{target} is there already, and was not fetched by this command", "move it away, or choose another --out")
    if sha256 != recorded:
        raise CheckpointError(
            f"{target} has changed since it was fetched: SHA-256 {sha256}, recorded {recorded}", "delete it and fetch again"
        )
    return sha256


def _transfer(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            resumed = have > 0 and response.status == 206
            length = response.headers.get("Content-Length")
            have = have if resumed else 0
            total = have + int(length) if length else None
            with open(part, "ab" if resumed else "wb") as file:
                while piece := response.read(_PIECE):
                    file.write(piece)
                    have += len(piece)
                    progress(have, total)
            if total is not None and have != total:
                raise DeviceError(
                    f"the transfer from {url} was cut off after {have} of {total} bytes",
                    "run the same command again: it resumes the transfer",
                )
    except urllib.error.HTTPError as error:
        error.close()  # an HTTPError keeps the connection open
        if error.code == 416 and have:  # Range Not Satisfiable: the earlier try had received every byte
            return
        raise DeviceError(
            f"{url} answered {error.code} {error.reason}",
            "the checkpoint of 2019 may have been removed; make engine CHECKPOINT=... takes a checkpoint that you have",
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DeviceError(
            f"{url} can't be reached: {reason}",
            "check the network and run the same command again (it resumes); or use a checkpoint that you have: make engine CHECKPOINT=...",
        ) from error
