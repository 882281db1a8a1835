"""Provide fixtures for the tests of checkpoints and graphs."""

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
    """Return a function that copies a file of the Keras 2.2.4 fixture and edits the copy through h5py."""

    def make(name: str, edit: Edit) -> Path:
        import h5py

        path = Path(shutil.copy(keras224 / name, tmp_path / name))
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return make


@pytest.fixture
def redescribed(edited: Callable[..., Path]) -> Callable[[Edit], Path]:
    """Return a function that copies the fixture's checkpoint and edits the architecture in the copy."""

    def make(edit: Edit) -> Path:
        def change(file: Any) -> None:
            config = json.loads(file.attrs["model_config"])
            edit(config)
            file.attrs["model_config"] = json.dumps(config)

        return edited("checkpoint.hdf5", change)

    return make


@pytest.fixture(scope="session")
def keras_model(keras224: Path) -> Any:
    """Load the fixture's checkpoint into a Keras model."""
    from engine.checkpoint import load_checkpoint

    return load_checkpoint(keras224 / "checkpoint.hdf5")[0]


@pytest.fixture(scope="session")
def exported(keras_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export the graph of the fixture's checkpoint."""
    from engine.export import export_onnx

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return export_onnx(keras_model, path, checkpoint_sha256="0" * 64)
