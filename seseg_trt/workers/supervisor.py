"""The parent of worker processes: it starts them, hands tasks out, takes outcomes, and replaces a worker that dies.

A worker that dies takes nothing with it: what it had in hand is tried again, one task at a time, and a task that kills its worker again is
quarantined as ``crashed``. A kill (SIGKILL) may have come from outside, so it takes one more of those.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import pickle
import selectors
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import DeviceError, SesegError, UsageError
from ..journal.journal import WORKERS
from ..outputs.base import Outputs
from ..run.ledger import Ledger
from ..run.pipeline import StageReport
from ..run.session import Execute, Execution, RunObserver
from ..run.spec import RunSpec
from ..storage.atomic import atomic_write, stopping
from .placement import Place, every_device, place_workers
from .process import WorkerProcess, how_it_ended

if TYPE_CHECKING:
    from ..backends.base import Backend

log = logging.getLogger(__name__)

LOG = "log.txt"
SECONDS_PER_LOOK = 0.2
SECONDS_PER_STATUS = 1.0
STARTS_AT_MOST, STARTS_WHEN_KILLED = 2, 10
DEATHS_ALONE, DEATHS_ALONE_WHEN_KILLED = 1, 2
"""A kill (SIGKILL) may have come from outside, so it proves less than a crash."""
CRASHES_BEFORE_THE_FIRST = 10
"""So many inputs that kill their workers, and none done, are the fault of the machine and not of the inputs."""
MEMORY_ALLOWED = 512 << 20
"""Bytes over what a worker held when it was ready, and over its images in flight, before it is taken to leak."""


def run_in_workers(processes: int, backend: Backend | None = None) -> Execute:
    """Return what does a run's tasks in ``processes`` worker processes for each device."""

    def execute(spec: RunSpec, ledger: Ledger, outputs: Outputs, observer: RunObserver) -> Execution:
        places = place_workers(spec, every_device(spec.device), processes)
        supervisor = Supervisor(places, ledger, backend, observer.loading, observer.started)
        supervisor.run()
        return Execution(supervisor.reports, supervisor.seconds, supervisor.description, supervisor.lines)

    return execute


