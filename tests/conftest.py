"""Shared fixtures, and what happens to a test whose extra is not installed."""

from __future__ import annotations

import gc
import importlib.util
import os
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
}


def _missing(modules: tuple[str, ...]) -> list[str]:
    missing = []
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            missing.append(module)
    return missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose extra is missing; with SESEG_REQUIRE_EXTRAS=1 let them run, and so fail, instead."""
    if os.environ.get("SESEG_REQUIRE_EXTRAS") == "1":
        return
    missing = {extra: _missing(modules) for extra, modules in EXTRAS.items()}
    for item in items:
        for extra, modules in missing.items():
            if modules and item.get_closest_marker(extra):
                item.add_marker(pytest.mark.skip(reason=f"needs the extra [{extra}]: {', '.join(modules)} not installed"))


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_collected_where_it_was_made() -> Iterator[None]:
    """What a test left open is a warning, and so a failure, of its own file, and not of whatever test runs when the collector comes by."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def keras224() -> Path:
    """The folder of checkpoints, inputs and outputs that the original libraries and program wrote."""
    return KERAS224
