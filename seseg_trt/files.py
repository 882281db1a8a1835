"""The public API on files: :func:`segment_files`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import cache
from .backends.select import graph_precision, resolve_device
from .errors import ReasonCode, StoppedError, UsageError
from .options import DecodeOptions, EncodeOptions, MaskOptions, digest
from .run.child import ChildArguments, open_child_lane, run_child, share_cores
from .run.claims import SharedWork
from .run.devices import Supervisor, every_device
from .run.journal import Journal, Row
from .run.names import is_remote, is_tar, may_be_path, state_folder
from .run.output import open_outputs
from .run.packing import Packer, check_target
from .run.plan import Naming, WorkPlan, make_plan
from .run.presence import Presence, alone
from .run.report import Summary
from .run.results import Results
from .run.resume import Identity, Todo, find_todo, forget_mended, refused_rows
from .run.scan import Refused
from .run.shards import is_numbered
from .run.stream import Stream, StreamResult
from .run_options import RunOptions

if TYPE_CHECKING:
    from .artifact import Artifact
    from .backends.base import Backend

__all__ = ["RunOptions", "Watch", "plan_files", "retry_files", "segment_files"]

SETTINGS = "settings"


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


@dataclasses.dataclass(frozen=True)
class What:
    """What a run makes: all that decides its outputs' bytes."""

    artifact: Artifact | None
    masks: MaskOptions
    decoding: DecodeOptions
    encoding: EncodeOptions
    backend: Backend | None = None

    def identity(self) -> Identity:
        """Return what the journal keeps of it."""
        deciding = (
            # Neutral is what can't change an output's bytes, so that it is not taken for a change. The kinds of output have names of
            # their own; a higher bound on pixels changes who is quarantined, not how a mask looks.
            dataclasses.replace(self.masks, outputs=(), seed=self.masks.seed if self.masks.color == "random" else 0),
            dataclasses.replace(self.decoding, max_pixels=1),
            EncodeOptions(self.encoding.format) if self.encoding.format == "png" else self.encoding,
        )
        if self.artifact is not None:
            return Identity(digest(*deciding), self.artifact.sha256)
        return Identity(digest(*deciding), f"backend:{self.backend.name if self.backend else ''}")


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
    check_target(output_dir, masks.outputs, options.tar_entries)
    naming = Naming(masks.outputs, encoding.format, options.keep_suffix)
    return make_plan(inputs, output_dir, naming, listed=listed, base=options.base, state_dir=options.state_dir, shard=options.shard)


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
    """Mask files into a folder or into tars; resume if it was begun before.

    Several processes may run the same at once, also on one output folder: they share the work.

    Args:
        inputs: files, folders (recursively), globs, and tar shards (``data-{000000..000009}.tar`` too), whose entries are the inputs.
        output_dir: made when it is not there. The inputs' tree is mirrored in it; the run's state lies in its ``.seseg``. A name that ends in
            ``.tar`` is a tar, ``masks-%06d.tar`` a row of them; the state lies beside it then, in ``masks.tar.seseg``.
        model: as for :class:`seseg_trt.Segmenter`.
        masks, decoding, encoding, options: what to make, and how; None means the defaults.
        listed: more paths.
        watch: what to call while it goes.
        backend: a ready backend in place of a model (for tests).

    Returns:
        The summary; ``summary.quarantined`` counts what could not be masked, and a run that was ended early says so in ``stopped``.

    Raises:
        UsageError: nothing has been written: arguments that exclude each other, colliding outputs, another run at work with other options.
        ModelError, DeviceError: the network can't be run; nothing has been masked.
        StoppedError: the output folder or the state folder can't be written at all.
    """
    masks, encoding, options = masks or MaskOptions(), encoding or EncodeOptions(), options or RunOptions()
    begun = time.perf_counter()
    target = os.fspath(output_dir)
    plan = plan_files([os.fspath(i) for i in inputs], target, masks=masks, encoding=encoding, options=options, listed=listed)
    artifact = None
    if backend is None:
        artifact = cache.find_model(model, precision=graph_precision(resolve_device(options.device, options.backend)[0]))
    what = What(artifact, masks, decoding or DecodeOptions(), encoding, backend)
    return _run(plan, what, target, options, watch or Watch(), begun)