class Supervisor:
    """Runs worker processes until a ledger is empty.

    Args:
        places: where each worker runs.
        ledger: of the run.
        backend: a ready one in place of the spec's model; it is pickled.
        loading: called with what a worker says while it builds a plan.
        started: called with :meth:`stop` when the first worker is ready.

    Attributes:
        reports: how the stages fared, all workers together.

    Raises:
        UsageError: the backend can't be sent to another process.
    """

    def __init__(
        self,
        places: Sequence[Place],
        ledger: Ledger,
        backend: Backend | None = None,
        loading: Callable[[str, int, int], None] = lambda phase, done, total: None,
        started: Callable[[Callable[[], None]], None] = lambda stop: None,
    ) -> None:
        self.reports: list[StageReport] = []
        self._places = places
        self._state = Path(places[0].spec.state)
        self._ledger = ledger
        self._backend = None if backend is None else _pickled(backend)
        self._loading = loading
        self._started = started
        self._workers: list[WorkerProcess] = []
        self._selector = selectors.DefaultSelector()
        self._descriptions: dict[str, str] = {}
        self._done: Counter[int] = Counter()
        self._suspects: deque[int] = deque()
        self._deaths_alone: dict[int, int] = {}
        self._starts: Counter[str] = Counter()
        self._given_up: set[int] = set()
        self._crashed = 0
        self._stop = self._told = False
        self._shown = self._first = self._last = 0.0

    @property
    def description(self) -> str:
        """All lanes, in a line."""
        if len(self._descriptions) == 1:
            return next(iter(self._descriptions.values()))
        return "; ".join(f"{device}: {words}" for device, words in self._descriptions.items())

    @property
    def seconds(self) -> float:
        """From the first worker's being ready to the last commit."""
        return max(0.0, self._last - self._first)

    @property
    def lines(self) -> list[str]:
        """What each worker did, a line each."""
        return [f"worker {place.number} on {place.device}: {self._done[place.number]} images" for place in self._places]

    def stop(self) -> None:
        """Begin no further input. May be called from a signal handler."""
        self._stop = True

    def run(self) -> None:
        """Do all tasks of the ledger; return when every worker has ended. Why it ended early is in the ledger.

        Raises:
            SesegError: no worker could begin; or the journal can't be written.
        """
        with stopping(f"the run's state can't be kept in {self._state}", "give --state a folder that can be written"):
            words = open(self._state / LOG, "ab")  # noqa: SIM115
        with words:
            try:
                for place in self._places[: max(1, len(self._ledger))]:
                    self._start(place, words)
                while self._workers:
                    for key, _ in self._selector.select(SECONDS_PER_LOOK):
                        self._hear(key.data)
                    self._look(words)
            finally:
                self._end_all()

    # Starting and ending.

    def _start(self, place: Place, words: IO[bytes]) -> None:
        worker = WorkerProcess(place, self._backend, words)
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.end()
        self._workers = []
        self._selector.close()
        with contextlib.suppress(OSError):
            os.unlink(self._state / WORKERS)

    def _bury(self, worker: WorkerProcess, words: IO[bytes]) -> None:
        """Answer for the end of a worker, and start another if there is something left to do."""
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        code = worker.end()
        self._add_reports(worker.reports)
        self._done[worker.place.number] += worker.done
        device = worker.place.device
        if worker.ready:
            self._give_back(worker, code)
        elif not self._told:
            self._starts[device] += 1
            if self._starts[device] >= (STARTS_WHEN_KILLED if code == -signal.SIGKILL else STARTS_AT_MOST):
                hint = f"{self._state / LOG} may say more; seseg-trt doctor looks at this machine"
                self._refuse(worker, DeviceError(f"the worker process of {device} dies while it starts ({how_it_ended(code)})", hint))
        if self._is_work_left() and not self._stop and self._ledger.stopped is None and worker.place.number not in self._given_up:
            self._start(worker.place, words)

    def _refuse(self, worker: WorkerProcess, error: SesegError) -> None:
        """Stop for a worker that can't begin, unless others of its device are at work. A run that has not begun at all raises."""
        if not self._first:
            raise error
        if any(other.ready and other.place.device == worker.place.device for other in self._workers):
            log.error("worker %d can't begin, and is done without: %s", worker.place.number, error)
            self._given_up.add(worker.place.number)
        else:
            self._ledger.stop(error)

    def _give_back(self, worker: WorkerProcess, code: int) -> None:
        """Return to the ledger what a worker left undone; keep what may have killed it, to be tried alone."""
        if worker.ended or (worker.ending and not code):
            self._ledger.give_back(worker.held)
            return
        for numbers, stage in worker.hung:
            guilty = [number for number in numbers if worker.held.pop(number, 0) is None]
            if len(numbers) == 1 and guilty:
                limit = worker.place.spec.stream.timeout or 0.0
                self._ledger.fail(guilty[0], "timeout", f"to {stage} it took longer than the limit of {limit:g} seconds (--timeout)")
            else:
                self._suspect(guilty)
        if worker.hung:
            self._ledger.give_back(worker.held)
        elif len(worker.held) == 1 and (number := next(iter(worker.held))) in self._deaths_alone:
            self._deaths_alone[number] += not worker.done  # else an earlier image may have spoilt the process
            if self._deaths_alone[number] >= (DEATHS_ALONE_WHEN_KILLED if code == -signal.SIGKILL else DEATHS_ALONE):
                self._crash(number, code)
            else:
                self._suspects.appendleft(number)
        else:
            self._suspect(worker.held)

    def _crash(self, number: int, code: int) -> None:
        self._ledger.fail(number, "crashed", f"its worker process died of it again ({how_it_ended(code)})")
        self._crashed += 1
        if self._crashed >= CRASHES_BEFORE_THE_FIRST and not self._ledger.tally.done:
            hint = f"{self._state / LOG} may say more; the same command goes on, with other inputs first"
            self._ledger.stop(
                DeviceError(f"worker processes died of {self._crashed} inputs, and none was done ({how_it_ended(code)})", hint)
            )

    def _suspect(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._deaths_alone.setdefault(number, 0)
            self._suspects.append(number)

    # Listening.

    def _hear(self, worker: WorkerProcess) -> None:
        outcomes, news = worker.hear()
        for outcome in outcomes:
            self._deaths_alone.pop(outcome.number, None)
        if outcomes:
            self._ledger.settle(outcomes)
            self._last = time.perf_counter()
        for kind, content in news:
            if kind == "ready":
                self._descriptions[worker.place.device] = content
                if not self._first:
                    self._first = time.perf_counter()
                    self._started(self.stop)
                self._starts[worker.place.device] = 0
            elif kind == "loading":
                self._loading(*content)
            elif kind == "stopped":
                self._ledger.stop(content)
            else:
                self._refuse(worker, content)

    # Handing out.

    def _look(self, words: IO[bytes]) -> None:
        for worker in [worker for worker in self._workers if worker.gone]:
            self._bury(worker, words)
        if (self._stop or self._ledger.stopped is not None) and not self._told:
            self._told = True
            for worker in self._workers:
                if worker.ready:
                    worker.tell("stop")
                else:
                    worker.kill()
        if not self._told:
            self._hand_out()
        now = time.monotonic()
        if now - self._shown > SECONDS_PER_STATUS:
            self._shown = now
            self._watch()

    def _hand_out(self) -> None:
        ready = [worker for worker in self._workers if worker.ready and not worker.ending]
        if not self._is_work_left() and not any(worker.held for worker in self._workers):
            for worker in self._workers:
                if not worker.ready:
                    worker.kill()
                elif not worker.ending:
                    worker.tell("end")
            return
        for worker in ready:
            if self._suspects and not worker.held:
                worker.give([self._ledger.task(self._suspects.popleft())])
            elif not any(number in self._deaths_alone for number in worker.held):  # a suspect is alone with its worker
                fair = max(4, len(self._ledger) // (2 * len(self._workers)))  # those that still start come too
                worker.give(self._ledger.take(min(worker.room(), fair)))

    def _is_work_left(self) -> bool:
        return bool(self._suspects) or len(self._ledger) > 0

    # Watching.

    def _watch(self) -> None:
        """Replace a worker that leaks: it finishes what it has, and ends. Write down what each worker does."""
        entries = []
        for worker in self._workers:
            worker.look()
            allowed = worker.memory_at_first + worker.place.spec.stream.memory + MEMORY_ALLOWED
            if worker.ready and not worker.ending and worker.memory > allowed:
                worker.tell("stop")
            number, stage, seconds = worker.in_hand() or (-1, None, 0.0)
            entry = {"pid": worker.pid, "device": worker.place.device, "done": worker.done, "memory": worker.memory}
            entries.append({**entry, "in_hand": self._ledger.source(number), "stage": stage, "seconds": round(seconds, 1)})
        with contextlib.suppress(OSError), atomic_write(self._state / WORKERS) as file:
            file.write(json.dumps(entries).encode("ascii"))

    def _add_reports(self, reports: Sequence[StageReport]) -> None:
        if not self.reports:
            self.reports = [StageReport(report.name, 0) for report in reports]
        for total, report in zip(self.reports, reports, strict=False):
            for name in ("jobs", "busy", "starved", "blocked"):
                setattr(total, name, getattr(total, name) + getattr(report, name))
            total.workers = max(total.workers, report.workers * len(self._places))
            total.queue_peak = max(total.queue_peak, report.queue_peak)


def _pickled(backend: Backend) -> str:
    name = type(backend).__qualname__
    if type(backend).__module__ == "__main__":
        raise UsageError(f"worker processes can't find {name}: the program that was started defines it", "define it in a module")
    try:
        return base64.b64encode(pickle.dumps(backend)).decode("ascii")
    except Exception as error:
        raise UsageError(f"the backend {name} can't be pickled for worker processes: {error}", "use processes=0") from error
