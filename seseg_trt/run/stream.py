"""Read, decode, infer, composite, encode and write a run's inputs, overlapped, with nothing lost and nothing half done."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from ..errors import BadImage, DeviceError, SesegError, StoppedError
from ..inputs.item import describe_os_error
from ..inputs.read import read_source, stat_source
from ..lanes.base import Frame, Lane, Source
from ..options import StreamOptions
from ..outputs.base import Outputs
from ..outputs.naming import Naming
from .job import Job, Outcome, each, frame_of, sentence
from .pipeline import ByteBudget, HungError, Pipeline, Stage, StageReport
from .work import Work

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = 20
"""What an image holds in flight: 4 decoded (Pillow pads RGB), 4 composited, 3 as an array, 3 filtered, the mask, the encoded bytes."""

ENGINE_FAILURES_IN_A_ROW = 3


class Stream:
    """Runs tasks through a lane.

    Args:
        lane: decodes, infers, composites and encodes.
        outputs: where the results go.
        naming: of the outputs.
        options: how hard to run.
        work: gives tasks and takes outcomes.

    Attributes:
        reports: how each stage fares.
    """

    def __init__(self, lane: Lane, outputs: Outputs, naming: Naming, options: StreamOptions, work: Work) -> None:
        self._lane = lane
        self._outputs = outputs
        self._naming = naming
        self._work = work
        self._max_file_bytes = options.max_file_bytes
        self._budget = ByteBudget(options.memory)
        self._engine_failures = 0
        self._disk_refused = False
        workers, limit, readers = options.workers, options.timeout, options.readers
        self._pipeline = Pipeline(
            self._jobs(),
            [
                Stage("read", self._read, workers=readers),
                Stage("decode", self._decode, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("infer", self._infer, workers=lane.infer_workers, batch=lane.batch_size, limit=limit),
                Stage("composite", self._composite, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("encode", self._encode, workers=workers, batch=lane.batch_size, limit=limit),
                Stage("write", self._write, workers=max(workers, readers)),
            ],
            lambda job: job.bad is not None,
            self._budget.close,
        )

    @property
    def reports(self) -> list[StageReport]:
        """How each stage fares."""
        return self._pipeline.reports

    def oldest(self) -> tuple[int, str, float] | None:
        """Return the number of the task that has been in hand for the longest time, the stage's name and the seconds."""
        found = self._pipeline.oldest()
        return None if found is None else (found[0].task.number, *found[1:])

    def run(self) -> None:
        """Do all tasks; return when each has been answered for, or the run is stopped."""
        jobs = iter(self._pipeline)
        try:
            for job in jobs:
                if job is not None:
                    self._budget.give(job.held)
                    if job.bad is not None or job.written:  # else the disk refused its outputs: it stays pending
                        self._settle(job)
                        self._work.add(job.outcome)
                self._work.look()
            self._work.look(last=True)
        except HungError as error:
            self._work.look(last=True)
            self._work.hung(error)
        except SesegError as error:
            self._work.stop(error)
        except BaseException:
            self._work.stop(None)  # the reader may wait for tasks
            raise
        finally:
            jobs.close()

    # The source and the stages. Each answers for every job that it is given: by its result, or by `bad`.

    def _jobs(self) -> Iterator[Job]:
        for task in self._work:
            yield Job(task, Outcome(task.number))

    def _read(self, batch: list[Job]) -> float:
        waited = 0.0

        def asked(take: Callable[..., None], *amounts: int) -> None:
            nonlocal waited
            begun = time.perf_counter()
            take(*amounts)
            waited += time.perf_counter() - begun

        for job in batch:
            item = job.task.item

            def admit(size: int, job: Job = job) -> None:
                asked(self._budget.take, size)
                job.held = size

            try:
                job.data, job.outcome.stat = read_source(item, self._max_file_bytes, admit)
            except BadImage as bad:
                job.fail(bad)
                with contextlib.suppress(OSError):
                    job.outcome.stat = stat_source(item)
            except OSError as error:
                job.fail(BadImage(*describe_os_error(error)))
            except Exception as error:
                log.exception("reading failed in an unforeseen way")
                job.fail(BadImage("unreadable", f"an unforeseen failure: {sentence(error)}"))
            else:
                held = len(job.data) + BYTES_PER_PIXEL * self._lane.pixels(Source(item.identity, job.data))
                asked(self._budget.grow, job.held, held)
                job.held = held
        return waited

    def _decode(self, batch: list[Job]) -> None:
        sources = [Source(job.task.item.identity, job.data) for job in batch]
        for job, frame in zip(batch, each(self._lane.decode, sources, "decode_error"), strict=True):
            job.data = b""
            if isinstance(frame, BadImage):
                job.fail(frame)
            else:
                job.frame, job.outcome.decoded_by = frame, frame.decoded_by

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
            batch[0].fail(BadImage("engine_error", f"the network failed on it: {sentence(error)}"))
            self._engine_failures += 1
            if self._engine_failures >= ENGINE_FAILURES_IN_A_ROW:
                message = f"the network failed {self._engine_failures} times in a row: {sentence(error)}"
                self._work.stop(error if isinstance(error, SesegError) else DeviceError(message, "the log in the state folder has more"))

    def _composite(self, batch: list[Job]) -> None:
        def composite(frames: Sequence[Frame]) -> list[None]:
            self._lane.composite(frames)
            return [None] * len(frames)

        for job, failure in zip(batch, each(composite, [frame_of(job) for job in batch], "encode_error"), strict=True):
            if failure is not None:
                job.fail(failure)

    def _encode(self, batch: list[Job]) -> None:
        for job, encoded in zip(batch, each(self._lane.encode, [frame_of(job) for job in batch], "encode_error"), strict=True):
            if isinstance(encoded, BadImage):
                job.fail(encoded)
            else:
                job.encoded = encoded

    def _write(self, batch: list[Job]) -> None:
        for job in batch:
            if self._disk_refused:
                continue
            names = self._naming.names(job.task.item.path)
            try:
                for kind, data in job.encoded.items():
                    job.outcome.outputs[kind] = self._outputs.write(names[kind], data)
                job.written = True
            except BadImage as bad:
                job.fail(bad)
            except StoppedError as error:
                self._disk_refused = True
                self._work.stop(error)
            except Exception as error:
                log.exception("writing failed in an unforeseen way")
                job.fail(BadImage("encode_error", f"an unforeseen failure: {sentence(error)}"))
            job.encoded = {}

    def _settle(self, job: Job) -> None:
        """Complete the outcome of a job that is through."""
        outcome = job.outcome
        if job.bad is not None:
            outcome.reason, outcome.message, outcome.outputs = job.bad.reason, job.bad.message, {}
            # What an earlier attempt left under these names is of other bytes, or of half the kinds.
            for name in self._naming.names(job.task.item.path).values():
                self._outputs.remove(name)
        else:
            frame = frame_of(job)
            outcome.pixels, outcome.measured = frame.width * frame.height, frame.measured
        job.frame = None
