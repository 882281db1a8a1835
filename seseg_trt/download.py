"""Fetching the original checkpoint: resumable, and held to its recorded hash from the second time on."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .artifact import HDF5_MAGIC, sha256_of
from .errors import CheckpointError, DeviceError, UsageError

ORIGINAL_URL = "https://www.qalaymiqan.com/se_seg/checkpoint.hdf5"
"""Where the original authors published the checkpoint in 2019. They published no hash."""

_PIECE = 1 << 20
_TIMEOUT_SECONDS = 60


def record_path(target: Path) -> Path:
    """Return the file beside ``target`` that records where it came from and its hash."""
    return target.with_name(target.name + ".json")


def fetch(target: Path, url: str = ORIGINAL_URL, progress: Callable[[int, int | None], None] = lambda done, total: None) -> str:
    """Bring a checkpoint; go on where an earlier try was cut off.

    Args:
        target: the file to make. What is there already is checked against its record, and not brought again.
        url: where from: http or https.
        progress: called with the bytes that are there, and how many there will be (None: the server does not say).

    Returns:
        The SHA-256 (hex).

    Raises:
        UsageError: the URL is not http(s), or the target can't be written.
        DeviceError: the network or the host is not there, or the transfer was cut off (the same command resumes it).
        CheckpointError: what is there, or what came, is not what it must be.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is no http or https address", "a file that you have needs no fetching")
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
                f"{url} gave something that is no HDF5 file: the address now leads elsewhere",
                "make engine CHECKPOINT=... takes a checkpoint that you have",
            )
        if recorded is not None and recorded != sha256:
            part.unlink()
            raise CheckpointError(
                f"{url} gave a file with SHA-256 {sha256}, and the one recorded in {record_path(target)} is {recorded}",
                "if you trust the new file, delete the record and fetch again",
            )
        record = {"url": url, "sha256": sha256, "bytes": part.stat().st_size, "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        record_path(target).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
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
        raise CheckpointError(f"the record {record_path(target)} can't be read: {error}", "delete it to fetch anew") from error
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
                    "run the same command again: it goes on from there",
                )
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == 416 and have:  # everything is there already: the last try was cut off after its last byte
            return
        raise DeviceError(
            f"{url} answered {error.code} {error.reason}",
            "the file of 2019 may be gone; make engine CHECKPOINT=... takes a checkpoint that you have",
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DeviceError(
            f"{url} can't be reached: {reason}",
            "check the network and run the same command again (it goes on from there); or use a checkpoint that you have: make engine CHECKPOINT=...",
        ) from error
