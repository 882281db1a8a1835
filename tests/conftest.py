"""Shared fixtures, how many processes run the tests, and what happens to a test whose extra is not installed."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
KERAS224 = DATA / "keras224"

EXTRAS = {
    "engine": ("tensorflow", "tf2onnx", "h5py"),
    "dali": ("nvidia.dali", "nvidia.nvimgcodec"),
    "rtx": ("tensorrt_rtx_bindings",),
    "ort": ("onnxruntime",),
    "scale": ("fsspec", "s3fs", "gcsfs", "adlfs", "pyarrow", "pycocotools", "moto", "gcp_storage_emulator"),
    "nvrtc": (),
}
INSTALLED_AS = {"scale": "scale,servers"}
"""The extras that bring what the marker's tests need, where they are not the one of its name."""
LONG = ("tests/engine/", "tests/soak/", "tests/test_")
"""Where files are that take the longest: they come first, or one process would be left with them at the end."""
NEEDS = re.compile(r"needs the extra \[(\w+)\]")


def _missing(extra: str) -> list[str]:
    if extra == "nvrtc":
        from seseg_trt.masks import kernel_binary

        return [] if kernel_binary.nvrtc_library() else ["NVRTC"]  # a library, which a CUDA toolkit brings too
    missing = []
    for module in EXTRAS[extra]:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            missing.append(module)
    return missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose extra is missing; with SESEG_REQUIRE_EXTRAS=1 let them run, and so fail, instead. The longest files come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    if os.environ.get("SESEG_REQUIRE_EXTRAS") == "1":
        return
    missing = {extra: _missing(extra) for extra in EXTRAS}
    for item in items:
        for extra, modules in missing.items():
            if modules and item.get_closest_marker(extra):
                item.add_marker(pytest.mark.skip(reason=f"needs the extra [{extra}]: {', '.join(modules)} not installed"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Count the processes of ``-n auto``: one a core, and no more than eight, since each takes memory and its own start."""
    return min(8, len(os.sched_getaffinity(0)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum the skipped tests up in one line (``-rs`` lists them)."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    needed = Counter(found[1] for found in map(NEEDS.search, reasons) if found)
    parts = []
    if needed:
        extras = ",".join(["dev", *(INSTALLED_AS.get(extra, extra) for extra in EXTRAS if extra in needed)])
        counts = ", ".join(f"{extra} {count}" for extra, count in needed.most_common())
        parts.append(f"{needed.total()} need extras that are not installed ({counts}): make test EXTRAS={extras}")
    if others := len(reasons) - needed.total():
        parts.append(f"{others} for other reasons: make test TESTS=-rs")
    if parts:
        terminalreporter.write_line(f"skipped: {'; '.join(parts)}")


def pytest_collection_finish() -> None:
    """Keep the collector off what lives to the end: it runs after every file."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_collected_where_it_was_made() -> Iterator[None]:
    """What a test left open is a warning, and so a failure, of its own file, and not of whatever test runs when the collector comes by."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def keras224() -> Path:
    """The folder of checkpoints, inputs and outputs that the original libraries and program wrote."""
    return KERAS224
