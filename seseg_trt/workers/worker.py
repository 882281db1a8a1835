"""A worker process: a lane of its own, tasks from the parent, outcomes to the parent."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DeviceError, SesegError
from ..lanes.select import open_lane
from ..outputs.select import open_outputs
from ..run.job import Outcome, Task, sentence
from ..run.pipeline import HungError
from ..run.spec import RunSpec
from ..run.stream import Stream
from ..run.work import Work
from .channel import Channel, error_to_json, outcome_to_json, reports_to_json, task_from_json

if TYPE_CHECKING:
    from ..backends.base import Backend

SECONDS_PER_BEAT = 0.5
SECONDS_PER_MESSAGE = 0.25
OUTCOMES_PER_MESSAGE = 256
KILLED_FIRST = "500"
"""Added to this process's score when the kernel looks for one to kill for memory: the parent must outlive it."""
_PR_SET_PDEATHSIG = 1


class ParentWork(Work):
    """Tasks that the parent sends.

    Args:
        channel: to the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._unsent: list[Outcome] = []
        self._sent = time.monotonic()

    def listen(self) -> None:
        """Take what the parent sends, until it ends or is gone; in a thread of its own."""
        while True:
            try:
                messages = self._channel.receive()
            except BaseException:
                os._exit(1)  # the parent has died, and with it whoever would commit what is made here
            with self._changed:
                for kind, *content in messages:
                    if kind == "tasks":
                        self._tasks.extend(map(task_from_json, content[0]))
                    else:  # "end": no more will come; "stop": begin nothing more
                        self._ended = True
                        if kind == "stop":
                            self._tasks.clear()
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Task]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._ended)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
            yield task

    def add(self, outcome: Outcome) -> None:
        self._unsent.append(outcome)

    def look(self, *, last: bool = False) -> None:
        if not self._unsent:
            return
        due = last or not self._tasks or len(self._unsent) >= OUTCOMES_PER_MESSAGE
        if due or time.monotonic() - self._sent > SECONDS_PER_MESSAGE:
            unsent, self._unsent = self._unsent, []
            self._channel.send_all([("done", outcome_to_json(outcome)) for outcome in unsent])
            self._sent = time.monotonic()

    def hung(self, error: HungError) -> NoReturn:
        self._channel.send("hung", [[[job.task.number for job in jobs], stage] for jobs, stage in error.batches])
        os._exit(1)  # a thread can't be ended, but a process can

    def stop(self, error: SesegError | None) -> None:
        if error is not None:
            self._channel.send("stopped", error_to_json(error))
        with self._changed:
            self._tasks.clear()
            self._ended = True
            self._changed.notify_all()


def serve(channel: Channel) -> None:
    """Do what the parent sends. The parent's first message says what kind of work it is."""
    messages: list[Any] = []
    while not messages:  # a pickled backend may come in many pieces
        messages = channel.receive()
    ((_, spec_json, pickled),) = messages
    spec = RunSpec.from_json(spec_json)
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)
    with contextlib.ExitStack() as stack:
        try:
            lane = open_lane(
                _artifact(spec),
                spec.lane,
                device=spec.device,
                backend=_ready_backend(pickled) or spec.backend,
                threads=spec.threads,
                progress=lambda phase, done, total: channel.send("loading", phase, done, total),
            )
            stack.callback(lane.close)
            outputs = open_outputs(spec.target, Path(spec.state), durable=spec.durable)
        except Exception as error:
            logging.exception("the worker can't begin")
            known = error if isinstance(error, SesegError) else DeviceError(f"a worker could not begin: {sentence(error)}")
            channel.send("failed", error_to_json(known))
            return
        work = ParentWork(channel)
        stream = Stream(lane, outputs, spec.naming, spec.stream, work)
        threading.Thread(target=work.listen, name="seseg-listen", daemon=True).start()
        threading.Thread(target=_beat, args=(channel, stream), name="seseg-beat", daemon=True).start()
        channel.send("ready", lane.description, lane.batch_size)
        stream.run()
        channel.send("ended", reports_to_json(stream.reports))


def _artifact(spec: RunSpec) -> Any:
    from ..models.artifact import load_artifact

    return None if spec.model is None else load_artifact(Path(spec.model))


def _ready_backend(pickled: str | None) -> Backend | None:
    """Return a backend that the caller of :func:`seseg_trt.segment_files` gave. It comes from the parent, which is trusted."""
    if pickled is None:
        return None
    backend: Backend = pickle.loads(base64.b64decode(pickled))
    return backend


def _beat(channel: Channel, stream: Stream) -> None:
    """Tell the parent now and then how each stage fares, and what has been in hand for the longest time."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(SECONDS_PER_BEAT)
            channel.send("beat", reports_to_json(stream.reports), stream.oldest())


def _live_as_long_as(parent: int) -> None:
    """Die with the parent, however it dies, and before it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(KILLED_FIRST)


def main() -> None:
    """Serve, and end without taking the interpreter down piece by piece."""
    descriptor, parent = map(int, sys.argv[1:])
    _live_as_long_as(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    try:
        serve(Channel(socket.socket(fileno=descriptor)))
    except BaseException:
        logging.exception("the worker fails in an unforeseen way")
        os._exit(1)
    logging.shutdown()
    os._exit(0)
