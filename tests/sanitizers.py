"""Running a module of the tests in a process that has the sanitizers for addresses and undefined behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
"""What a library is compiled with for it."""


def run_sanitized(module: str, library: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module library``, the sanitizers' runtime loaded before all else."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
