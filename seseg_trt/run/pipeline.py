"""Stages in threads, joined by bounded queues: what overlaps reading, decoding, inferring, compositing, encoding and writing.

Python's threads serve, since every stage spends its time in native code that gives the interpreter's lock up.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")

_END = object()
SECONDS_PER_LOOK = 0.2
SECONDS_TO_END = 1.0


@dataclasses.dataclass
class StageReport:
    """How a stage fared.

    Attributes:
        name: of the stage.
        workers: its threads.
        jobs: how many it finished.
        busy: seconds at work, all workers together.
        starved: seconds waiting for something to do.
        blocked: seconds waiting for the next stage to take what was done.
        queue_peak: the most jobs that waited before it.
    """

    name: str
    workers: int
    jobs: int = 0
    busy: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0
    queue_peak: int = 0

    @property
    def rate(self) -> float:
        """Jobs a second that the stage could do if nothing else held it up; 0 before the first."""
        return self.jobs * self.workers / self.busy if self.busy else 0.0


class ByteBudget:
    """A bound on the bytes in flight. One job larger than the whole budget is let in alone.

    Takers are served in the order in which they come, so that a large job can't be starved by small ones.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._growing = 0
        self._changed = threading.Condition()
        self._line, self._line_to_grow = threading.Lock(), threading.Lock()
        self._open = True

    def take(self, amount: int) -> None:
        """Wait until ``amount`` bytes fit in, or nothing else is in, or the budget is closed."""
        with self._line, self._changed:
            self._changed.wait_for(lambda: not self._open or self._used == 0 or self._used + amount <= self.limit)
            self._used += amount

    def grow(self, held: int, amount: int) -> None:
        """Replace a job's ``held`` bytes by ``amount``; wait until they fit in, or until all other jobs wait here too.

        So jobs that grow never wait for each other: the first in line is let in alone.
        """
        with self._changed:
            self._growing += held
            self._changed.notify_all()
        with self._line_to_grow, self._changed:
            self._changed.wait_for(
                lambda: not self._open or self._used == self._growing or self._used - held + amount <= self.limit,
            )
            self._growing -= held
            self._used += amount - held

    def give(self, amount: int) -> None:
        """Give ``amount`` bytes back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        """Let in whoever waits: the run is over, and nobody will give anything back."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class Stage(Generic[Job]):
    """One step of a pipeline.

    Attributes:
        name: for the report.
        work: handles a batch of jobs, in place, and may return how many seconds of it it waited for later stages. It must not raise:
            what it raises ends the pipeline.
        workers: threads.
        batch: the most jobs it wants at once; it takes what is there and never waits for more.
        capacity: the most jobs that may wait before it.
        limit: seconds that one job may take; None: for ever.
    """

    name: str
    work: Callable[[list[Job]], float | None]
    workers: int = 1
    batch: int = 1
    capacity: int = 4
    limit: float | None = None


class HungError(Exception):
    """Stages are over their limits, and threads can't be ended.

    Attributes:
        batches: the jobs that such stages have in hand, with the stages' names.
    """

    def __init__(self, batches: list[tuple[list[Any], str]]) -> None:
        super().__init__(f"{batches[0][1]} takes longer than its limit")
        self.batches = batches


@dataclasses.dataclass
class _Worker(Generic[Job]):
    """A thread of a stage; ``batch`` is what it works on, ``since`` when it began."""

    index: int
    batch: list[Job] = dataclasses.field(default_factory=list)
    since: float | None = None
    thread: threading.Thread | None = None


