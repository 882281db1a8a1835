"""Read and write plan files: a TensorRT plan with its identity in front, written atomically by one process at a time.

Layout:

1. :data:`MAGIC`.
2. The length of the identity's JSON: four bytes, little-endian.
3. The identity as JSON in UTF-8. It contains the size and SHA-256 of the plan.
4. Zeros up to a multiple of :data:`ALIGNMENT`.
5. The plan as serialised by TensorRT, up to the end of the file.

Identity and plan share a file so that they can't be separated and are replaced by one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ModelError, UsageError
from ..storage.atomic import atomic_write, lock_new, temporary_name, unwritable
from .plan_identity import PlanIdentity

MAGIC = b"SESEGTRT\x01"
ALIGNMENT = 4096
_LENGTH = struct.Struct("<I")
_LONGEST_JSON = 1 << 20
_REBUILD = "build it again: seseg-trt build --model M.onnx --runtime tensorrt|rtx --out {}"


def read_identity(plan: str | Path) -> PlanIdentity:
    """Read a plan's identity and check the file's size. The plan itself is not hashed; see :func:`open_plan`.

    Raises:
        ModelError: the file is missing, is not a plan of this project, or is incomplete.
    """
    path = Path(plan)
    return _read(path)[0]


@contextlib.contextmanager
def open_plan(plan: str | Path) -> Iterator[tuple[PlanIdentity, memoryview]]:
    """Yield a plan's identity and its memory-mapped bytes, after checking their SHA-256.

    Raises:
        ModelError: as :func:`read_identity`; or the plan is damaged.
    """
    path = Path(plan)
    identity, offset = _read(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as whole, whole[offset:] as payload:
            if hashlib.sha256(payload).hexdigest() != identity.plan_sha256:
                raise ModelError(f"the plan {path} is damaged: its SHA-256 is not the recorded one", _REBUILD.format(path))
            yield identity, payload


def write_plan(plan: str | Path, identity: PlanIdentity, payload: bytes | memoryview) -> PlanIdentity:
    """Write a plan file atomically.

    Args:
        plan: the file's path.
        identity: the plan's identity; its size and hash are filled in.
        payload: the plan as serialised by TensorRT.

    Returns:
        The identity with the payload's size and SHA-256.

    Raises:
        UsageError: the file can't be written.
    """
    path = Path(plan)
    identity = dataclasses.replace(identity, plan_sha256=hashlib.sha256(payload).hexdigest(), plan_bytes=memoryview(payload).nbytes)
    text = identity.to_json().encode()
    head = MAGIC + _LENGTH.pack(len(text)) + text
    with unwritable("the plan", path, "see --out"), atomic_write(path, durable=True) as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        file.write(payload)
    return identity


@contextlib.contextmanager
def only_builder(plan: str | Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file of a plan, so that one process or thread at a time builds it.

    The operating system releases the lock when the process ends, even if it is killed. The temporary file of a killed builder is removed
    on entry.

    Args:
        plan: the path of the plan to build.
        waiting: called once if the lock is held by another.

    Raises:
        UsageError: the lock file can't be created.
    """
    path = Path(plan)
    lock = path.with_name(f".{path.name}.lock")
    with unwritable("the plan", path, "see --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_new(lock, waiting)
    try:
        Path(temporary_name(path)).unlink(missing_ok=True)
        yield
    finally:
        # Remove the file while the lock is held. A waiter that has opened it notices the removal once it gets the lock.
        lock.unlink(missing_ok=True)
        os.close(file)


def _read(path: Path) -> tuple[PlanIdentity, int]:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise ModelError(f"{path} is not a plan of seseg_trt: it has no identity", _REBUILD.format(path))
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
            f"the plan {path} is incomplete: it has {size:,} bytes, not {offset + identity.plan_bytes:,}", _REBUILD.format(path)
        )
    return identity, offset