def retry_files(
    output_dir: str | os.PathLike[str],
    *,
    options: RunOptions | None = None,
    watch: Watch | None = None,
    backend: Backend | None = None,
) -> Summary:
    """Run all quarantined inputs of an output folder again, with the options and the model that they were run with.

    Args:
        output_dir: of an earlier run.
        options: how it goes; ``state_dir`` says where its journal is, if that is not in the folder.
        watch, backend: as for :func:`segment_files`.

    Raises:
        UsageError: there is no journal, or the model has changed since.
        ModelError, DeviceError, StoppedError: as :func:`segment_files` does.
    """
    options = options or RunOptions()
    begun = time.perf_counter()
    target = os.fspath(output_dir)
    path = state_folder(target, options.state_dir) / "journal.sqlite"
    if not path.is_file():
        raise UsageError(f"there is no journal {path}", "name the output folder of an earlier run, and its --state folder if it had one")
    with contextlib.closing(Journal(path)) as journal:
        settings = json.loads(journal.get_meta(SETTINGS) or "null")
        if settings is None:
            raise UsageError(f"{path} does not say how its inputs were run", "run the segment command again with --retry-quarantined")
        naming = Naming(tuple(settings["masks"]["outputs"]), settings["encoding"]["format"], settings["keep_suffix"])
        plan = WorkPlan([], 0, [], naming)
        for row in journal.rows("quarantined"):
            source = os.fsdecode(row.source)
            # an archive, what has no name of its own in it, and what must not write its output: only a new plan can tell of these
            nameless = not may_be_path(os.fsdecode(row.path))
            if row.reason is not None and (row.reason == "collision" or is_tar(source) or is_numbered(source) or nameless):
                plan.refused.append(Refused(row.item(), cast("ReasonCode", row.reason), row.message or ""))
            else:
                plan.items.append(row.item())
    masks = settings["masks"]
    color = masks["color"] if masks["color"] == "random" else tuple(masks["color"])
    what = What(
        None if backend is not None else cache.find_model(settings["model"]),
        MaskOptions(tuple(masks["outputs"]), color, masks["threshold"], masks["seed"]),
        DecodeOptions(**settings["decoding"]),
        EncodeOptions(**settings["encoding"]),
        backend,
    )
    options = dataclasses.replace(options, retry=True, keep_suffix=settings["keep_suffix"])
    return _run(plan, what, target, options, watch or Watch(), begun)


