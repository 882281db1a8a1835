"""Stages in threads, joined by bounded queues: what overlaps reading, decoding, inferring, compositing, encoding and writing.

Python's threads serve, since every stage spends its time in native code that gives the interpreter's lock up.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

Job = TypeVar("Job")

_END = object()


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

    It is taken from by one thread only, so that a large job can't be starved by small ones.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def take(self, amount: int) -> None:
        """Wait until ``amount`` bytes fit in, or nothing else is in."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + amount <= self.limit)
            self._used += amount

    def give(self, amount: int) -> None:
        """Give ``amount`` bytes back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class Stage(Generic[Job]):
    """One step of a pipeline.

    Attributes:
        name: for the report.
        work: handles a batch of jobs, in place. It must not raise: what it raises ends the pipeline.
        workers: threads.
        batch: the most jobs it wants at once; it takes what is there and never waits for more.
        capacity: the most jobs that may wait before it.
    """

    name: str
    work: Callable[[list[Job]], None]
    workers: int = 1
    batch: int = 1
    capacity: int = 4


class Pipeline(Generic[Job]):
    """Runs jobs through stages.

    Args:
        source: yields the jobs; it is read in a thread of its own, named ``read`` in the reports.
        stages: in order.
        is_over: tells whether a job needs no further stage; it then goes to the end at once.
    """

    def __init__(self, source: Iterable[Job], stages: list[Stage[Job]], is_over: Callable[[Job], bool]) -> None:
        self._source = source
        self._stages = stages
        self._is_over = is_over
        self._queues: list[queue.Queue[object]] = [queue.Queue(stage.capacity * stage.workers + stage.batch) for stage in stages]
        self._finished: queue.Queue[object] = queue.Queue(64)
        self._queues.append(self._finished)
        self._running = [stage.workers for stage in stages]
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()
        self.reports = [StageReport("read", 1), *(StageReport(stage.name, stage.workers) for stage in stages)]

    def __iter__(self) -> Generator[Job, None, None]:
        """Start, and yield each job when it is through, in no fixed order. Raises what a stage or the source raised."""
        threads = [threading.Thread(target=self._read, name="seseg-read", daemon=True)]
        for index, stage in enumerate(self._stages):
            threads += [
                threading.Thread(target=self._run, args=(index,), name=f"seseg-{stage.name}-{n}", daemon=True) for n in range(stage.workers)
            ]
        for thread in threads:
            thread.start()
        try:
            while (job := self._next()) is not _END:
                yield job  # type: ignore[misc]
        finally:
            self._abandoned.set()
            for waiting in self._queues:  # wakes stages that wait to hand something on
                _drain(waiting)
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _next(self) -> object:
        # A timeout, since a thread that waits without one does not see signals on every platform.
        while True:
            try:
                return self._finished.get(timeout=0.2)
            except queue.Empty:
                if self._failure is not None:
                    return _END

    def _put(self, target: queue.Queue[object], job: object) -> None:
        while not self._abandoned.is_set():
            try:
                target.put(job, timeout=0.2)
                return
            except queue.Full:
                continue

    def _read(self) -> None:
        report = self.reports[0]
        first = self._queues[0] if self._stages else self._finished
        try:
            jobs = iter(self._source)
            while not self._abandoned.is_set():
                start = time.perf_counter()
                job = next(jobs, _END)
                report.busy += (read := time.perf_counter()) - start
                if job is _END:
                    break
                report.jobs += 1
                self._put(self._finished if self._is_over(job) else first, job)  # type: ignore[arg-type]
                report.blocked += time.perf_counter() - read
        except BaseException as error:
            self._failure = self._failure or error
        self._end(0)

    def _end(self, index: int) -> None:
        """Tell stage ``index`` (or the reader of the results) that nothing more comes."""
        for _ in range(self._stages[index].workers if index < len(self._stages) else 1):
            self._put(self._queues[index], _END)

    def _run(self, index: int) -> None:
        stage, report, source, target = self._stages[index], self.reports[index + 1], self._queues[index], self._queues[index + 1]
        ended = False
        while not ended and not self._abandoned.is_set():
            start = time.perf_counter()
            batch, ended = self._take_batch(source, stage.batch)
            waited = time.perf_counter()
            if batch:
                try:
                    stage.work(batch)
                except BaseException as error:
                    self._failure = self._failure or error
                    break
            worked = time.perf_counter()
            for job in batch:
                self._put(self._finished if self._is_over(job) else target, job)
            done = time.perf_counter()
            with self._lock:
                report.jobs += len(batch)
                report.starved += waited - start
                report.busy += worked - waited
                report.blocked += done - worked
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
                job = source.get(timeout=0.2) if not batch else source.get_nowait()
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
