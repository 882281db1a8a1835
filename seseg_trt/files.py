"""The public API on files: :func:`segment_files`."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache
from .backends.select import BackendName, check_device, create_backend
from .errors import StoppedError, UsageError
from .options import DecodeOptions, EncodeOptions, MaskOptions, digest
from .run.journal import Journal, Row
from .run.output import STATE_NAME, OutputFolder, RunLock
from .run.plan import Naming, WorkPlan, make_plan
from .run.report import Summary
from .run.resume import Identity, OnChange, Overwrite, Todo, find_todo, plan_rows
from .run.stream import Stream, StreamOptions, StreamResult

if TYPE_CHECKING:
    from .backends.base import Backend
    from .lanes.base import Lane


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run over files goes; none of it changes an output's bytes.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: force one; None: the artifact and the device decide.
        threads: cores for a CPU backend; None: all.
        workers: threads each for decoding, compositing and encoding; None: as many as cores, 4 at most.
        memory: bytes of images in flight, at most.
        keep_suffix: the input's suffix stays in the outputs' names.
        base: what names are relative to; None: see the README's section on inputs.
        state_dir: where the journal is kept; None: ``OUTPUT_DIR/.seseg``.
        on_change: inputs done with other options or another model: ``refuse`` or ``redo``.
        overwrite: outputs that no journal knows: None refuses, ``skip``, ``redo``.
        durable: flush every output to the disk.
        retry: try all that was quarantined again.
        max_failures: stop when more inputs than this fail; a float is a share of all inputs.
    """

    device: str = "auto"
    backend: BackendName | None = None
    threads: int | None = None
    workers: int | None = None
    memory: int = 1 << 30
    keep_suffix: bool = False
    base: str | None = None
    state_dir: str | None = None
    on_change: OnChange = "refuse"
    overwrite: Overwrite | None = None
    durable: bool = False
    retry: bool = False
    max_failures: int | float | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        for name in ("threads", "workers", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} can't be {value}", "give 1 or more")


@dataclasses.dataclass
class Watch:
    """What a run tells while it goes; each is called in the calling thread.

    Attributes:
        planned: once, with the plan and what is left of it, before the network is loaded.
        started: once, with the function that stops the run (callable from a signal handler).
        committed: after each input, with its row.
    """

    planned: Callable[[WorkPlan, Todo], None] = lambda plan, todo: None
    started: Callable[[Callable[[], None]], None] = lambda stop: None
    committed: Callable[[Row], None] = lambda row: None


def plan_files(
    inputs: Sequence[str],
    output_dir: str,
    *,
    masks: MaskOptions,
    encoding: EncodeOptions,
    options: RunOptions,
    listed: Sequence[str] | None = None,
) -> WorkPlan:
    """Find all inputs and name their outputs, without touching anything. See :func:`seseg_trt.run.plan.make_plan`."""
    naming = Naming(masks.outputs, encoding.format, options.keep_suffix)
    return make_plan(inputs, output_dir, naming, listed=listed, base=options.base, state_dir=options.state_dir)


