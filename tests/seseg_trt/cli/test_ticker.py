"""A long operation is never silent."""

from __future__ import annotations

import io

import pytest

from seseg_trt.cli import ticker
from seseg_trt.cli.ticker import Ticker


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _wait_for(stream: io.StringIO, text: str) -> None:
    for _ in range(1000):
        if text in stream.getvalue():
            return
        ticker.threading.Event().wait(0.01)
    raise AssertionError(stream.getvalue())


def test_a_terminal_shows_phase_and_steps_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "SECONDS_PER_FRAME", 0.01)
    stream = Terminal()
    with Ticker(stream) as shown:
        shown.tell("optimizing", 3, 7)
        _wait_for(stream, "optimizing 3/7, 0 s")
    assert stream.getvalue().endswith("\r\x1b[K")


def test_elsewhere_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "SECONDS_PER_FRAME", 0.01)
    monkeypatch.setattr(ticker, "SECONDS_PER_LINE", 0.02)
    stream = io.StringIO()
    with Ticker(stream) as shown:
        shown.tell("optimizing", 0, 1)
        _wait_for(stream, "optimizing, 0 s\n")
    assert "\r" not in stream.getvalue()
