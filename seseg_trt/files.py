"""The public API on files: :func:`segment_files`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .backends.select import graph_precision, resolve_device
from .errors import ReasonCode, UsageError
from .inputs.item import RejectedInput
from .inputs.tar_entries import is_numbered
from .journal.journal import JOURNAL, Journal
from .journal.row import Row
from .models import cache
from .options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions, RunOptions, split_devices
from .outputs.naming import Naming
from .outputs.packer import check_target
from .run.plan import WorkPlan, make_plan
from .run.session import SPEC, Execute, RunObserver, Session, run_here
from .run.spec import RunSpec
from .run.summary import Summary
from .storage.locations import is_tar, may_be_path, state_folder
from .storage.select import storage_of
from .workers.supervisor import run_in_workers

if TYPE_CHECKING:
    from .backends.base import Backend
    from .models.artifact import Artifact

__all__ = ["RunObserver", "RunOptions", "plan_files", "retry_files", "segment_files"]


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
    return make_plan(
        inputs,
        output_dir,
        naming,
        listed=listed,
        base=options.base,
        state_dir=options.state_dir,
        shard=options.shard,
        include=options.include,
        exclude=options.exclude,
    )


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
    observer: RunObserver | None = None,
    backend: Backend | None = None,
) -> Summary:
    """Mask files into a folder or into tars; resume if it was begun before.

    Worker processes do the work (see :class:`RunOptions`): an image on which a decoder dies costs itself alone.

    Args:
        inputs: files, folders (recursively), globs, and tars (``data-{000000..000009}.tar`` too), whose entries are the inputs.
        output_dir: made when it is not there. The inputs' tree is mirrored in it; the run's state lies in its ``.seseg``. A name that ends in
            ``.tar`` is a tar, ``masks-%06d.tar`` a row of them; the state lies beside it then, in ``masks.tar.seseg``.
        model: as for :class:`seseg_trt.Segmenter`.
        masks, decoding, encoding, options: what to make, and how; None means the defaults.
        listed: more paths.
        observer: what to call while it goes.
        backend: a ready backend in place of a model; it runs in the caller's process, or is pickled for workers where
            ``options.processes`` asks for them.

    Returns:
        The summary; ``summary.quarantined`` counts what could not be masked, and a run that was ended early says so in ``stopped``.

    Raises:
        UsageError: nothing has been written: arguments that exclude each other, colliding outputs, another run at work on the same state.
        ModelError, DeviceError: the network can't be run; nothing has been masked.
        StoppedError: the output folder or the state folder can't be written at all.
    """
    options = options or RunOptions()
    lane = LaneOptions(masks or MaskOptions(), decoding or DecodeOptions(), encoding or EncodeOptions(), options.measure)
    begun = time.perf_counter()
    target = os.fspath(output_dir)
    paths = [os.fspath(path) for path in ([inputs] if isinstance(inputs, str | os.PathLike) else inputs)]
    plan = plan_files(paths, target, masks=lane.masks, encoding=lane.encoding, options=options, listed=listed)
    artifact = None
    if backend is None:
        artifact = cache.find_model(model, precision=graph_precision(resolve_device(options.device, options.backend)[0]))
    spec = _spec(plan, lane, target, artifact, options, backend)
    return Session(plan, spec, artifact, options, observer or RunObserver(), backend, begun, _executor(options, artifact, backend)).run()


def retry_files(
    output_dir: str | os.PathLike[str],
    *,
    options: RunOptions | None = None,
    observer: RunObserver | None = None,
    backend: Backend | None = None,
) -> Summary:
    """Run all quarantined inputs of an output folder again, with the options and the model that they were run with.

    Args:
        output_dir: of an earlier run.
        options: how it goes; ``state_dir`` says where its journal is, if that is not in the folder.
        observer, backend: as for :func:`segment_files`.

    Raises:
        UsageError: there is no journal, or the model has changed since.
        ModelError, DeviceError, StoppedError: as :func:`segment_files` does.
    """
    options = options or RunOptions()
    begun = time.perf_counter()
    target = os.fspath(output_dir)
    path = state_folder(target, options.state_dir) / JOURNAL
    if not path.is_file():
        raise UsageError(f"there is no journal {path}", "name the output folder of an earlier run, and its --state folder if it had one")
    with contextlib.closing(Journal(path, read_only=True)) as journal:
        found = json.loads(journal.get_meta(SPEC) or "null")
        if found is None:
            raise UsageError(f"{path} does not say how its inputs were run", "run the segment command again with --retry-quarantined")
        before = RunSpec.from_json(found)
        plan = WorkPlan([], 0, [], before.naming)
        for row in journal.rows("quarantined"):
            if _needs_a_new_plan(row):
                plan.refused.append(RejectedInput(row.item(), cast("ReasonCode", row.reason), row.message or ""))
            else:
                plan.items.append(row.item())
    options = dataclasses.replace(options, retry=True, keep_suffix=before.keep_suffix)
    artifact = None if backend is not None else cache.find_model(before.model)
    if artifact is not None and artifact.sha256 != before.identity:
        raise UsageError(
            f"the model {before.model} is another one than these inputs were run with",
            "run the segment command again, with --on-change redo",
        )
    lane = dataclasses.replace(before.lane, measure=options.measure)
    spec = _spec(plan, lane, target, artifact, options, backend)
    return Session(plan, spec, artifact, options, observer or RunObserver(), backend, begun, _executor(options, artifact, backend)).run()


def _executor(options: RunOptions, artifact: Artifact | None, backend: Backend | None) -> Execute:
    processes = options.processes
    if processes is None:
        processes = 0 if backend is not None else 1
    if processes:
        return run_in_workers(processes, backend)
    if len(split_devices(options.device)) > 1:
        raise UsageError(f"{options.device} needs worker processes", "leave processes=0 out")
    return run_here(artifact, backend)


def _needs_a_new_plan(row: Row) -> bool:
    """Tell whether a row is of a tar itself, of what has no name of its own in it, or of what must not write its output."""
    source = os.fsdecode(row.source)
    nameless = not may_be_path(os.fsdecode(row.path))
    return row.reason is not None and (row.reason == "collision" or is_tar(source) or is_numbered(source) or nameless)


def _spec(
    plan: WorkPlan, lane: LaneOptions, target: str, artifact: Artifact | None, options: RunOptions, backend: Backend | None
) -> RunSpec:
    remote = any(storage_of(name).remote for name in (target, *(item.root for item in plan.items[:1])))
    return RunSpec(
        model=None if artifact is None else str(Path(artifact.path).absolute()),
        identity=artifact.sha256 if artifact is not None else f"backend:{backend.name if backend else ''}",
        lane=lane,
        keep_suffix=options.keep_suffix,
        target=target,
        state=str(state_folder(target, options.state_dir)),
        durable=options.durable,
        device=options.device,
        backend=options.backend,
        threads=options.threads,
        stream=options.stream(lane.decoding, remote=remote),
    )