def segment_files(
    inputs: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    masks: MaskOptions | None = None,
    decoding: DecodeOptions | None = None,
    encoding: EncodeOptions | None = None,
    options: RunOptions | None = None,
    listed: Sequence[str] | None = None,
    watch: Watch | None = None,
    backend: Backend | None = None,
) -> Summary:
    """Mask files into a folder; resume if it was begun before.

    Args:
        inputs: files, folders (recursively) and globs.
        output_dir: made when it is not there. The inputs' tree is mirrored in it; the run's state lies in its ``.seseg``.
        model: as for :class:`seseg_trt.Segmenter`.
        masks, decoding, encoding, options: what to make, and how; None means the defaults.
        listed: more paths.
        watch: what to call while it goes.
        backend: a ready backend in place of a model (for tests).

    Returns:
        The summary; ``summary.quarantined`` counts what could not be masked, and a run that was ended early says so in ``stopped``.

    Raises:
        UsageError: nothing has been written: arguments that exclude each other, colliding outputs, another run at work.
        ModelError, DeviceError: the network can't be run; nothing has been masked.
        StoppedError: the output folder or the state folder can't be written at all.
    """
    masks, decoding, encoding = masks or MaskOptions(), decoding or DecodeOptions(), encoding or EncodeOptions()
    options, watch = options or RunOptions(), watch or Watch()
    begun = time.perf_counter()
    root = Path(output_dir)
    plan = plan_files([os.fspath(i) for i in inputs], str(root), masks=masks, encoding=encoding, options=options, listed=listed)
    artifact = None if backend is not None else cache.find_model(model)
    identity = Identity(
        digest(*_deciding(masks, decoding, encoding)),
        "backend:" + backend.name if artifact is None and backend else artifact.sha256 if artifact else "",
    )
    state = Path(options.state_dir) if options.state_dir else root / STATE_NAME
    with RunLock(state):
        journal = Journal(state / "journal.sqlite", durable=options.durable)
        try:
            todo = find_todo(plan, journal, root, identity, on_change=options.on_change, overwrite=options.overwrite, retry=options.retry)
            journal.put(plan_rows(plan, identity, time.time()))
            watch.planned(plan, todo)
            result, description = StreamResult(), "nothing to do"
            startup = time.perf_counter() - begun
            if todo.items:
                if backend is None:
                    assert artifact is not None
                    backend = create_backend(artifact, backend=options.backend, device=options.device, threads=options.threads)
                output = OutputFolder(root, durable=options.durable)
                lane = _make_lane(backend, masks, decoding, encoding)
                description = lane.description
                startup = time.perf_counter() - begun
                try:
                    stream = Stream(lane, output, journal, plan.naming, _stream_options(options, decoding, plan.inputs), watch.committed)
                    watch.started(stream.stop)
                    result = stream.run(todo.items)
                finally:
                    lane.close()
                    output.close()
            _write_quarantine(journal, state / "quarantine.jsonl", result)
        finally:
            journal.close()
    return Summary(
        inputs=plan.inputs,
        done=result.done,
        skipped=todo.skipped + plan.ignored,
        quarantined=result.quarantined + todo.quarantined + len(plan.refused),
        left=len(todo.items) - result.done - result.quarantined,
        seconds=result.seconds,
        startup_seconds=startup,
        decoded_by=result.decoded_by,
        megapixels=result.pixels / 1e6,
        stages=tuple(result.stages),
        device=description,
        model=str(artifact or (backend.name if backend else "")),
        model_sha256=artifact.sha256 if artifact else "",
        output_dir=root,
        state_dir=state,
        stopped=result.stopped,
    )


def _make_lane(backend: Backend, masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions) -> Lane:
    from .lanes.cpu import CPULane

    return CPULane(backend, masks, decoding, encoding)


def _deciding(masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions) -> tuple[MaskOptions, DecodeOptions, EncodeOptions]:
    """Return the options with everything neutral that can't change an output's bytes, so that it is not taken for a change.

    The kinds of output don't: each has a name of its own. A higher bound on pixels changes who is quarantined, not how a mask looks.
    """
    return (
        dataclasses.replace(masks, outputs=(), seed=masks.seed if masks.color == "random" else 0),
        dataclasses.replace(decoding, max_pixels=1),
        EncodeOptions(encoding.format) if encoding.format == "png" else encoding,
    )


def _stream_options(options: RunOptions, decoding: DecodeOptions, inputs: int) -> StreamOptions:
    cores = len(os.sched_getaffinity(0))
    limit = options.max_failures
    return StreamOptions(
        workers=options.workers or min(4, cores),
        memory=options.memory,
        # the largest honest file: 16-bit RGBA, uncompressed, with room for its metadata
        max_file_bytes=decoding.max_pixels * 8 + (64 << 20),
        max_failures=math.floor(limit * inputs) if isinstance(limit, float) else limit,
    )


def _write_quarantine(journal: Journal, target: Path, result: StreamResult) -> None:
    try:
        journal.write_quarantine(target)
    except OSError as error:
        result.stopped = result.stopped or StoppedError(
            f"{target} can't be written: {error.strerror}",
            "the journal beside it has the same records: mend the disk and run the same command again",
        )
