"""Show that a long operation is under way: its phase, its steps and its elapsed time."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from .terminal import Terminal

SECONDS_PER_FRAME = 0.5
SECONDS_PER_LINE = 10.0


class Ticker:
    """Shows the phase and the elapsed time of a long operation, also between the operation's own reports.

    A terminal has one line, which is overwritten. Any other stream gets a line every ten seconds.

    Args:
        stream: what to write to, normally standard error.
    """

    def __init__(self, stream: TextIO | Terminal) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._begun = time.monotonic()
        self._shown = self._begun
        self._text = "starting"
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seseg-ticker", daemon=True)

    def tell(self, phase: str, done: int, total: int) -> None:
        """Set the phase, the steps done and the steps in all. Steps are shown when there are more than one. Any thread may call it."""
        with self._lock:
            self._text = f"{phase} {done}/{total}" if total > 1 else phase

    def _run(self) -> None:
        while not self._ended.wait(SECONDS_PER_FRAME):
            with self._lock:
                if self._live:
                    self._stream.write(f"\r\x1b[K{self._text}, {time.monotonic() - self._begun:.0f} s")
                    self._stream.flush()
                elif time.monotonic() - self._shown >= SECONDS_PER_LINE:
                    self._shown = time.monotonic()
                    self._stream.write(f"{self._text}, {self._shown - self._begun:.0f} s\n")
                    self._stream.flush()

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