def _run(plan: WorkPlan, what: What, target: str, options: RunOptions, watch: Watch, begun: float) -> Summary:
    state = state_folder(target, options.state_dir)
    identity = what.identity()
    certified = _certificate(what.artifact, options)
    outputs = open_outputs(target, state, durable=options.durable)
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(contextlib.closing(Journal(state / "journal.sqlite", durable=options.durable)))
        with alone(state):
            says = {"work": _work_name(identity, plan.naming)}
            presence = stack.enter_context(Presence(state / "runs", says))
            _refuse_other_work(presence, state)
            packer = Packer(outputs, journal, state, options.tar_entries)
            packer.check(options.overwrite)
            todo = find_todo(plan, journal, outputs, identity, options.choices)
            journal.put(refused_rows(plan, journal, identity, time.time()))
            forget_mended(plan, journal)
            packer.begin(plan.items)
            journal.set_meta(SETTINGS, json.dumps(_settings(what, plan.naming)))
        results = _open_results(options, journal, presence)
        if results is not None:
            stack.callback(results.abandon)
        watch.planned(plan, todo)
        work = SharedWork(journal, presence, todo.items)
        result, description = StreamResult(), "nothing to do"
        startup = time.perf_counter() - begun
        packing = stack.enter_context(contextlib.ExitStack())
        packing.enter_context(packer.at_work())
        if todo.items:
            remote = any(is_remote(name) for name in (target, todo.items[0].root))
            child = ChildArguments(
                artifact=what.artifact,
                masks=what.masks,
                decoding=what.decoding,
                encoding=what.encoding,
                backend=what.backend or options.backend,
                threads=options.threads,
                measure=options.measure,
                target=target,
                durable=options.durable,
                state=state,
                says=says,
                naming=plan.naming,
                stream=options.stream(what.decoding.max_pixels, plan.inputs, remote=remote),
            )
            committed = _each_of(watch.committed, results.add if results else None)
            devices = every_device(options.device)
            if len(devices) > 1:
                supervisor = Supervisor(devices, run_child, share_cores(child, devices), committed)
                watch.started(supervisor.stop)
                together = supervisor.run(todo.items)
                result, description = together.result, together.description
                work.done_elsewhere, work.quarantined_elsewhere = together.done_elsewhere, together.quarantined_elsewhere
                startup = time.perf_counter() - begun - result.seconds
            else:
                lane = stack.enter_context(contextlib.closing(open_child_lane(child, options.device)))
                description = lane.description
                stack.callback(outputs.close)
                outputs.prepare()
                startup = time.perf_counter() - begun
                stream = Stream(lane, outputs, journal, plan.naming, child.stream, committed)
                watch.started(stream.stop)
                result = stream.run(work)
        if not todo.items or len(every_device(options.device)) > 1:  # this process was not prepared to write
            outputs.sweep()
        work.finish()
        presence.clear_dead()
        packing.close()
        done = result.done + result.quarantined + work.done_elsewhere + work.quarantined_elsewhere
        unpacked = _pack(packer, result, whole=done == len(todo.items))
        _write_records(journal, state / "quarantine.jsonl", results, result)
    return Summary(
        inputs=plan.inputs,
        done=result.done,
        skipped=todo.skipped + plan.ignored + work.done_elsewhere,
        quarantined=result.quarantined + todo.quarantined + len(plan.refused) + work.quarantined_elsewhere,
        left=len(todo.items) - done,
        seconds=result.seconds,
        startup_seconds=startup,
        decoded_by=result.decoded_by,
        megapixels=result.pixels / 1e6,
        stages=tuple(result.stages),
        device=description,
        model=str(what.artifact or (what.backend.name if what.backend else "")),
        model_sha256=what.artifact.sha256 if what.artifact else "",
        certificate=certified,
        output_dir=target,
        state_dir=state,
        unpacked=unpacked,
        stopped=result.stopped,
    )


def _pack(packer: Packer, result: StreamResult, *, whole: bool) -> int:
    try:
        return packer.finish(whole=whole)
    except StoppedError as error:
        result.stopped = result.stopped or error
        return 0


def _certificate(artifact: Artifact | None, options: RunOptions) -> str:
    if artifact is None:
        return ""
    from .certificate import certificate_line, require_certificate

    if options.require_certificate:
        require_certificate(artifact)
    return certificate_line(artifact)


def _work_name(identity: Identity, naming: Naming) -> str:
    return json.dumps([identity.options, identity.artifact, dataclasses.astuple(naming)])


def _refuse_other_work(presence: Presence, state: Path) -> None:
    """Raise if a process that makes something else is at work on the same journal: they would undo each other's."""
    mine = json.loads((presence.folder / presence.name).read_bytes())["work"]
    for name, says in presence.others().items():
        if says.get("work") != mine:
            raise UsageError(
                f"process {name.partition('-')[0]} is at work on {state} with other options or another model",
                "wait for it, or give this run an output folder of its own",
            )


def _settings(what: What, naming: Naming) -> dict[str, Any]:
    return {
        "model": None if what.artifact is None else str(what.artifact.path),
        "masks": dataclasses.asdict(what.masks),
        "decoding": dataclasses.asdict(what.decoding),
        "encoding": dataclasses.asdict(what.encoding),
        "keep_suffix": naming.keep_suffix,
    }


def _open_results(options: RunOptions, journal: Journal, presence: Presence) -> Results | None:
    return None if options.results is None else Results(Path(options.results), journal, presence)


def _each_of(first: Callable[[Row], None], second: Callable[[Row], None] | None) -> Callable[[Row], None]:
    if second is None:
        return first

    def both(row: Row) -> None:
        first(row)
        second(row)

    return both


def _write_records(journal: Journal, quarantine: Path, results: Results | None, result: StreamResult) -> None:
    try:
        journal.write_quarantine(quarantine)
        if results is not None:
            results.finish()
    except OSError as error:
        result.stopped = result.stopped or StoppedError(
            f"{quarantine} can't be written: {error.strerror}",
            "the journal beside it has the same records: mend the disk and run the same command again",
        )
    except StoppedError as error:
        result.stopped = result.stopped or error
