"""Run the extension under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

from seseg_trt import native
from tests.sanitizers import SANITIZERS, run_sanitized

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "seseg_trt" / "native" / "module.cpp"


def test_no_address_is_out_of_bounds_and_nothing_is_undefined(tmp_path: Path) -> None:
    out = tmp_path / "_native.so"
    # The loader picks clones before the sanitizers' runtime is initialised, so build without them.
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
    done = run_sanitized("tests.seseg_trt.native.sanitized_run", out)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-6000:]


def test_it_is_built_wherever_the_tests_run() -> None:
    assert native.MODULE is not None, "no C++17 compiler, or it failed: see `pip install --verbose --editable .`"
