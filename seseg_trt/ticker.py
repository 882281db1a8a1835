"""One line that shows that something long is under way: its phase, its steps and the seconds that it has taken."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TextIO

SECONDS_PER_FRAME = 0.5
SECONDS_PER_LINE = 10.0


class Ticker:
    """Shows a long operation's phase and its elapsed time, also while the operation itself says nothing.

    On a terminal one line is written over; elsewhere there is a line every ten seconds.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._begun = time.monotonic()
        self._shown = self._begun
        self._text = "starting"
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seseg-ticker", daemon=True)

    def tell(self, phase: str, done: int, total: int) -> None:
        """Say how far it is: the phase's name, the steps done and the steps in all (0 or 1: not counted)."""
        with self._lock:
            self._text = f"{phase} {done}/{total}" if total > 1 else phase

    def _run(self) -> None:
        while not self._ended.wait(SECONDS_PER_FRAME):
            with self._lock:
                if self._live:
                    self._stream.write(f"\r\x1b[K{self._text}, {time.monotonic() - self._begun:.0f} s")
                    self._stream.flush()
                elif time.monotonic() - self._shown >= SECONDS_PER_LINE:
                    self._line()

    def _line(self) -> None:
        self._shown = time.monotonic()
        self._stream.write(f"{self._text}, {self._shown - self._begun:.0f} s\n")
        self._stream.flush()

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
