"""The extension under the sanitizers for addresses and undefined behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import seseg_trt
from tests.seseg_trt.masks.kernel_host import SANITIZERS

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "seseg_trt" / "native" / "module.cpp"


def test_no_address_is_out_of_bounds_and_nothing_is_undefined(tmp_path: Path) -> None:
    out = tmp_path / "_native.so"
    # Clones are chosen by the loader, before the sanitizers' runtime is ready.
    options = [
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-missing-field-initializers",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
    ]
    options += ["-DSESEG_ONE_PROCESSOR", *SANITIZERS, f"-I{sysconfig.get_paths()['include']}"]
    built = subprocess.run(["g++", *options, str(SOURCE), "-o", str(out)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.seseg_trt.native.sanitized_run", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-6000:]


def test_it_is_built_wherever_the_tests_run() -> None:
    assert seseg_trt.native.MODULE is not None, "no C++17 compiler, or it failed: see `pip install --verbose --editable .`"