class Pipeline(Generic[Job]):
    """Runs jobs through stages.

    Args:
        source: yields the jobs; it is read in a thread of its own.
        stages: in order.
        is_over: tells whether a job needs no further stage; it then goes to the end at once.
        release: lets go whoever waits inside a stage; called when no more jobs are handed on.
    """

    def __init__(
        self, source: Iterable[Job], stages: list[Stage[Job]], is_over: Callable[[Job], bool], release: Callable[[], None] = lambda: None
    ) -> None:
        self._release = release
        self._source = source
        self._stages = stages
        self._is_over = is_over
        self._queues: list[queue.Queue[object]] = [queue.Queue(stage.capacity * stage.workers + stage.batch) for stage in stages]
        self._finished: queue.Queue[object] = queue.Queue(64)
        self._queues.append(self._finished)
        self._running = [stage.workers for stage in stages]
        self._workers = [_Worker[Job](index) for index, stage in enumerate(stages) for _ in range(stage.workers)]
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._looked = 0.0
        self._abandoned = threading.Event()
        self.reports = [StageReport(stage.name, stage.workers) for stage in stages]

    def __iter__(self) -> Generator[Job | None, None, None]:
        """Start, and yield each job when it is through, in no fixed order; None now and then while none is.

        Raises:
            HungError: a stage is over its limit. Its thread is left behind: the process should end soon.
            Exception: what a stage or the source raised.
        """
        reader = threading.Thread(target=self._read, name="seseg-source", daemon=True)
        for worker in self._workers:
            name = f"seseg-{self._stages[worker.index].name}"
            worker.thread = threading.Thread(target=self._run, args=(worker,), name=name, daemon=True)
            worker.thread.start()
        reader.start()
        try:
            while (job := self._next()) is not _END:
                yield job  # type: ignore[misc]
        finally:
            self._abandoned.set()
            self._release()
            for waiting in self._queues:  # wakes stages that wait to hand something on
                _drain(waiting)
            if not isinstance(self._failure, HungError):
                reader.join(None if self._failure is None else SECONDS_TO_END)  # after a failure it may wait for a task for ever
                for worker in self._workers:
                    while worker.thread is not None and worker.thread.is_alive() and not self._hangs(worker):
                        worker.thread.join(SECONDS_PER_LOOK)
        if self._failure is not None:
            raise self._failure

    def oldest(self) -> tuple[Job, str, float] | None:
        """Return the job that a stage has worked on for the longest time, the stage's name and the seconds; None while all wait."""
        with self._lock:
            at_work = [worker for worker in self._workers if worker.since is not None and worker.batch]
            if not at_work:
                return None
            worker = min(at_work, key=lambda worker: worker.since or 0.0)
            return worker.batch[0], self._stages[worker.index].name, time.monotonic() - (worker.since or 0.0)

    def _hangs(self, worker: _Worker[Job]) -> bool:
        limit, since = self._stages[worker.index].limit, worker.since
        return limit is not None and since is not None and time.monotonic() - since > limit * len(worker.batch)

    def _next(self) -> object:
        # A timeout, since a thread that waits without one does not see signals on every platform.
        now = time.monotonic()
        if (gap := now - self._looked) > SECONDS_PER_LOOK:
            self._looked = now
            with self._lock:
                if gap > 5 * SECONDS_PER_LOOK:  # this whole process stood still: that is no stage's fault
                    for worker in self._workers:
                        worker.since = None if worker.since is None else min(now, worker.since + gap)
                hanging = [(list(worker.batch), self._stages[worker.index].name) for worker in self._workers if self._hangs(worker)]
            if hanging and self._failure is None:
                self._failure = HungError(hanging)
        if self._failure is not None and self._finished.empty():
            return _END
        try:
            return self._finished.get(timeout=SECONDS_PER_LOOK)
        except queue.Empty:
            return None

    def _put(self, target: queue.Queue[object], job: object) -> None:
        while not self._abandoned.is_set():
            try:
                target.put(job, timeout=SECONDS_PER_LOOK)
                return
            except queue.Full:
                continue

    def _read(self) -> None:
        first = self._queues[0]  # without stages that of what is finished
        try:
            for job in self._source:
                self._put(self._finished if self._is_over(job) else first, job)
                if self._abandoned.is_set():
                    break
        except BaseException as error:
            self._failure = self._failure or error
        self._end(0)

    def _end(self, index: int) -> None:
        """Tell stage ``index`` (or the reader of the results) that nothing more comes."""
        for _ in range(self._stages[index].workers if index < len(self._stages) else 1):
            self._put(self._queues[index], _END)

    def _run(self, worker: _Worker[Job]) -> None:
        try:
            self._work(worker)
        except BaseException as error:
            self._failure = self._failure or error

    def _work(self, worker: _Worker[Job]) -> None:
        index = worker.index
        stage, report, source, target = self._stages[index], self.reports[index], self._queues[index], self._queues[index + 1]
        ended = False
        while not ended and not self._abandoned.is_set():
            start = time.perf_counter()
            batch, ended = self._take_batch(source, stage.batch)
            waited = time.perf_counter()
            held_up = 0.0
            if batch:
                with self._lock:
                    worker.batch, worker.since = batch, time.monotonic()
                held_up = stage.work(batch) or 0.0
                with self._lock:
                    worker.batch, worker.since = [], None
            worked = time.perf_counter()
            for job in batch:
                self._put(self._finished if self._is_over(job) else target, job)
            done = time.perf_counter()
            with self._lock:
                report.jobs += len(batch)
                report.starved += waited - start
                report.busy += worked - waited - held_up
                report.blocked += done - worked + held_up
                if batch:
                    report.queue_peak = max(report.queue_peak, source.qsize() + len(batch))
        with self._lock:
            self._running[index] -= 1
            last = self._running[index] == 0
        if last:
            self._end(index + 1)

    def _take_batch(self, source: queue.Queue[object], limit: int) -> tuple[list[Job], bool]:
        batch: list[Job] = []
        while len(batch) < limit:
            try:
                job = source.get(timeout=SECONDS_PER_LOOK) if not batch else source.get_nowait()
            except queue.Empty:
                if batch or self._abandoned.is_set():
                    break
                continue
            if job is _END:
                return batch, True
            batch.append(job)  # type: ignore[arg-type]
        return batch, False


def _drain(waiting: queue.Queue[object]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
