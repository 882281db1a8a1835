"""Show the progress of a running command, keep the output of native libraries out of it, and handle signals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..run.session import RunObserver
from ..storage.atomic import stopping
from ..storage.locations import state_folder
from .terminal import Terminal, flush_streams, say
from .ticker import Ticker

if TYPE_CHECKING:
    from ..journal.row import Row
    from ..models.artifact import Artifact
    from ..options import RunOptions
    from ..quality.subject import Subject
    from ..reports.run_page import Collector
    from ..run.plan import WorkPlan
    from ..run.resume import Remaining
    from ..run.summary import Summary
    from .option_groups import Network

SECONDS_PER_LINE = 10.0


class Progress:
    """Counts inputs: a bar on a terminal, a line every ten seconds on any other stream.

    Args:
        stream: what to write to, normally the real standard error.
        total: the number of inputs to do.
        quiet: show no progress; notes are still written.
    """

    def __init__(self, stream: Terminal | TextIO, total: int, *, quiet: bool = False) -> None:
        self._stream = stream
        self._total = total
        self._count = 0
        self._bad = 0
        self._start = self._shown = time.monotonic()
        self._quiet = quiet or total == 0
        self._bar: Any = None
        if not self._quiet and stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, file=stream, unit="image", dynamic_ncols=True, smoothing=0.1)

    def begin(self) -> None:
        """Start the clock again, after the network has been loaded."""
        self._start = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.reset()

    def advance(self, *, bad: bool) -> None:
        """Count one input; ``bad`` if it was quarantined."""
        self._count += 1
        self._bad += bad
        if self._bar is not None:
            if bad:
                self._bar.set_postfix_str(f"{self._bad} quarantined", refresh=False)
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._shown >= SECONDS_PER_LINE:
            self._shown = time.monotonic()
            rate = self._count / (self._shown - self._start)
            left = (self._total - self._count) / rate if rate else 0
            quarantined = f", {self._bad} quarantined" if self._bad else ""
            self.note(f"{self._count}/{self._total} images, {rate:.1f} images/s, {_duration(left)} left{quarantined}")

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def everything_to(log: Path) -> Iterator[Terminal]:
    """Redirect file descriptors 1 and 2 and Python's logging and warnings to a file; yield the real standard error.

    Native libraries write to the descriptors directly. Without this, their messages break a progress bar, or a JSON object on
    standard output.
    """
    with contextlib.ExitStack() as stack:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, target)
        handler = logging.FileHandler(log, encoding="utf-8", errors="backslashreplace")
        stack.callback(handler.close)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        flush_streams()
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
        terminal = Terminal(os.dup(2))
        stack.callback(os.close, terminal.fileno())
        stack.callback(flush_streams)
        root = logging.getLogger()
        root.addHandler(handler)
        stack.callback(root.removeHandler, handler)
        logging.captureWarnings(True)
        stack.callback(logging.captureWarnings, False)
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield terminal


class Signals:
    """Handles SIGINT and SIGTERM: the first signal stops the run, the second ends the process at once. The journal survives both.

    Attributes:
        received: the number of the first signal, or None.
        stop: stops the run. While it is None, the first signal ends the process.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: int | None = None
        self.stop: Callable[[], None] | None = None
        self._say = say

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or self.stop is None:
            os._exit(128 + number)
        self.received = number
        self.stop()
        with contextlib.suppress(RuntimeError):  # the signal may have interrupted a write to the same stream
            self._say(
                f"{signal.Signals(number).name}: finishing the images in flight; send it again to stop at once (finished outputs stay)"
            )


class MeasurementConsole(contextlib.ExitStack):
    """Shows a measurement, and closes what it opened: the networks and the bar.

    Args:
        begins: what to say first.
        quiet: show nothing.
    """

    def __init__(self, begins: str, *, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet
        self._terminal = self.enter_context(everything_to(Path(os.devnull)))
        if not quiet:
            self._terminal.write(begins + "\n")

    def load(self, *sides: tuple[Artifact, Network]) -> list[Subject]:
        """Open artifacts, each where it is to run, and show that it takes its time."""
        from ..quality.subject import open_subject

        with contextlib.ExitStack() as loading:
            tell = None if self._quiet else loading.enter_context(Ticker(self._terminal)).tell
            return [self.enter_context(open_subject(artifact, **dataclasses.asdict(network), progress=tell)) for artifact, network in sides]

    def count(self, total: int) -> Progress:
        """Return what counts the images."""
        progress = Progress(self._terminal, total, quiet=self._quiet)
        self.callback(progress.close)
        return progress


class RunConsole(contextlib.ExitStack):
    """Shows a run over files, and closes what it opened: the log, the bar, the signal handlers.

    Args:
        state: the run's state folder, which gets ``log.txt``.
        quiet: show no progress.
        collect: gather what a page about the run needs.

    Attributes:
        observer: for :func:`seseg_trt.segment_files`.
        collector: for :func:`seseg_trt.reports.run_page.write_page`, where it was asked to ``collect``.
    """

    _terminal: Terminal
    _progress: Progress

    def __init__(self, state: Path, *, quiet: bool, collect: bool = False) -> None:
        super().__init__()
        self._state = state
        self._quiet = quiet
        self._ticker: Ticker | None = None
        self.collector: Collector | None = None
        if collect:
            from ..reports.run_page import Collector

            self.collector = Collector()
        self._signals = self.enter_context(Signals(lambda text: self._progress.note(text)))
        self._ticking = contextlib.ExitStack()
        self.observer = RunObserver(self._planned, self._loading, self._started, self._committed)

    def _planned(self, plan: WorkPlan, todo: Remaining) -> None:
        with stopping(f"the run's state can't be kept in {self._state}", "give --state a folder that can be written"):
            self._terminal = self.enter_context(everything_to(self._state / "log.txt"))
        self._progress = Progress(self._terminal, len(todo.items), quiet=self._quiet)
        self.callback(self._progress.close)
        self.enter_context(self._ticking)
        if not self._quiet:
            self._progress.note(f"{plan.inputs} inputs, {len(todo.items)} to do" + ("; loading the network" if todo.items else ""))

    def _loading(self, phase: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._ticker is None:
            self._ticker = self._ticking.enter_context(Ticker(self._terminal))
        self._ticker.tell(phase, done, total)

    def _started(self, stop: Callable[[], None]) -> None:
        self._ticking.close()
        self._signals.stop = stop
        self._progress.begin()
        if self.collector is not None:
            self.collector.start()

    def _committed(self, row: Row) -> None:
        self._progress.advance(bad=row.state == "quarantined")
        if self.collector is not None:
            self.collector.add(row)

    def finish(self, summary: Summary, *, as_json: bool, quiet: bool, page: Path | None = None) -> int:
        """Show the summary after the run, and return the exit code."""
        summary = dataclasses.replace(summary, signal=self._signals.received)
        if as_json:
            click.echo(json.dumps(summary.as_dict()))
        elif not quiet:
            say("\n".join([*summary.lines(), *([] if page is None else [f"report: {page}"])]))
        return summary.exit_code


def run_shown(target: str, options: RunOptions, *, quiet: bool, collect: bool = False) -> RunConsole:
    """Make the console of a run on an output; see :class:`RunConsole`."""
    return RunConsole(state_folder(target, options.state_dir), quiet=quiet, collect=collect)
