"""Who has which input, and what became of it: the one place where rows are committed."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..errors import ReasonCode, SesegError, StoppedError
from ..inputs.item import InputItem
from ..journal.journal import Journal
from ..journal.row import Row
from ..outputs.base import Outputs
from ..outputs.naming import Naming
from .job import Outcome, Task
from .tally import Tally


class Ledger:
    """Hands tasks out and commits their outcomes. It may be used from several threads.

    Args:
        journal: of the run; each item has a pending row.
        outputs: of the run.
        naming: of the outputs.
        items: what is left to do.
        max_failures: more quarantined inputs than this stop the run; None: any number may fail.
        committed: called for each row when it has been committed.

    Attributes:
        tally: what was committed.
        stopped: why no more is handed out, or None.
    """

    def __init__(
        self,
        journal: Journal,
        outputs: Outputs,
        naming: Naming,
        items: Sequence[InputItem],
        max_failures: int | None = None,
        committed: Callable[[Row], None] = lambda row: None,
    ) -> None:
        self.tally = Tally()
        self.stopped: SesegError | None = None
        self._journal = journal
        self._outputs = outputs
        self._naming = naming
        self._items = items
        self._max_failures = max_failures
        self._committed = committed
        self._next = 0
        self._returned: deque[int] = deque()
        self._rows: dict[int, Row] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tasks wait to be handed out."""
        return 0 if self.stopped else len(self._returned) + len(self._items) - self._next

    def take(self, count: int) -> list[Task]:
        """Hand out some tasks; none when there are no more, or the run is stopped."""
        with self._lock:
            if self.stopped is not None:
                return []
            numbers = [self._returned.popleft() for _ in range(min(count, len(self._returned)))]
            end = min(len(self._items), self._next + count - len(numbers))
            numbers += range(self._next, end)
            self._next = end
            tasks = [Task(number, self._items[number]) for number in numbers]
            rows = self._journal.get([task.item.identity for task in tasks])
            self._rows.update((task.number, rows[task.item.identity]) for task in tasks)
        return tasks

    def task(self, number: int) -> Task:
        """Return a task that is handed out, to be handed to another worker."""
        return Task(number, self._items[number])

    def source(self, number: int) -> str | None:
        """Return where a task's input lies, or None if there is no such task."""
        return self._items[number].source if 0 <= number < len(self._items) else None

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take tasks back that were not done; they are handed out again."""
        with self._lock:
            for number in numbers:
                if self._rows.pop(number, None) is not None:
                    self._returned.append(number)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Commit what became of tasks that are handed out; count them only then.

        Raises:
            StoppedError: the journal can't be written.
        """
        with self._lock:
            settled = [(self._settle(outcome), outcome.pixels) for outcome in outcomes]
            self._journal.put(row for row, _ in settled)
        for row, pixels in settled:
            self.tally.add(row, pixels)
            self._committed(row)
        if self._max_failures is not None and self.tally.quarantined > self._max_failures:
            self.stop(
                StoppedError(
                    f"{self.tally.quarantined} inputs failed, more than --max-failures allows ({self._max_failures})",
                    "quarantine.jsonl has the reasons; the same command goes on",
                )
            )

    def _settle(self, outcome: Outcome) -> Row:
        """Say in its row what has become of a task."""
        row = self._rows.pop(outcome.number)
        names = self._naming.names(os.fsdecode(row.path))
        row.attempt += 1
        row.finished = time.time()
        if outcome.stat is not None:
            row.size, row.mtime_ns = outcome.stat
        row.decoded_by = outcome.decoded_by
        if outcome.reason is not None:
            row.state, row.reason, row.message, row.measured = "quarantined", outcome.reason, outcome.message, None
            row.outputs.update(dict.fromkeys(names.values()))
        else:
            row.state, row.reason, row.message, row.measured = "done", None, None, outcome.measured
            row.outputs.update((names[kind], made) for kind, made in outcome.outputs.items())
        return row

    def fail(self, number: int, reason: ReasonCode, message: str) -> None:
        """Quarantine a task whose worker can't say what became of it. Raises StoppedError."""
        for name in self._naming.names(self._items[number].path).values():
            self._outputs.remove(name)
        self.settle([Outcome(number, reason, message)])

    def stop(self, error: SesegError) -> None:
        """Hand out no more; the first reason stays."""
        self.stopped = self.stopped or error
