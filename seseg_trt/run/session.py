"""A run over files from its plan to its summary, on a state folder that it owns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StoppedError
from ..journal.exports import check_results, write_quarantine, write_results
from ..journal.journal import JOURNAL, WORKERS, Journal
from ..journal.row import Row
from ..options import RunOptions
from ..outputs.base import Outputs
from ..outputs.packer import Packer
from ..outputs.select import open_outputs
from ..storage.atomic import temporary_name
from ..storage.locks import sole_owner
from .ledger import Ledger
from .pipeline import StageReport
from .plan import WorkPlan
from .resume import Identity, Remaining, find_remaining, forget_mended, refused_rows
from .spec import RunSpec
from .summary import Summary

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..models.artifact import Artifact

QUARANTINE = "quarantine.jsonl"
SPEC = "spec"
"""Under which key the journal keeps how its inputs were run."""


@dataclasses.dataclass
class RunObserver:
    """What a run tells while it goes; each is called in the calling thread.

    Attributes:
        planned: once, with the plan and what is left of it, before the network is loaded.
        loading: while a TensorRT plan is built: the phase, the steps done and the steps in all.
        started: once, when the network is loaded, with the function that stops the run (callable from a signal handler).
        committed: after each input, with its row.
    """

    planned: Callable[[WorkPlan, Remaining], None] = lambda plan, remaining: None
    loading: Callable[[str, int, int], None] = lambda phase, done, total: None
    started: Callable[[Callable[[], None]], None] = lambda stop: None
    committed: Callable[[Row], None] = lambda row: None


@dataclasses.dataclass
class Execution:
    """How a run's tasks were done.

    Attributes:
        reports: how each stage fared.
        seconds: from the first read to the last commit.
        description: of the lanes, in a line.
        workers: what each worker process did, in a line each.
    """

    reports: list[StageReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    description: str = "nothing to do"
    workers: list[str] = dataclasses.field(default_factory=list)


Execute = Callable[[RunSpec, Ledger, Outputs, RunObserver], Execution]


class Session:
    """One run.

    Args:
        plan: all inputs.
        spec: what to make of them.
        artifact: the model, or None with a ready backend.
        options: how it goes.
        observer: what to call while it goes.
        backend: a ready backend.
        begun: when the run began, on the clock of time.perf_counter.
        execute: does what the ledger hands out.
    """

    def __init__(
        self,
        plan: WorkPlan,
        spec: RunSpec,
        artifact: Artifact | None,
        options: RunOptions,
        observer: RunObserver,
        backend: Backend | None,
        begun: float,
        execute: Execute,
    ) -> None:
        self._plan = plan
        self._spec = spec
        self._artifact = artifact
        self._options = options
        self._observer = observer
        self._backend = backend
        self._begun = begun
        self._execute = execute
        self._state = Path(spec.state)

    def run(self) -> Summary:
        """Do it all.

        Raises:
            UsageError, ModelError, DeviceError, StoppedError: see :func:`seseg_trt.segment_files`.
        """
        certificate = self._check_certificate()
        if self._options.results is not None:
            check_results(Path(self._options.results))
        with contextlib.ExitStack() as stack:
            stack.enter_context(sole_owner(self._state))
            self._clear()
            journal = stack.enter_context(contextlib.closing(Journal(self._state / JOURNAL, durable=self._spec.durable)))
            outputs = open_outputs(self._spec.target, self._state, durable=self._spec.durable, journal=journal)
            packer = Packer(outputs, journal, self._options.tar_entries)
            remaining = self._resume(journal, outputs, packer)
            self._observer.planned(self._plan, remaining)
            limit = self._options.failures_allowed(self._plan.inputs)
            ledger = Ledger(journal, outputs, self._plan.naming, remaining.items, limit, self._observer.committed)
            startup = time.perf_counter() - self._begun
            done = Execution()
            with packer.at_work():
                if remaining.items:
                    outputs.prepare()
                    try:
                        done = self._execute(self._spec, ledger, outputs, self._observer)
                    except StoppedError as error:  # the journal can't be written, for one
                        ledger.stop(error)
                    startup = time.perf_counter() - self._begun - done.seconds
            left = len(remaining.items) - ledger.tally.settled
            unpacked = self._finish(journal, packer, ledger, whole=not left)
            reasons = journal.reasons()
        return self._summary(remaining, ledger, done, startup, left, unpacked, certificate, reasons)

    def _clear(self) -> None:
        """Remove what a parent of workers that was killed left in the state folder."""
        path = self._state / WORKERS
        for name in (path, temporary_name(path)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _check_certificate(self) -> str:
        if self._artifact is None:
            return ""
        from ..models.certificate import certificate_line, require_certificate

        if self._options.require_certificate:
            require_certificate(self._artifact)
        return certificate_line(self._artifact)

    def _resume(self, journal: Journal, outputs: Outputs, packer: Packer) -> Remaining:
        identity = Identity(self._spec.lane.digest(), self._spec.identity, self._changes(journal))
        packer.check(self._options.overwrite)
        remaining = find_remaining(self._plan, journal, outputs, identity, self._options.policy)
        journal.put(refused_rows(self._plan, journal, identity, time.time()))
        forget_mended(self._plan, journal)
        packer.begin(self._plan.items)
        journal.set_meta(SPEC, json.dumps(self._spec.to_json()))
        return remaining

    def _changes(self, journal: Journal) -> str:
        """Return what options are other than in the run before, each with both values."""
        before = json.loads(journal.get_meta(SPEC) or "null")
        if before is None:
            return ""
        then, now = before["lane"], json.loads(json.dumps(self._spec.to_json()))["lane"]
        return "; ".join(
            f"{name} {then[group].get(name)} then, {value} now"
            for group in ("masks", "decoding", "encoding")
            for name, value in now[group].items()
            if then[group].get(name) != value and name not in ("outputs", "max_pixels", "frames")
        )

    def _finish(self, journal: Journal, packer: Packer, ledger: Ledger, *, whole: bool) -> int:
        """Pack, and write the records; return how many tars have to wait. What goes wrong stops the run."""
        unpacked = 0
        try:
            unpacked = packer.finish(whole=whole)
        except StoppedError as error:
            ledger.stop(error)
        quarantine = self._state / QUARANTINE
        try:
            write_quarantine(journal, quarantine)
            if self._options.results is not None:
                write_results(journal, Path(self._options.results), self._spec.target, self._spec.lane.masks.threshold)
        except OSError as error:
            ledger.stop(
                StoppedError(
                    f"{quarantine} can't be written: {error.strerror}",
                    "the journal beside it has the same records: mend the disk and run the same command again",
                )
            )
        except StoppedError as error:
            ledger.stop(error)
        return unpacked

    def _summary(
        self,
        remaining: Remaining,
        ledger: Ledger,
        done: Execution,
        startup: float,
        left: int,
        unpacked: int,
        certificate: str,
        reasons: dict[str, int],
    ) -> Summary:
        plan, tally, artifact = self._plan, ledger.tally, self._artifact
        return Summary(
            inputs=plan.inputs,
            done=tally.done,
            skipped=remaining.skipped + plan.ignored,
            quarantined=tally.quarantined + remaining.quarantined + len(plan.refused),
            left=left,
            seconds=done.seconds,
            startup_seconds=startup,
            decoded_by=dict(tally.decoded_by),
            megapixels=tally.pixels / 1e6,
            stages=tuple(done.reports),
            device=done.description,
            model=str(artifact or (self._backend.name if self._backend else "")),
            model_sha256=artifact.sha256 if artifact else "",
            certificate=certificate,
            output_dir=self._spec.target,
            state_dir=self._state,
            workers=tuple(done.workers),
            reasons=reasons,
            results=self._options.results,
            unpacked=unpacked,
            stopped=ledger.stopped,
        )


def run_here(artifact: Artifact | None, backend: Backend | None) -> Execute:
    """Return what does a run's tasks in the caller's process."""

    def execute(spec: RunSpec, ledger: Ledger, outputs: Outputs, observer: RunObserver) -> Execution:
        from ..lanes.select import open_lane
        from .stream import Stream
        from .work import LocalWork

        ready = backend or spec.backend
        lane = open_lane(artifact, spec.lane, device=spec.device, backend=ready, threads=spec.threads, progress=observer.loading)
        with contextlib.closing(lane):
            work = LocalWork(ledger, spec.stream.timeout)
            stream = Stream(lane, outputs, spec.naming, spec.stream, work)
            observer.started(lambda: work.stop(None))
            begun = time.perf_counter()
            stream.run()
            return Execution(stream.reports, time.perf_counter() - begun, lane.description)

    return execute
