"""What the tests of several rooms share: the kernels, compiled for the host."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from .masks.kernel_host import Host, compile_harness


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The kernels on the host: compiled by the first process of pytest-xdist that asks, and loaded by all."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kernels_host"
    folder.mkdir(exist_ok=True)
    with Path(folder, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "built.so"
        if not built.exists():
            compile_harness(folder).rename(built)
        return Host(built)
