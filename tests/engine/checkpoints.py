"""Provide helpers for tests of damaged and foreign checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import CheckpointError

Edit = Callable[[Any], None]


def settings(config: Any, name: str) -> Any:
    return next(layer for layer in config["config"]["layers"] if layer["name"] == name)


def refused(path: Path) -> str:
    from engine.reader import read_checkpoint

    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.hint
    assert len(str(caught.value)) < 1500
    return caught.value.message
