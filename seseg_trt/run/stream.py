"""Read, decode, infer, composite, encode, write and commit a run's inputs, overlapped, with nothing lost and nothing half done."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from ..errors import BadImage, DeviceError, SesegError, StoppedError
from ..lanes.base import Frame, Lane, Source
from .claims import Work
from .file_states import describe_os_error
from .job import Job, copy_job, each, frame_of, sentence
from .journal import Journal, Row
from .output import Outputs
from .pipeline import ByteBudget, Pipeline, Stage, StageReport
from .plan import Naming
from .sources import read_source, stat_source

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = 20
"""What an image holds in flight: 4 decoded (Pillow pads RGB), 4 composited, 3 as an array, 3 filtered, the mask, the encoded bytes."""

ROWS_PER_COMMIT = 256
SECONDS_PER_COMMIT = 0.5
ENGINE_FAILURES_IN_A_ROW = 3
GIVEN_UP_AT_MOST = 32
"""Threads that hang hold memory and perhaps a core each; a run with more of them than this is going wrong."""


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """How hard to run.

    Attributes:
        workers: threads each for decoding, compositing and encoding.
        memory: bytes in flight, at most (a single larger image is let in alone).
        max_file_bytes: larger files are quarantined unread.
        max_failures: the run stops when more inputs than this fail; None: never.
        timeout: seconds that each of decoding, inferring, compositing and encoding may take for one image; None: for ever.
        readers: threads that read, and that write; more than one pays where each access takes long.
    """

    workers: int
    memory: int = 1 << 30
    max_file_bytes: int = 4 << 30
    max_failures: int | None = None
    timeout: float | None = None
    readers: int = 1


@dataclasses.dataclass
class StreamResult:
    """What a stream did.

    Attributes:
        done, quarantined: inputs that were committed by this run.
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
        outputs: where the results go; prepared.
        journal: where they are recorded.
        naming: of the outputs.
        options: how hard to run.
        on_commit: called in the calling thread for each row when it has been committed.
    """

    def __init__(
        self,
        lane: Lane,
        outputs: Outputs,
        journal: Journal,
        naming: Naming,
        options: StreamOptions,
        on_commit: Callable[[Row], None] | None = None,
    ) -> None:
        self._lane = lane
        self._outputs = outputs
        self._journal = journal
        self._naming = naming
        self._options = options
        self._on_commit = on_commit
        self._budget = ByteBudget(options.memory)
        self._stop = False  # no Event: its lock could be held by the very thread that a signal interrupts
        self._work: Work | None = None
        self._stopped: SesegError | None = None
        self._engine_failures = 0
        self._disk_refused = False

    def stop(self) -> None:
        """Begin no further input; those in flight are finished and committed. May be called from any thread or a signal handler."""
        self._stop = True
        if self._work is not None:
            self._work.stop()

    def run(self, work: Work) -> StreamResult:
        """Mask everything in ``work``; return when all of it is committed, or the run is stopped."""
        self._work = work
        if self._stop:
            work.stop()
        result = StreamResult()
        pipeline = self._pipeline(work)
        start = saved = time.perf_counter()
        unsaved: list[Job] = []
        jobs = iter(pipeline)
        try:
            for job in jobs:
                if job is not None:
                    self._budget.give(job.held)
                    if job.bad is not None or job.row.finished is not None:  # else the disk refused its outputs: it stays pending
                        self._settle(job)
                        unsaved.append(job)
                now = time.perf_counter()
                if len(unsaved) >= ROWS_PER_COMMIT or now - saved > SECONDS_PER_COMMIT:
                    self._commit(unsaved, result)
                    unsaved, saved = [], now
                    self._check_failures(result, pipeline.given_up)
            self._commit(unsaved, result)
        except SesegError as error:
            self._stopped = self._stopped or error
        finally:
            self._budget.close()
            jobs.close()
        self._check_failures(result, pipeline.given_up)
        result.seconds = time.perf_counter() - start
        result.stages = pipeline.reports
        result.stopped = self._stopped
        return result

    def _pipeline(self, work: Work) -> Pipeline[Job]:
        lane, workers, limit = self._lane, self._options.workers, self._options.timeout
        return Pipeline(
            self._jobs(work),
            [
                Stage("read", self._read, workers=self._options.readers),
                Stage("decode", self._decode, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("infer", self._infer, workers=lane.infer_workers, batch=lane.batch_size, limit=limit),
                Stage("composite", self._composite, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("encode", self._encode, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("write", self._write, workers=max(workers, self._options.readers)),
            ],
            lambda job: job.bad is not None,
            copy_job,
            self._too_slow,
        )

    def _too_slow(self, job: Job, stage: str) -> Job:
        slow = copy_job(job)
        slow.bad = BadImage("timeout", f"to {stage} it took longer than the limit of {self._options.timeout:g} seconds (--timeout)")
        return slow

    def _commit(self, jobs: list[Job], result: StreamResult) -> None:
        """Write rows to the journal, and count them only then."""
        if not jobs:
            return
        self._journal.put(job.row for job in jobs)
        for job in jobs:
            row = job.row
            if row.state == "quarantined":
                result.quarantined += 1
            else:
                result.done += 1
                decoder = row.decoded_by or "unknown"
                result.decoded_by[decoder] = result.decoded_by.get(decoder, 0) + 1
                result.pixels += job.pixels
            if self._on_commit is not None:
                self._on_commit(row)

    def _check_failures(self, result: StreamResult, given_up: int) -> None:
        limit = self._options.max_failures
        if self._stopped is not None:
            return
        if limit is not None and result.quarantined > limit:
            self._give_up(
                StoppedError(
                    f"{result.quarantined} inputs failed, more than --max-failures allows ({limit})",
                    "quarantine.jsonl has the reasons; the same command goes on",
                )
            )
        elif given_up > GIVEN_UP_AT_MOST:
            self._give_up(
                StoppedError(
                    f"{given_up} images took longer than --timeout {self._options.timeout:g}, and their threads can't be ended",
                    "the same command goes on, in a fresh process; a longer --timeout, where the machine is only slow",
                )
            )

    def _give_up(self, error: SesegError) -> None:
        self._stopped = self._stopped or error
        self.stop()

    # The source and the stages. Each answers for every job that it is given: by its result, or by `bad`.

    def _jobs(self, work: Work) -> Iterator[Job]:
        for item, row in work:
            if self._stop:
                return
            yield Job(item, row)

    def _read(self, batch: list[Job]) -> float:
        waited = 0.0
        for job in batch:
            row = job.row
            row.attempt += 1
            try:
                job.data, row.size, row.mtime_ns = read_source(job.item, self._options.max_file_bytes)
            except BadImage as bad:
                job.bad = bad
                with contextlib.suppress(OSError):
                    row.size, row.mtime_ns = stat_source(job.item)
            except OSError as error:
                job.bad = BadImage(*describe_os_error(error))
            except Exception as error:
                log.exception("reading failed in an unforeseen way")
                job.bad = BadImage("unreadable", f"an unforeseen failure: {sentence(error)}")
            else:
                held = len(job.data) + BYTES_PER_PIXEL * self._lane.pixels(Source(job.item.identity, job.data))
                asked = time.perf_counter()
                self._budget.take(held)
                waited += time.perf_counter() - asked
                job.held = held
        return waited

    def _decode(self, batch: list[Job]) -> None:
        sources = [Source(job.item.identity, job.data) for job in batch]
        for job, frame in zip(batch, each(self._lane.decode, sources, "decode_error"), strict=True):
            job.data = b""
            if isinstance(frame, BadImage):
                job.bad = frame
            else:
                job.frame, job.row.decoded_by = frame, frame.decoded_by

    def _infer(self, batch: list[Job]) -> None:
        try:
            self._lane.infer([frame_of(job) for job in batch])
            self._engine_failures = 0
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._infer([job])
                return
            log.exception("inference failed")
            batch[0].bad = BadImage("engine_error", f"the network failed on it: {sentence(error)}")
            self._engine_failures += 1
            if self._engine_failures >= ENGINE_FAILURES_IN_A_ROW:
                message = f"the network failed {self._engine_failures} times in a row: {sentence(error)}"
                self._give_up(error if isinstance(error, SesegError) else DeviceError(message, "the log in the state folder has more"))

    def _composite(self, batch: list[Job]) -> None:
        def composite(frames: Sequence[Frame]) -> list[None]:
            self._lane.composite(frames)
            return [None] * len(frames)

        for job, failure in zip(batch, each(composite, [frame_of(job) for job in batch], "encode_error"), strict=True):
            job.bad = failure

    def _encode(self, batch: list[Job]) -> None:
        for job, encoded in zip(batch, each(self._lane.encode, [frame_of(job) for job in batch], "encode_error"), strict=True):
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
                    job.row.outputs[names[kind]] = self._outputs.write(names[kind], data)
                job.row.finished = time.time()
            except BadImage as bad:
                job.bad = bad
            except StoppedError as error:
                self._disk_refused = True
                self._give_up(error)
            except Exception as error:
                log.exception("writing failed in an unforeseen way")
                job.bad = BadImage("encode_error", f"an unforeseen failure: {sentence(error)}")
            job.encoded = {}

    def _settle(self, job: Job) -> None:
        """Say in its row what has become of a job."""
        row = job.row
        if job.bad is not None:
            row.state, row.reason, row.message, row.finished = "quarantined", job.bad.reason, job.bad.message, time.time()
            row.measured = None
            # What an earlier attempt left under these names is of other bytes, or of half the kinds.
            for name in self._naming.names(job.item.path).values():
                self._outputs.remove(name)
                row.outputs[name] = None
        else:
            row.state, row.reason, row.message = "done", None, None
            frame = frame_of(job)
            job.pixels, row.measured = frame.width * frame.height, frame.measured
        job.frame = None
