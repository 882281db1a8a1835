"""A run over files in a process of its own, with a fake network that takes its time, and with faults on request.

``python -m tests.soak.worker INPUT OUTPUT [FAULT]``, FAULT being ``NAME:WHAT:N``: at the N-th call of the function NAME of
:data:`PLACES`, WHAT happens: ``die`` (SIGKILL before the call), ``die-after``, ``raise``, or ``full`` (no space left on the disk).
``retry`` in place of a fault: what was quarantined is tried again.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend, MaskOptions, RunOptions
from seseg_trt.codecs import pillow
from seseg_trt.console import run_shown
from seseg_trt.files import segment_files
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.run import sources
from seseg_trt.run.journal import Journal

SECONDS_PER_IMAGE = 0.002
PLACES: dict[str, tuple[Any, str]] = {
    "read": (sources, "_check_size"),
    "decode": (pillow, "decode"),
    "infer": (CPULane, "infer"),
    "composite": (CPULane, "composite"),
    "encode": (CPULane, "_encode"),
    "write": (os, "replace"),
    "commit": (Journal, "put"),
    "claim": (Journal, "claim"),
}


class SlowBackend(FakeBackend):
    """The fake network, slow enough to be killed in the middle of a run."""

    def infer(self, images: Any) -> Any:
        """See :class:`FakeBackend`."""
        time.sleep(SECONDS_PER_IMAGE)
        return super().infer(images)


def inject(fault: str) -> None:
    """Put a fault in its place."""
    name, what, number = fault.split(":")
    place, function = PLACES[name]
    real = getattr(place, function)
    lock, calls = threading.Lock(), iter(range(10**9))

    def faulty(*arguments: Any, **named: Any) -> Any:
        with lock:
            due = next(calls) == int(number)
        if due and what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if due and what == "raise":
            raise OSError(errno.EIO, "injected") if name in ("read", "write") else RuntimeError("injected")
        if due and what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        result = real(*arguments, **named)
        if due and what == "die-after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, function, faulty)


def main(source: str, target: str, fault: str = "") -> int:
    """Run, and print the summary."""
    retry = fault == "retry"
    if fault and not retry:
        inject(fault)
    options = RunOptions(keep_suffix=True, retry=retry)
    masks = MaskOptions(("se", "mask"), threshold=50, color="random")
    with run_shown(target, options, quiet=True) as shown:
        summary = segment_files([Path(source)], target, masks=masks, options=options, watch=shown.watch, backend=SlowBackend(16))
    return shown.finish(summary, as_json=True, quiet=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
