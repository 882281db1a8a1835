"""Run the kernels, compiled for the host, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

from pathlib import Path

from tests.sanitizers import SANITIZERS, run_sanitized

from .kernel_host import compile_harness


def test_no_address_is_out_of_bounds_and_nothing_is_undefined(tmp_path: Path) -> None:
    done = run_sanitized("tests.seseg_trt.masks.sanitized_run", compile_harness(tmp_path, SANITIZERS))
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-6000:]
