"""What a run shows while it loads and while it masks, on a stream that is no terminal and on one that is."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seseg_trt import StoppedError
from seseg_trt.cli import console, ticker
from seseg_trt.cli.console import Progress, RunConsole

PLAN: Any = SimpleNamespace(inputs=5)
TO_DO: Any = SimpleNamespace(items=["a", "b", "c", "d"])


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "SECONDS_PER_FRAME", 0.01)
    monkeypatch.setattr(ticker, "SECONDS_PER_LINE", 0.02)


def _run(shown: RunConsole, capfd: pytest.CaptureFixture[str], seconds: float, until: str) -> str:
    """Do what a run does with its observer while it builds a TensorRT plan; return what was shown."""
    shown.observer.planned(PLAN, TO_DO)
    os.write(2, b"native words\n")
    shown.observer.loading("building the plan", 0, 1)
    shown.observer.loading("optimizing", 3, 7)
    text, end = "", time.monotonic() + seconds
    while until not in text and time.monotonic() < end:
        time.sleep(0.01)
        text += capfd.readouterr().err
    stops: list[bool] = []
    shown.observer.started(lambda: stops.append(True))
    capfd.readouterr()
    time.sleep(0.1)  # five lines' time: the ticker has ended
    for state in ("done", "quarantined"):
        shown.observer.committed(SimpleNamespace(state=state))  # type: ignore[arg-type]
    return text


def test_what_is_loading_appears_as_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunConsole(tmp_path, quiet=False) as shown:
        text = _run(shown, capfd, 10, "optimizing 3/7, 0 s\n")
        assert text.startswith("5 inputs, 4 to do; loading the network\n") and "optimizing 3/7, 0 s\n" in text
        assert "native words" not in text and "\r" not in text
        assert capfd.readouterr().err == ""
    assert (tmp_path / "log.txt").read_text() == "native words\n"


def test_a_quiet_run_shows_nothing_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunConsole(tmp_path, quiet=True) as shown:
        assert _run(shown, capfd, 0.2, "never") == ""
    assert capfd.readouterr().err == ""


def test_the_rate_counts_from_when_the_network_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    stream = io.StringIO()
    progress = Progress(stream, 100)
    clock[0] = 1000.0
    progress.begin()
    for clock[0] in (1004.0, 1010.0):
        progress.advance(bad=clock[0] == 1010.0)
    progress.close()
    assert stream.getvalue() == "2/100 images, 0.2 images/s, 8:10 left, 1 quarantined\n"


def test_a_terminal_has_a_bar_that_begins_again(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream, 2)
    progress.note("a note")
    progress.begin()
    progress.advance(bad=False)
    progress.advance(bad=True)
    progress.close()
    assert "a note\n" in stream.getvalue() and "2/2" in stream.getvalue() and "1 quarantined" in stream.getvalue()


def test_a_log_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(StoppedError, match="can't be kept") as caught, RunConsole(tmp_path, quiet=True) as shown:
        shown.observer.planned(PLAN, TO_DO)
    assert "--state" in caught.value.hint
