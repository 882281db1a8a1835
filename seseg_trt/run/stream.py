"""Read, decode, infer, composite, encode, write and commit a run's inputs, overlapped, with nothing lost and nothing half done."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from ..errors import BadImage, DeviceError, ReasonCode, SesegError, StoppedError
from ..lanes.base import Frame, Lane, Source
from ..options import OutputKind
from .journal import Journal, Row
from .output import OutputFolder
from .pipeline import ByteBudget, Pipeline, Stage, StageReport
from .plan import Naming
from .scan import WorkItem, describe_os_error

In = TypeVar("In")
Out = TypeVar("Out")

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = 20
"""What an image holds in flight: 4 decoded (Pillow pads RGB), 4 composited, 3 as an array, 3 filtered, the mask, the encoded bytes."""

ROWS_PER_COMMIT = 256
SECONDS_PER_COMMIT = 0.5
ENGINE_FAILURES_IN_A_ROW = 3


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """How hard to run.

    Attributes:
        workers: threads each for decoding, compositing and encoding.
        memory: bytes in flight, at most (a single larger image is let in alone).
        max_file_bytes: larger files are quarantined unread.
        max_failures: the run stops when more inputs than this fail; None: never.
    """

    workers: int
    memory: int = 1 << 30
    max_file_bytes: int = 4 << 30
    max_failures: int | None = None


@dataclasses.dataclass(slots=True)
class Job:
    """One input on its way."""

    item: WorkItem
    row: Row
    data: bytes = b""
    held: int = 0
    frame: Frame | None = None
    encoded: Mapping[OutputKind, bytes] = dataclasses.field(default_factory=dict)
    bad: BadImage | None = None


@dataclasses.dataclass
class StreamResult:
    """What a stream did.

    Attributes:
        done, quarantined: inputs, in this run.
        decoded_by: inputs for each decoding library.
        pixels: of all inputs done.
        stages: how each stage fared.
        seconds: from the first read to the last commit.
        stopped: why the run ended before its inputs did, or None.
    """

    done: int = 0
    quarantined: int = 0
    decoded_by: dict[str, int] = dataclasses.field(default_factory=dict)
    pixels: int = 0
    stages: list[StageReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    stopped: SesegError | None = None


class Stream:
    """Runs items through a lane.

    Args:
        lane: decodes, infers, composites and encodes.
        output: where the results go.
        journal: where they are recorded; used from the thread that calls :meth:`run` alone.
        naming: of the outputs.
        options: how hard to run.
        on_commit: called in the calling thread after each input, with its row.
    """

    def __init__(
        self,
        lane: Lane,
        output: OutputFolder,
        journal: Journal,
        naming: Naming,
        options: StreamOptions,
        on_commit: Callable[[Row], None] | None = None,
    ) -> None:
        self._lane = lane
        self._output = output
        self._journal = journal
        self._naming = naming
        self._options = options
        self._on_commit = on_commit
        self._budget = ByteBudget(options.memory)
        self._stop = threading.Event()
        self._stopped: SesegError | None = None
        self._engine_failures = 0
        self._disk_refused = False

    def stop(self) -> None:
        """Begin no further input; those in flight are finished and committed. May be called from any thread or a signal handler."""
        self._stop.set()

    def run(self, todo: Sequence[tuple[WorkItem, Row]]) -> StreamResult:
        """Mask everything in ``todo``; return when all of it is committed, or the run is stopped."""
        result = StreamResult()
        workers = self._options.workers
        pipeline = Pipeline(
            self._read(todo),
            [
                Stage("decode", self._decode, workers=workers, batch=self._lane.batch_size),
                Stage("infer", self._infer, batch=self._lane.batch_size),
                Stage("composite", self._composite, workers=workers, batch=self._lane.batch_size),
                Stage("encode", self._encode, workers=workers, batch=self._lane.batch_size),
                Stage("write", self._write, workers=workers),
            ],
            lambda job: job.bad is not None,
        )
        start = time.perf_counter()
        unsaved: list[Row] = []
        saved = start
        jobs = iter(pipeline)
        try:
            for job in jobs:
                self._budget.give(job.held)
                if job.bad is None and job.row.finished is None:
                    continue  # the disk refused its outputs: it stays pending
                self._finish(job, result)
                unsaved.append(job.row)
                now = time.perf_counter()
                if len(unsaved) >= ROWS_PER_COMMIT or now - saved > SECONDS_PER_COMMIT:
                    self._journal.put(unsaved)
                    unsaved, saved = [], now
                self._check_failures(result)
        except SesegError as error:
            self._stopped = self._stopped or error
        finally:
            jobs.close()
        if unsaved and self._stopped is None:
            self._journal.put(unsaved)
        elif unsaved:
            with contextlib.suppress(SesegError):  # it may be the journal's own disk that is full; the rows then stay pending
                self._journal.put(unsaved)
        result.seconds = time.perf_counter() - start
        result.stages = pipeline.reports
        result.stopped = self._stopped
        return result

    def _check_failures(self, result: StreamResult) -> None:
        limit = self._options.max_failures
        if limit is not None and result.quarantined > limit and self._stopped is None:
            self._give_up(
                StoppedError(
                    f"{result.quarantined} inputs failed, more than --max-failures {limit}",
                    "see quarantine.jsonl; the same command goes on",
                )
            )

    def _give_up(self, error: SesegError) -> None:
        self._stopped = self._stopped or error
        self._stop.set()

    # The source and the stages. Each answers for every job that it is given: by its result, or by `bad`.

    def _read(self, todo: Sequence[tuple[WorkItem, Row]]) -> Iterator[Job]:
        for item, row in todo:
            if self._stop.is_set():
                return
            job = Job(item, row)
            row.attempt += 1
            try:
                job.data = self._read_file(item.source, row)
            except BadImage as bad:
                job.bad = bad
            except OSError as error:
                job.bad = BadImage(*describe_os_error(error))
            else:
                job.held = len(job.data) + BYTES_PER_PIXEL * self._lane.pixels(Source(item.identity, job.data))
                self._budget.take(job.held)
            yield job

    def _read_file(self, path: str, row: Row) -> bytes:
        # O_NONBLOCK: if a pipe has taken the file's place since the plan, opening it must not wait for a writer
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            before = os.fstat(file.fileno())
            row.size, row.mtime_ns = before.st_size, before.st_mtime_ns
            if before.st_size > self._options.max_file_bytes:
                raise BadImage(
                    "too_large", f"the file has {before.st_size} bytes, and --max-pixels admits none over {self._options.max_file_bytes}"
                )
            data = file.read(before.st_size + 1)
            after = os.fstat(file.fileno())
        if len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise BadImage("changed", "the file changed while it was read")
        if not data:
            raise BadImage("empty", "the file has 0 bytes")
        return data

    def _decode(self, batch: list[Job]) -> None:
        sources = [Source(job.item.identity, job.data) for job in batch]
        for job in batch:
            job.data = b""
        for job, frame in zip(batch, _each(self._lane.decode, sources, "decode_error"), strict=True):
            if isinstance(frame, BadImage):
                job.bad = frame
            else:
                job.frame, job.row.decoded_by = frame, frame.decoded_by

    def _infer(self, batch: list[Job]) -> None:
        try:
            self._lane.infer([_frame(job) for job in batch])
            self._engine_failures = 0
        except Exception as error:
            log.exception("inference failed on %d images", len(batch))
            for job in batch:
                job.bad = BadImage("engine_error", f"the network failed on it: {_sentence(error)}")
            self._engine_failures += 1
            if self._engine_failures >= ENGINE_FAILURES_IN_A_ROW:
                self._give_up(
                    error
                    if isinstance(error, SesegError)
                    else DeviceError(f"the network failed {self._engine_failures} times in a row: {_sentence(error)}")
                )

    def _composite(self, batch: list[Job]) -> None:
        def composite(frames: Sequence[Frame]) -> list[None]:
            self._lane.composite(frames)
            return [None] * len(frames)

        for job, failure in zip(batch, _each(composite, [_frame(job) for job in batch], "encode_error"), strict=True):
            job.bad = failure

    def _encode(self, batch: list[Job]) -> None:
        for job, encoded in zip(batch, _each(self._lane.encode, [_frame(job) for job in batch], "encode_error"), strict=True):
            if isinstance(encoded, BadImage):
                job.bad = encoded
            else:
                job.encoded = encoded

    def _write(self, batch: list[Job]) -> None:
        for job in batch:
            if self._disk_refused:
                continue
            names = self._naming.names(job.item.path)
            try:
                for kind, data in job.encoded.items():
                    job.row.outputs[names[kind]] = self._output.write(names[kind], data)
                job.row.finished = time.time()
            except BadImage as bad:
                job.bad = bad
            except StoppedError as error:
                self._disk_refused = True
                self._give_up(error)
            job.encoded = {}

    def _finish(self, job: Job, result: StreamResult) -> None:
        row = job.row
        if job.bad is not None:
            row.state, row.reason, row.message, row.finished = "quarantined", job.bad.reason, job.bad.message, time.time()
            # What an earlier attempt left under these names is of other bytes, or of half the kinds.
            for name in self._naming.names(job.item.path).values():
                self._output.remove(name)
                row.outputs[name] = None
            result.quarantined += 1
        else:
            row.state, row.reason, row.message = "done", None, None
            result.done += 1
            result.decoded_by[row.decoded_by or "unknown"] = result.decoded_by.get(row.decoded_by or "unknown", 0) + 1
            assert job.frame is not None
            result.pixels += job.frame.width * job.frame.height
        job.frame = None
        if self._on_commit is not None:
            self._on_commit(row)


def _each(work: Callable[[Sequence[In]], Sequence[Out | BadImage]], items: list[In], reason: ReasonCode) -> Sequence[Out | BadImage]:
    """Work on a batch; where the batch as a whole fails, on each item alone, so that only the guilty one is lost."""
    try:
        return work(items)
    except Exception as error:
        if len(items) > 1:
            return [_each(work, [item], reason)[0] for item in items]
        log.exception("an image failed in an unforeseen way")
        return [BadImage(reason, f"an unforeseen failure: {_sentence(error)}")]


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _frame(job: Job) -> Frame:
    assert job.frame is not None
    return job.frame
