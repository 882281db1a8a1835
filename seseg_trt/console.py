"""What a running command shows: a progress bar or plain lines, with the words of native libraries kept out of them; and signals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

from .errors import StoppedError
from .files import Watch
from .run.names import state_folder

if TYPE_CHECKING:
    from .run.journal import Row
    from .run.plan import WorkPlan
    from .run.report import Summary
    from .run.report_page import Collector, ReportImages
    from .run.resume import Todo
    from .run_options import RunOptions

SECONDS_PER_LINE = 10.0


class Progress:
    """Counts inputs: a bar with rate and time left on a terminal, a line every ten seconds elsewhere, nothing when quiet.

    Args:
        stream: where to, normally the real standard error.
        total: inputs to do.
        quiet: show nothing.
    """

    def __init__(self, stream: TextIO, total: int, *, quiet: bool = False) -> None:
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

    def advance(self, *, bad: bool) -> None:
        """Count one more input."""
        self._count += 1
        self._bad += bad
        if self._bar is not None:
            if bad:
                self._bar.set_postfix_str(f"{self._bad} quarantined", refresh=False)
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._shown >= SECONDS_PER_LINE:
            self._line()

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _line(self) -> None:
        self._shown = time.monotonic()
        rate = self._count / (self._shown - self._start)
        left = (self._total - self._count) / rate if rate else 0
        bad = f", {self._bad} quarantined" if self._bad else ""
        self._stream.write(f"{self._count}/{self._total} images, {rate:.1f} images/s, {_duration(left)} left{bad}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def everything_to(log: Path) -> Iterator[TextIO]:
    """Send file descriptors 1 and 2 and Python's logging and warnings to a log, and yield the real standard error.

    Native libraries write to the descriptors, past Python; this is the only way to keep their words out of a progress bar and out
    of a JSON object on standard output.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    terminal = os.fdopen(os.dup(saved[1]), "w", encoding="utf-8", errors="backslashreplace")
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    handler = logging.FileHandler(log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        terminal.close()
        for descriptor in (*saved, target):
            os.close(descriptor)


class Signals:
    """SIGINT and SIGTERM: the first asks the run to stop, the second ends the process at once. The journal survives both.

    Attributes:
        received: the first signal's number, or None.
        stop: what the first signal calls; None while there is nothing to stop: the signal then ends the process.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: int | None = None
        self.stop: Callable[[], None] | None = None
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or self.stop is None:
            os._exit(128 + number)
        self.received = number
        self.stop()
        with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of a write to the same stream
            self._say(f"{signal.Signals(number).name}: finishing what is in flight; once more to stop at once (what is committed stays)")


class Shown:
    """What a run over files shows. ``watch`` is for :func:`seseg_trt.segment_files`."""

    def __init__(self, state: Path, stack: contextlib.ExitStack, *, quiet: bool, collect: bool) -> None:
        self._state = state
        self._stack = stack
        self._quiet = quiet
        self._progress: Progress | None = None
        self._collector: Collector | None = None
        if collect:
            from .run.report_page import Collector

            self._collector = Collector()
        self._signals = stack.enter_context(Signals(self._note))
        self.watch = Watch(self._planned, self._started, self._committed)

    def _note(self, text: str) -> None:
        if self._progress is not None:
            self._progress.note(text)

    def _planned(self, plan: WorkPlan, todo: Todo) -> None:
        terminal = self._stack.enter_context(everything_to(self._state / "log.txt"))
        self._progress = Progress(terminal, len(todo.items), quiet=self._quiet)
        self._stack.callback(self._progress.close)
        if self._collector is not None:
            self._collector.begin(plan)
        if not self._quiet:
            self._note(f"{plan.inputs} inputs, {len(todo.items)} to do" + ("; loading the network" if todo.items else ""))

    def _started(self, stop: Callable[[], None]) -> None:
        self._signals.stop = stop
        if self._collector is not None:
            self._collector.start()

    def _committed(self, row: Row) -> None:
        if self._progress is not None:
            self._progress.advance(bad=row.state == "quarantined")
        if self._collector is not None:
            self._collector.add(row)

    def report(self, target: Path, summary: Summary, images: ReportImages) -> None:
        """Write the page about the run.

        Raises:
            StoppedError: it can't be written.
        """
        from .run.report_page import write_page

        assert self._collector is not None
        try:
            write_page(target, summary, self._collector, images)
        except OSError as error:
            raise StoppedError(
                f"the report {target} can't be written: {error.strerror}", "the run itself has ended; see its status"
            ) from error

    def finish(self, summary: Summary, *, as_json: bool, quiet: bool) -> int:
        """Show the summary, after the run; return the exit code."""
        summary = dataclasses.replace(summary, signal=self._signals.received)
        if as_json:
            click.echo(json.dumps(summary.as_dict()))
        elif not quiet:
            for line in summary.lines():
                click.echo(line, err=True)
        return summary.exit_code


@contextlib.contextmanager
def run_shown(target: str, options: RunOptions, *, quiet: bool, collect: bool = False) -> Iterator[Shown]:
    """Show a run's progress, answer signals, and keep the words of native libraries in the run's log while it lasts.

    ``collect``: gather what a report needs.
    """
    state = state_folder(target, options.state_dir)
    with contextlib.ExitStack() as stack:
        yield Shown(state, stack, quiet=quiet, collect=collect)
