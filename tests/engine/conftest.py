"""Fixtures of the tests of checkpoints and graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .checkpoints import Edit


@pytest.fixture
def edited(keras224: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a fixture's file and changes the copy through h5py."""

    def make(name: str, edit: Edit) -> Path:
        import h5py

        path = Path(shutil.copy(keras224 / name, tmp_path / name))
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return make


@pytest.fixture
def redescribed(edited: Callable[..., Path]) -> Callable[[Edit], Path]:
    """Return a function that changes the architecture of a copy of the full checkpoint."""

    def make(edit: Edit) -> Path:
        def change(file: Any) -> None:
            config = json.loads(file.attrs["model_config"])
            edit(config)
            file.attrs["model_config"] = json.dumps(config)

        return edited("checkpoint.hdf5", change)

    return make
