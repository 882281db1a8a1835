"""Suppress Pillow's warnings while any number of threads decode."""

from __future__ import annotations

import re
import threading
import warnings
from types import TracebackType


class PillowSilence:
    """A reentrant context manager that ignores warnings from Pillow's modules while any thread is inside it.

    Pillow warns about damaged metadata, odd palettes and sizes over its own limit, none of which matters here.
    ``warnings.catch_warnings`` is not thread-safe: each thread restores the filters that it found, in any order. So the first thread to
    enter installs one filter for Pillow's modules, and the last thread to leave removes it.
    """

    _ENTRY = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._ENTRY not in warnings.filters:
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                while self._ENTRY in warnings.filters:
                    warnings.filters.remove(self._ENTRY)  # type: ignore[attr-defined]
