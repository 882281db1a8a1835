"""Quiet while Pillow decodes, in any number of threads."""

from __future__ import annotations

import re
import threading
import warnings
from types import TracebackType


class PillowSilence:
    """Keeps Pillow's warnings from the terminal, and from being raised, while any thread decodes.

    Damaged metadata, odd palettes and sizes over Pillow's own limit make it warn about images that are fine here.
    ``warnings.catch_warnings`` can't be used by several threads at once: each restores the filters that it found, in any order.
    So one filter, for Pillow's modules alone, is put in front by the first thread that comes and removed by the last that goes.
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
