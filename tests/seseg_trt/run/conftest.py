"""What the tests of this room share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .ledgers import Begun


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Begun]]:
    """Begin a ledger over so many inputs; its journal is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(count: int, *arguments: Any) -> Begun:
            begun = Begun(tmp_path, count, *arguments)
            stack.callback(begun.journal.close)
            return begun

        yield make
