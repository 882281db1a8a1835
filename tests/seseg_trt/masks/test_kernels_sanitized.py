"""The kernels' source on the host under the sanitizers for addresses and undefined behaviour: no step over any end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .kernel_host import SANITIZERS, compile_harness


def test_no_address_is_out_of_bounds_and_nothing_is_undefined(tmp_path: Path) -> None:
    library = compile_harness(tmp_path, SANITIZERS)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.seseg_trt.masks.sanitized_run", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-6000:]
