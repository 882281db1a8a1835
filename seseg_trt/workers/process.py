"""A worker process as its parent sees it: how it is started, what it says, what it holds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import DeviceError
from ..run.job import Outcome, Task
from ..run.pipeline import StageReport
from .channel import (
    Channel,
    Count,
    Number,
    ProtocolError,
    Text,
    checked,
    error_from_json,
    outcome_from_json,
    reports_from_json,
    task_to_json,
)
from .placement import Place

PATH_VARIABLE = "SESEG_WORKER_PATH"
BOOT = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal, or a service manager, sends these to all; the parent says when to stop
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path[:] = os.environ.pop("{PATH_VARIABLE}").split(os.pathsep)
from {__package__}.worker import main
main()
"""
"""What a worker begins with. It finds modules where its parent does, and never in the current folder."""

LOOKS_WITHOUT_WORD = 60
"""A worker says something twice a second. One that is silent at so many looks, one a second, hangs as a whole."""
SECONDS_TO_SEND = 60.0
SECONDS_TO_END = 10.0
SECONDS_AHEAD = 2.0
TASKS_AT_FIRST, TASKS_AT_MOST = 16, 1024

log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker process.

    Args:
        place: where it runs.
        backend: a pickled backend in base64, or None.
        words: a file for what it writes to its standard streams.

    Attributes:
        held: the numbers of the tasks that it has.
        hung: the tasks that it says hang, with the stages' names.
        reports: how its stages fare.
        oldest: the task that has been in hand for the longest time, the stage's name and the seconds.
        ready, ending, gone: it has its network; it was told to end; it is no more.
        done: how many tasks it has done.
        memory: bytes that it holds; ``memory_at_first`` when it was ready.
    """

    def __init__(self, place: Place, backend: str | None, words: IO[bytes]) -> None:
        self.place = place
        self.held: dict[int, None] = {}
        self.hung: list[tuple[list[int], str]] = []
        self.reports: list[StageReport] = []
        self.oldest: tuple[int, str, float] | None = None
        self.ready = self.ending = self.ended = self.gone = False
        self._silent = 0
        self.done = 0
        self.memory = self.memory_at_first = 0
        self._heard = self._begun = time.monotonic()
        self._batch = 1
        with contextlib.ExitStack() as failing:
            try:
                ours, theirs = socket.socketpair()
                failing.callback(ours.close)
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-I", "-X", f"utf8={sys.flags.utf8_mode}", "-c", BOOT, str(theirs.fileno()), str(os.getpid())],
                        env={**os.environ, PATH_VARIABLE: os.pathsep.join(_search_path()), **place.environment},
                        stdin=subprocess.DEVNULL,
                        stdout=words,
                        stderr=words,
                        pass_fds=[theirs.fileno()],
                    )
            except OSError as error:
                hint = "look at the limits of processes and of open files: ulimit -a"
                raise DeviceError(f"a worker process can't be started: {error.strerror or error}", hint) from error
            failing.pop_all()
        ours.settimeout(SECONDS_TO_SEND)
        self.channel = Channel(ours)
        self._send("begin", place.spec.to_json(), backend)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _send(self, kind: str, *content: object) -> None:
        try:
            self.channel.send(kind, *content)
        except OSError:  # it has died, or takes nothing any more
            self.kill()

    def give(self, tasks: list[Task]) -> None:
        """Hand tasks to it."""
        if tasks:
            self.held.update((task.number, None) for task in tasks)
            self._send("tasks", [task_to_json(task) for task in tasks])

    def tell(self, kind: str) -> None:
        """Tell it to ``end`` (no more tasks come) or to ``stop`` (begin nothing more)."""
        self.ending = True
        self._send(kind)

    def room(self) -> int:
        """Return how many more tasks it should have: those of the next seconds, asked for when half of them are done."""
        rate = self.done / max(0.2, time.monotonic() - self._begun)
        ahead = min(TASKS_AT_MOST, max(TASKS_AT_FIRST, 4 * self._batch, round(rate * SECONDS_AHEAD)))
        return ahead - len(self.held) if len(self.held) <= ahead // 2 else 0

    def hear(self) -> tuple[list[Outcome], list[tuple[str, Any]]]:
        """Take what it says. Call it when its channel can be read.

        Returns:
            What became of tasks, and whatever else its parent must know of: ``ready`` with a description, ``loading`` with a phase and two
            numbers, ``stopped`` and ``failed`` with an error.
        """
        outcomes: list[Outcome] = []
        news: list[tuple[str, Any]] = []
        try:
            for message in self.channel.receive():
                self._heard = time.monotonic()
                self._silent = 0
                kind, *content = message
                if kind == "done":
                    outcome = outcome_from_json(*content)
                    if outcome.number not in self.held:
                        raise ProtocolError("it answers for what it was not given")
                    if outcome.outputs.keys() != (set() if outcome.reason else set(self.place.spec.lane.masks.outputs)):
                        raise ProtocolError("these are not the outputs that it was to make")
                    del self.held[outcome.number]
                    outcomes.append(outcome)
                else:
                    news += self._learn(kind, content)
        except EOFError:
            self.gone = True
        except (ProtocolError, TypeError, ValueError, RecursionError):  # it can't be trusted
            log.exception("a worker said what it can't have meant")
            self.kill()
            self.gone = True
        if outcomes and not self.done:
            self.memory_at_first = _resident(self.pid)
        self.done += len(outcomes)
        return outcomes, news

    def _learn(self, kind: object, content: list[Any]) -> list[tuple[str, Any]]:
        if kind == "beat":
            reports, oldest = content
            self.reports, self.oldest = reports_from_json(reports), checked(oldest, tuple[Count, Text, Number] | None)
        elif kind == "ready":
            description, self._batch = checked(content, tuple[Text, Count])
            self.ready, self._begun = True, time.monotonic()
            self.memory = self.memory_at_first = _resident(self.pid)
            return [("ready", description)]
        elif kind == "loading":
            return [("loading", checked(content, tuple[Text, Count, Count]))]
        elif kind == "hung":
            (self.hung,) = checked(content, tuple[list[tuple[list[Count], Text]]])
        elif kind in ("stopped", "failed"):
            (error,) = content
            return [(str(kind), error_from_json(error))]
        elif kind == "ended":
            (reports,) = content
            self.reports, self.ending, self.ended, self.gone = reports_from_json(reports), True, True, True
        else:
            raise ProtocolError("that is no message")
        return []

    def look(self) -> None:
        """Measure its memory, and kill it if it has said nothing for too long."""
        self.memory = _resident(self.pid)
        self._silent += 1  # looks, not seconds: while the parent stands still, it hears nothing
        if self._process.poll() is not None and self._silent > 2:
            self.gone = True  # something else holds its end of the channel
        if self.ready and self._silent > LOOKS_WITHOUT_WORD:
            self.kill()

    def in_hand(self) -> tuple[int, str, float] | None:
        """Return the task that has been in hand for the longest time, the stage's name and the seconds until now."""
        if self.oldest is None:
            return None
        task, stage, seconds = self.oldest
        return task, stage, seconds + time.monotonic() - self._heard

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def end(self) -> int:
        """Wait for its end, not for long; return its exit code, or minus the signal."""
        self.channel.close()
        try:
            return self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


def _search_path() -> Iterator[str]:
    """Yield where modules are looked for; relative entries would mean something else in another folder."""
    for entry in sys.path:
        if os.path.exists(entry) or not entry:
            with contextlib.suppress(FileNotFoundError):  # the current folder was removed
                yield os.path.abspath(entry)
        else:
            yield entry  # perhaps a hook's mark


def how_it_ended(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process holds, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
