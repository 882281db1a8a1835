"""A plan on disk: one file with its identity in front, written whole or not at all, by one process at a time.

Layout: :data:`MAGIC`; the length of the identity's JSON (four bytes, little-endian); the JSON in UTF-8; zeros up to a
multiple of :data:`ALIGNMENT`; TensorRT's own bytes up to the end of the file, whose number and SHA-256 the JSON gives.
One file can't lose its other half, and renaming it is one step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import ModelError, UsageError
from .plan_identity import PlanIdentity

MAGIC = b"SESEGTRT\x01"
ALIGNMENT = 4096
_LENGTH = struct.Struct("<I")
_LONGEST_JSON = 1 << 20
_REBUILD = "build it again: seseg-trt build --model M.onnx --runtime tensorrt|rtx --out {}"


def read_identity(plan: str | Path) -> PlanIdentity:
    """Read what a plan says of itself, and that the file is as long as it says; the bytes themselves are not hashed.

    Raises:
        ModelError: it is not there, is no plan of this project, or is incomplete.
    """
    path = Path(plan)
    return _read(path)[0]


def is_plan(path: str | Path) -> bool:
    """Say whether a file begins as a plan of this project does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextlib.contextmanager
def open_plan(plan: str | Path) -> Iterator[tuple[PlanIdentity, memoryview]]:
    """Give a plan's identity and TensorRT's bytes, mapped and not copied, after checking their SHA-256.

    Raises:
        ModelError: as :func:`read_identity`; or the bytes are damaged.
    """
    path = Path(plan)
    identity, offset = _read(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as whole, whole[offset:] as payload:
            if hashlib.sha256(payload).hexdigest() != identity.plan_sha256:
                raise ModelError(f"the plan {path} is damaged: its SHA-256 is not what it says", _REBUILD.format(path))
            yield identity, payload


def write_plan(plan: str | Path, identity: PlanIdentity, payload: bytes | memoryview) -> PlanIdentity:
    """Write a plan so that at every moment its path holds the old file, the new one or none.

    Returns:
        The identity as written, with the payload's size and SHA-256.
    """
    path = Path(plan)
    identity = dataclasses.replace(identity, plan_sha256=hashlib.sha256(payload).hexdigest(), plan_bytes=memoryview(payload).nbytes)
    text = identity.to_json().encode()
    head = MAGIC + _LENGTH.pack(len(text)) + text
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(head + bytes(-len(head) % ALIGNMENT))
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"the plan can't be written to {path}: {error.strerror}", "see --out") from error
    finally:
        temporary.unlink(missing_ok=True)
    return identity


@contextlib.contextmanager
def only_builder(plan: str | Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the right to build a plan: of several processes (and threads) that ask, one enters and the others wait.

    The right ends with the process, however that ends. What a killed builder left behind is removed on entry.

    Args:
        plan: where the plan will lie.
        waiting: called once if another holds the right.
    """
    path = Path(plan)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(path.with_name(f".{path.name}.lock"), waiting)
    except OSError as error:
        raise UsageError(f"the plan can't be written to {path}: {error.strerror}", "see --out") from error
    try:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        # While the lock is held: whoever opened this file before sees, once it has the lock, that it is gone.
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path, waiting: Callable[[], None] | None) -> int:
    import fcntl

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                    waiting = None
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file
        except BaseException:
            os.close(file)
            raise
        # The holder before us removed it: what is locked is a file that nobody else will find.
        os.close(file)


def _read(path: Path) -> tuple[PlanIdentity, int]:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise ModelError(f"{path} is no plan of seseg_trt: it carries no identity", _REBUILD.format(path))
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _LONGEST_JSON:
                raise ValueError(f"an identity of {length} bytes")
            text = file.read(length).decode()
            size = os.fstat(file.fileno()).st_size
        identity = PlanIdentity.from_json(text)
    except FileNotFoundError:
        raise ModelError(f"there is no plan {path}", _REBUILD.format(path)) from None
    except OSError as error:
        raise ModelError(f"the plan {path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, struct.error, UsageError) as error:
        raise ModelError(f"the plan {path} has no readable identity: {error}", _REBUILD.format(path)) from error
    head = len(MAGIC) + _LENGTH.size + length
    offset = head + -head % ALIGNMENT
    if size != offset + identity.plan_bytes:
        raise ModelError(
            f"the plan {path} is incomplete: it has {size:,} bytes, not {offset + identity.plan_bytes:,}",
            _REBUILD.format(path),
        )
    return identity, offset


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
