"""One process a device, over one work plan.

The parent holds the plan and hands out some inputs at a time to whoever asks for more; each child has its own lane and its own claims in
the journal. What was handed to a child that dies is handed out again.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ..backends.select import check_device
from ..errors import DeviceError, SesegError, UsageError
from .claims import SharedWork
from .job import sentence
from .journal import Journal, Row
from .pipeline import StageReport
from .presence import Presence
from .scan import WorkItem
from .stream import StreamResult

ITEMS_AT_ONCE = 64

Ask = Callable[[set[bytes]], Sequence[WorkItem]]


def split_devices(text: str) -> list[str]:
    """Return the devices that ``cuda:0,1`` or ``cpu,cpu`` names, one by one.

    Raises:
        UsageError: one of them is no device, or a GPU is named twice.
    """
    devices: list[str] = []
    for part in text.split(","):
        kind = devices[-1].partition(":")[0] if devices else ""
        devices.append(f"{kind}:{part}" if re.fullmatch(r"\d+", part) and kind else part)
    for device in devices:
        check_device(device)
    if len(set(devices)) < len(devices) and set(devices) != {"cpu"}:
        raise UsageError(f"{text!r} names a device twice", "name each once: a GPU has one process")
    return devices


def every_device(text: str) -> list[str]:
    """Return the devices that a text names, with ``cuda`` as every GPU of this machine.

    Raises:
        UsageError: see :func:`split_devices`.
    """
    if text != "cuda":
        return split_devices(text)
    from ..driver import driver_report

    try:
        count = len(driver_report().gpus)
    except DeviceError:
        count = 1  # making the lane says what is missing
    return [f"cuda:{index}" for index in range(count)] if count > 1 else ["cuda"]


class HandedWork:
    """In a child: the inputs that the parent hands out, as this child's own work.

    Args:
        journal, presence: of this child.
        ask: asks the parent for more, given what of the last inputs others have done; returns nothing when there is no more.
    """

    def __init__(self, journal: Journal, presence: Presence, ask: Ask) -> None:
        self._journal = journal
        self._presence = presence
        self._ask = ask
        self._stopped = False
        self._current: SharedWork | None = None
        self.done_elsewhere = 0
        self.quarantined_elsewhere = 0

    def stop(self) -> None:
        """See :class:`seseg_trt.run.claims.Work`."""
        self._stopped = True
        if self._current is not None:
            self._current.stop()

    def __iter__(self) -> Iterator[tuple[WorkItem, Row]]:
        elsewhere: set[bytes] = set()
        while not self._stopped and (items := self._ask(elsewhere)):
            elsewhere = {item.identity for item in items}
            self._current = SharedWork(self._journal, self._presence, items)
            if self._stopped:
                return
            for item, row in self._current:
                elsewhere.discard(item.identity)
                yield item, row
            self._current.settle()
            self.done_elsewhere += self._current.done_elsewhere
            self.quarantined_elsewhere += self._current.quarantined_elsewhere


@dataclasses.dataclass
class _Child:
    device: str
    process: Any
    connection: Connection
    handed: dict[bytes, WorkItem] = dataclasses.field(default_factory=dict)
    alive: bool = True
    asks: bool = False


@dataclasses.dataclass
class Supervised:
    """What the children did together.

    Attributes:
        result: as of one stream.
        description: of all their lanes.
        done_elsewhere, quarantined_elsewhere: inputs that processes of other runs did.
    """

    result: StreamResult
    description: str = ""
    done_elsewhere: int = 0
    quarantined_elsewhere: int = 0


class Supervisor:
    """Runs a child process for each device.

    Args:
        devices: their names.
        target: a function at the top of a module: ``target(device, arguments, connection)``, which serves as :func:`serve` says.
        arguments: for it; they are pickled.
        on_commit: called in the calling thread for each row that a child committed.
    """

    def __init__(
        self, devices: Sequence[str], target: Callable[[str, Any, Connection], None], arguments: Any, on_commit: Callable[[Row], None]
    ) -> None:
        self._devices = devices
        self._target = target
        self._arguments = arguments
        self._on_commit = on_commit
        self._children: list[_Child] = []
        self._returned: list[WorkItem] = []
        self._waiting: Iterator[WorkItem] = iter(())
        self._lost: list[str] = []
        self._stopped = False
        self._told = False

    def stop(self) -> None:
        """Begin no further input. May be called from a signal handler."""
        self._stopped = True

    def run(self, items: Sequence[WorkItem]) -> Supervised:
        """Do all items; return when every child has ended.

        Raises:
            SesegError: a child could not begin: a named device is a promise.
        """
        context = multiprocessing.get_context("spawn")  # CUDA and OpenVINO don't survive a fork
        for device in self._devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=self._target, args=(device, self._arguments, theirs), daemon=True, name=f"seseg {device}")
            process.start()
            theirs.close()
            self._children.append(_Child(device, process, ours))
        found = Supervised(StreamResult())
        self._waiting = iter(items)
        begun: float | None = None
        try:
            while living := [child for child in self._children if child.alive]:
                if self._stopped and not self._told:
                    self._told = True
                    for child in living:
                        _send(child, "stop")
                for ready in multiprocessing.connection.wait([child.connection for child in living], timeout=0.2):
                    self._hear(next(child for child in living if child.connection is ready), found)
                if begun is None and any(child.asks for child in living):
                    begun = time.perf_counter()
                self._hand_out([child for child in living if child.alive])
        finally:
            for child in self._children:
                child.connection.close()
                if child.process.is_alive():
                    child.process.terminate()
                child.process.join()
        if self._lost and found.result.stopped is None and not self._stopped and _take(self._returned, self._waiting, 1):
            found.result.stopped = DeviceError(
                f"the processes of all devices died: {', '.join(self._lost)}",
                "the same command goes on; the state folder's log may say more",
            )
        found.result.seconds = time.perf_counter() - begun if begun else 0.0
        return found

    def _hear(self, child: _Child, found: Supervised) -> None:
        try:
            kind, content = child.connection.recv()
        except (EOFError, ConnectionResetError):
            child.alive = child.asks = False
            child.process.join()
            if child.process.exitcode:
                self._lost.append(f"{child.device} (exit code {child.process.exitcode})")
                self._returned += child.handed.values()
            child.handed = {}
            return
        if kind == "more":
            for path in content:
                child.handed.pop(path, None)
            child.asks = True
        elif kind == "row":
            child.handed.pop(content.path, None)
            self._on_commit(content)
            self._count(found.result, content)
        elif kind == "began":
            found.description = "; ".join(part for part in (found.description, f"{child.device}: {content}") if part)
        elif kind == "ended":
            self._merge(found, child, *content)
        else:
            raise content

    def _hand_out(self, living: list[_Child]) -> None:
        """Answer whoever asks. A child is kept waiting while others may still die and leave it something to do."""
        for child in living:
            if not child.asks:
                continue
            items = [] if self._stopped else _take(self._returned, self._waiting, ITEMS_AT_ONCE)
            if items or self._stopped or not any(other.handed for other in living):
                child.asks = False
                child.handed.update((item.identity, item) for item in items)
                _send(child, items)

    def _count(self, result: StreamResult, row: Row) -> None:
        if row.state == "quarantined":
            result.quarantined += 1
        else:
            result.done += 1
            decoder = row.decoded_by or "unknown"
            result.decoded_by[decoder] = result.decoded_by.get(decoder, 0) + 1

    def _merge(self, found: Supervised, child: _Child, result: StreamResult, elsewhere: tuple[int, int]) -> None:
        child.handed = {}
        found.result.pixels += result.pixels
        found.result.stopped = found.result.stopped or result.stopped
        if result.stopped is not None:
            self._stopped = True
        found.done_elsewhere += elsewhere[0]
        found.quarantined_elsewhere += elsewhere[1]
        if not found.result.stages:
            found.result.stages = [StageReport(stage.name, 0) for stage in result.stages]
        for total, stage in zip(found.result.stages, result.stages, strict=True):
            for name in ("workers", "jobs", "busy", "starved", "blocked"):
                setattr(total, name, getattr(total, name) + getattr(stage, name))
            total.queue_peak = max(total.queue_peak, stage.queue_peak)


def _take(returned: list[WorkItem], waiting: Iterator[WorkItem], count: int) -> list[WorkItem]:
    taken = [returned.pop() for _ in range(min(count, len(returned)))]
    while len(taken) < count and (item := next(waiting, None)) is not None:
        taken.append(item)
    return taken


def _send(child: _Child, message: object) -> None:
    try:
        child.connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return  # it has died; its end of the pipe will say so


def serve(connection: Connection, begin: Callable[[Ask, Callable[[Row], None]], Any]) -> None:
    """In a child: answer to the parent until the work ends.

    Args:
        connection: to the parent.
        begin: makes the lane and returns ``(description, stop, run)``: a line on it, the function that stops the work, and the one that does
            it and returns a StreamResult and how many inputs were done and quarantined elsewhere. It is given the function that asks for
            more inputs, and the one that takes each committed row.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when to stop
    answers: list[Sequence[WorkItem]] = []
    answered = threading.Condition()
    sending = threading.Lock()
    ended = False

    def send(kind: str, content: object) -> None:
        with sending:
            connection.send((kind, content))

    def ask(elsewhere: set[bytes]) -> Sequence[WorkItem]:
        send("more", elsewhere)
        with answered:
            answered.wait_for(lambda: answers or ended)
            return answers.pop() if answers else []

    try:
        description, stop, run = begin(ask, lambda row: send("row", row))
    except BaseException as error:
        send("failed", error if isinstance(error, SesegError) else DeviceError(f"a process could not begin: {sentence(error)}"))
        return

    def listen() -> None:
        nonlocal ended
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                message = "stop"  # the parent has died
                ended = True
            with answered:
                if message == "stop":
                    stop()
                    ended = True
                else:
                    answers.append(message)
                answered.notify_all()
            if ended and message == "stop":
                return

    threading.Thread(target=listen, name="seseg-listen", daemon=True).start()
    send("began", description)
    send("ended", run())
