"""A fake network that brings faults into the worker process that it is unpickled in: decoders that die, hang or eat memory."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend

SEGV, KILL, HANG, LEAK = b"segv", b"kill", b"hang", b"leak"
"""What an image file ends in to make its decoder do so."""


def in_workers(code: str) -> str:
    """Return a program that is the command line, with some code that runs first in each of its worker processes."""
    return (
        "from seseg_trt.workers import process\n"
        f"process.BOOT = process.BOOT.removesuffix('main()\\n') + {code!r} + 'main()\\n'\n"
        "from seseg_trt.cli.main import main\n"
        "main()\n"
    )


class Patched(FakeBackend):
    """A fake network that runs some code in the worker process that it is unpickled in. The code sees this object as ``backend``."""

    def __init__(self, code: str, **values: Any) -> None:
        super().__init__(16)
        self.code = code
        self.seconds = 0.0
        self.__dict__.update(values)

    def infer(self, images: Any) -> Any:
        time.sleep(self.seconds)
        return super().infer(images)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        exec(self.code, {"backend": self})


class Faulty(FakeBackend):
    """The fake network.

    Args:
        size: of its input.
        seconds: that each image takes.
        once: a folder; where it is given, an image's fault happens once, and not when the image is tried again.
    """

    def __init__(self, size: int = 16, seconds: float = 0.0, once: Path | None = None) -> None:
        super().__init__(size)
        self.seconds = seconds
        self.once = once

    def infer(self, images: Any) -> Any:
        time.sleep(self.seconds)
        return super().infer(images)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        from seseg_trt.codecs import pillow

        real = pillow.decode

        def decode(data: bytes, options: Any) -> Any:
            mark = None if self.once is None else self.once / hashlib.sha256(data).hexdigest()
            if mark is None or not mark.exists():
                if mark is not None:
                    mark.touch()
                _fault(data[-4:])
            return real(data, options)

        pillow.decode = decode


def _fault(what: bytes) -> None:
    if what == SEGV:
        ctypes.string_at(0)
    if what == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == HANG:
        time.sleep(3600)
    if what == LEAK:
        LEAKED.append(b"x" * (64 << 20))


LEAKED: list[bytes] = []

STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
"""What a step on disk is: Python's audit events of calls that create, open for writing, lock, rename, remove or truncate."""


def watch_steps(die_at: int | None, taken: Callable[[int], None] = lambda step: None, mark: Path | None = None) -> None:
    """Count this process's steps from now on, and die before one of them.

    Args:
        die_at: the step, from 1; None to live.
        taken: called with the number of each step.
        mark: a file; made when the process dies, and where it is there already the process lives.
    """
    counter = itertools.count(1)
    busy = False

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or not (event in STEPS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)):
            return
        number = next(counter)
        taken(number)
        if number == die_at:
            busy = True
            if mark is not None and mark.exists():
                return
            if mark is not None:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)


class Dying(FakeBackend):
    """A fake network whose worker process dies before one of its steps, once."""

    def __init__(self, at: int, mark: Path) -> None:
        super().__init__(16)
        self.at = at
        self.mark = mark

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self.mark.exists():
            watch_steps(self.at, mark=self.mark)
