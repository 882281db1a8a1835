"""Run over files in a separate process, with a slow fake network and with injected faults.

Usage: ``python -m tests.soak.worker INPUT OUTPUT PROCESSES [FAULT]``. FAULT is ``NAME:WHAT:N``: at call N (from 0) of the function NAME in
:data:`PLACES`, WHAT happens: ``die`` (SIGKILL before the call), ``die-after``, ``raise``, or ``full`` (no space left on the disk).
``retry`` in place of a fault tries quarantined inputs again. Faults happen in this process, so they need 0 PROCESSES.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from seseg_trt import MaskOptions, RunOptions
from seseg_trt.cli.console import run_shown
from seseg_trt.codecs import pillow
from seseg_trt.files import segment_files
from seseg_trt.journal.journal import Journal
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.storage.local import LocalStorage
from tests.faults import Faulty

SECONDS_PER_IMAGE = 0.002
PLACES: dict[str, tuple[Any, str]] = {
    "read": (LocalStorage, "read"),
    "decode": (pillow, "decode"),
    "infer": (CPULane, "infer"),
    "composite": (CPULane, "composite"),
    "encode": (CPULane, "_encode"),
    "write": (os, "replace"),
    "commit": (Journal, "put"),
}


def inject(fault: str) -> None:
    """Patch the function that a fault names, so that the fault happens."""
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


def main(source: str, target: str, processes: str, fault: str = "") -> int:
    """Run over the files and print the summary; return the exit code."""
    retry = fault == "retry"
    if fault and not retry:
        inject(fault)
    options = RunOptions(keep_suffix=True, retry=retry, processes=int(processes))
    masks = MaskOptions(("se", "mask"), threshold=50, color="random")
    with run_shown(target, options, quiet=True) as shown:
        summary = segment_files(
            [Path(source)], target, masks=masks, options=options, observer=shown.observer, backend=Faulty(16, SECONDS_PER_IMAGE)
        )
    return shown.finish(summary, as_json=True, quiet=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
