"""Where a stream's tasks come from, and where their outcomes go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from ..errors import SesegError, StoppedError
from .job import Outcome, Task
from .ledger import Ledger
from .pipeline import HungError

TASKS_AT_ONCE = 64
OUTCOMES_PER_COMMIT = 256
SECONDS_PER_COMMIT = 0.5


class Work(Protocol):
    """The other end of a stream. All but the iteration and ``stop`` is called in the thread that runs the stream."""

    def __iter__(self) -> Iterator[Task]:
        """Yield tasks until there are no more, or the run is stopped; in the stream's reading thread."""

    def add(self, outcome: Outcome) -> None:
        """Take what became of a task. Raises SesegError where the run can't go on."""

    def look(self, *, last: bool = False) -> None:
        """Do what is due; called several times a second, and once at the end. Raises as ``add``."""

    def hung(self, error: HungError) -> None:
        """Take word that a stage is over its limit: the stream ends here."""

    def stop(self, error: SesegError | None) -> None:
        """Let the iteration end, because of an error or because the user asked; from any thread or a signal handler."""


class LocalWork(Work):
    """A ledger's tasks, done in the caller's process.

    Args:
        ledger: of the run.
        timeout: seconds that each step may take for one image; for the message alone.
    """

    def __init__(self, ledger: Ledger, timeout: float | None) -> None:
        self._ledger = ledger
        self._timeout = timeout
        self._stopped = False
        self._unsaved: list[Outcome] = []
        self._saved = time.monotonic()

    def __iter__(self) -> Iterator[Task]:
        while not self._stopped and (tasks := self._ledger.take(TASKS_AT_ONCE)):
            for task in tasks:
                if self._stopped or self._ledger.stopped:
                    return
                yield task

    def add(self, outcome: Outcome) -> None:
        self._unsaved.append(outcome)
        if len(self._unsaved) >= OUTCOMES_PER_COMMIT:
            self.look(last=True)

    def look(self, *, last: bool = False) -> None:
        if last or time.monotonic() - self._saved > SECONDS_PER_COMMIT:
            unsaved, self._unsaved = self._unsaved, []
            if unsaved:
                self._ledger.settle(unsaved)
            self._saved = time.monotonic()

    def hung(self, error: HungError) -> None:
        jobs, stage = error.batches[0]
        self._ledger.stop(
            StoppedError(
                f"{jobs[0].task.item.source} took longer than the limit of {self._timeout:g} seconds to {stage} (timeout)",
                "processes=1 runs in a worker process, which can be ended: the image is then quarantined and the run goes on",
            )
        )

    def stop(self, error: SesegError | None) -> None:
        self._stopped = True  # no Event: its lock could be held by the very thread that a signal interrupts
        if error is not None:
            self._ledger.stop(error)
