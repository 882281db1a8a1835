"""What the process of one device does: its own lane and its own claims on the parent's work plan."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lanes.base import Lane, Measure
from ..lanes.select import open_lane
from ..options import DecodeOptions, EncodeOptions, MaskOptions
from .devices import Ask, HandedWork, serve
from .journal import Journal, Row
from .output import open_outputs
from .plan import Naming
from .presence import Presence
from .stream import Stream, StreamOptions, StreamResult

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..backends.base import Backend
    from ..backends.select import BackendName


@dataclasses.dataclass(frozen=True)
class ChildArguments:
    """Everything that a child needs; it is pickled.

    Attributes:
        artifact, masks, decoding, encoding, backend, threads, measure: of its lane: see :func:`seseg_trt.lanes.select.open_lane`.
        target, durable: where outputs go, and whether each is flushed.
        state: the folder of the journal.
        says: what its presence says: the same as its parent's.
        naming: of the outputs.
        stream: how hard to run.
    """

    artifact: Artifact | None
    masks: MaskOptions
    decoding: DecodeOptions
    encoding: EncodeOptions
    backend: BackendName | Backend | None
    threads: int | None
    measure: Measure
    target: str
    durable: bool
    state: Path
    says: dict[str, str]
    naming: Naming
    stream: StreamOptions


def open_child_lane(arguments: ChildArguments, device: str) -> Lane:
    """Return the lane that the arguments describe, on a device."""
    return open_lane(
        arguments.artifact,
        arguments.masks,
        arguments.decoding,
        arguments.encoding,
        device=device,
        backend=arguments.backend,
        threads=arguments.threads,
        measure=arguments.measure,
    )


def share_cores(arguments: ChildArguments, devices: Sequence[str]) -> ChildArguments:
    """Return the arguments for one of several processes on this machine: they share its cores and the memory in flight."""
    count = len(devices)
    threads = arguments.threads
    if threads is None and "cpu" in devices:
        threads = max(1, len(os.sched_getaffinity(0)) // count)
    stream = dataclasses.replace(arguments.stream, memory=arguments.stream.memory // count)
    return dataclasses.replace(arguments, threads=threads, stream=stream)


def run_child(device: str, arguments: ChildArguments, connection: Connection) -> None:
    """Serve the parent until the work ends."""
    with contextlib.ExitStack() as stack:

        def begin(ask: Ask, committed: Callable[[Row], None]) -> tuple[str, Callable[[], None], Callable[[], Any]]:
            lane = open_child_lane(arguments, device)
            stack.callback(lane.close)
            journal = stack.enter_context(contextlib.closing(Journal(arguments.state / "journal.sqlite", durable=arguments.durable)))
            presence = stack.enter_context(Presence(arguments.state / "runs", arguments.says))
            outputs = open_outputs(arguments.target, arguments.state, durable=arguments.durable)
            stack.callback(outputs.close)
            outputs.prepare()
            stream = Stream(lane, outputs, journal, arguments.naming, arguments.stream, committed)
            work = HandedWork(journal, presence, ask)

            def run() -> tuple[StreamResult, tuple[int, int]]:
                result = stream.run(work)
                journal.release(presence.name)
                return result, (work.done_elsewhere, work.quarantined_elsewhere)

            return lane.description, stream.stop, run

        serve(connection, begin)
