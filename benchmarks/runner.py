"""Run a contest: each contestant in its own process, first a warm-up, then rounds in alternating order (A B, B A, ...)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import agreement, machine, models
from .cases import OURS, Case, Contest
from .contestant import Contestant, Settings, output_folder, scratch_folder
from .environment import Absent, interpreter
from .images import SETS, prepare
from .peers import FOLDER, PEERS, Input
from .process import ROOT, Worker, WorkerError
from .records import Record

SETTLE_SECONDS = 0.3
"""The pause between two contestants, after which the threads that spin when their work is done are asleep."""

STOLEN_AT_MOST = 0.02
ATTEMPTS = 3
"""In a full run, a measurement with more than 2% CPU steal is repeated, at most twice, and the one with the least steal counts. The choice
never depends on the measured value. The record has the steal of each round and the number of repeats."""


def new_run() -> str:
    """Return a name for a run that starts now: date, time and commit."""
    revision = machine.commit()["commit"] or "nocommit"
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{revision[:7]}"


def run_contest(contest: Contest, settings: Settings, run: str) -> list[Record]:
    """Measure a contest.

    Args:
        contest: the contest.
        settings: the settings of the run.
        run: the name of the run, as of :func:`new_run`.

    Returns:
        A record for each case; a case that can't be run, or failed, has the reason.
    """
    described = machine.describe()
    before = machine.clock_state()
    contestants: list[Contestant] = []
    absent: dict[str, str] = {}
    cases = [c for c in contest.cases_of(settings.suite) if not settings.only or any(o in c.name for o in settings.only)]
    with contextlib.ExitStack() as stack:
        workers: dict[tuple[str, ...], tuple[Worker, dict[str, Any]]] = {}
        for case in cases:
            try:
                contestants.append(_enter(case, settings, stack, workers))
            except (Absent, WorkerError) as error:
                absent[case.name] = str(error)
                settings.tell(f"absent: {case.name}: {error}")
        for contestant in contestants:
            _round(contestant, settings, warm_up=True)
        for number in range(contest.rounds[settings.suite]):
            settings.tell(f"{contest.name}: round {number + 1} of {contest.rounds[settings.suite]}")
            # every second round in reverse, since the case before another may warm up or cool down the processor for it
            for contestant in contestants if number % 2 == 0 else contestants[::-1]:
                if contestant.failed is None:
                    _round(contestant, settings)
        shared = {"images": agreement.measure(contestants, settings)} if contest.agreement else {}
    clock = machine.clock_change(before, machine.clock_state())
    common: dict[str, Any] = {
        "run": run,
        "suite": settings.suite,
        "contest": contest.name,
        "kind": machine.kind(described),
        "machine": described,
        "clock": clock,
        "commit": machine.commit(),
    }
    records = []
    for case in cases:
        entry = {**common, "case": {**dataclasses.asdict(case), "name": case.name}}
        contestant_of = next((c for c in contestants if c.case == case), None)
        if contestant_of is None or contestant_of.failed is not None:
            why = absent.get(case.name) or (contestant_of.failed if contestant_of else None)
            records.append(Record(**entry, absent=why))
        else:
            records.append(_record(contestant_of, entry, shared))
    return records


def prepare_contest(contest: Contest, settings: Settings) -> list[str]:
    """Make the environments, models and images of a contest; return a line for each case that can't be run, with the reason."""
    absent: dict[str, None] = {}
    for case in contest.cases_of(settings.suite):
        try:
            if case.who in PEERS:
                interpreter(PEERS[case.who], settings.cache)
            models.find(case, _takes(case), settings.cache)
            if case.images and settings.own_images is None:
                prepare(SETS[case.images], settings.cache)
        except Absent as error:
            absent[f"absent: {case.who}, {case.precision}: {error}"] = None
    return list(absent)


def _takes(case: Case) -> Input:
    if case.figure in ("startup", "limit"):
        return "none"
    return PEERS[case.who].takes if case.who in PEERS else "graph"


def _enter(
    case: Case, settings: Settings, stack: contextlib.ExitStack, workers: dict[tuple[str, ...], tuple[Worker, dict[str, Any]]]
) -> Contestant:
    """Start a case's worker and load the network, unless a worker with the same network is already running."""
    peer = PEERS.get(case.who)
    model = models.find(case, _takes(case), settings.cache)
    images = None
    if case.images:
        images = settings.own_images or prepare(SETS[case.images], settings.cache)
    variant = case.what if case.who in ("mkl", "onnxruntime-gpu", "torch") and case.figure != "limit" else ""
    library = case.who if case.figure == "limit" else ""
    key = (case.who, case.figure if case.figure == "startup" else "", model.path, case.lane, case.backend or "", case.precision, variant)
    if key not in workers:
        settings.tell(f"starting {case.who} {case.precision} {model.path and Path(model.path).name}".rstrip())
        if peer is None:
            module = "benchmarks.workers.startup" if case.figure == "startup" else "benchmarks.workers.ours"
            command = [sys.executable, "-m", module]
        else:
            command = [interpreter(peer, settings.cache), str((FOLDER / peer.script).resolve())]
        log = settings.cache / "logs" / f"{case.who}-{case.precision}.txt"
        worker = stack.enter_context(Worker(command, log, {"SESEG_BENCH_SCRATCH": str(scratch_folder(settings))}))
        device = "cuda" if case.lane == "gpu" else "cpu"
        loaded = worker.ask("load", model_path=model.path, device=device, backend=case.backend, what=variant or library)
        workers[key] = worker, loaded
    return Contestant(case, workers[key][0], images, model, workers[key][1])


def _round(contestant: Contestant, settings: Settings, warm_up: bool = False) -> None:
    """Run a round of a contestant; repeat it if there was much CPU steal."""
    case = contestant.case
    count = min(2, case.count) if warm_up else case.count
    found: list[tuple[float, dict[str, Any]]] = []
    for _ in range(ATTEMPTS if settings.suite == "full" and not warm_up else 1):
        with output_folder(settings) as folder:
            request = _request(contestant, count, folder, warm_up)
            time.sleep(0 if settings.suite == "tiny" else SETTLE_SECONDS)
            before = machine.ticks()
            try:
                answer = contestant.worker.ask(**request)
            except WorkerError as error:
                contestant.failed = str(error)
                settings.tell(f"failed: {case.name}: {error}")
                return
            after = machine.ticks()
        found.append(((after[1] - before[1]) / max(1, after[0] - before[0]), answer))
        if found[-1][0] <= STOLEN_AT_MOST:
            break
    if warm_up:
        return
    stolen, answer = min(found, key=lambda one: one[0])
    contestant.last = answer
    contestant.stolen.append(round(stolen, 4))
    contestant.retaken += len(found) - 1
    for stage, seconds in answer.get("stage_seconds", {}).items():
        contestant.stage_seconds.setdefault(stage, []).append(seconds)
    contestant.samples.append(answer["work"] / answer["seconds"] if "work" in answer else answer["seconds"] / answer["count"])


def _request(contestant: Contestant, count: int, folder: Path, warm_up: bool) -> dict[str, Any]:
    case = contestant.case
    if case.figure == "engine":
        return {"do": "engine", "count": count, "batch": case.batch, "what": case.what}
    if case.figure == "limit":
        return {"do": "limit", "what": case.what, "seconds": 0.2 if warm_up or case.what.endswith("-256") else 1.0}
    if case.figure == "startup":
        return {"do": "startup", "what": case.what, "count": count}
    assert contestant.images is not None
    inputs = list(contestant.images.paths[: count if not warm_up else max(count, 2)])
    if case.figure == "stages":
        return {"do": "stages", "inputs": inputs, "output": case.output, "threads": int(case.what)}
    return {"do": "files", "inputs": inputs, "output_dir": str(folder), "output": case.output}


def _record(contestant: Contestant, entry: dict[str, Any], shared: dict[str, Any]) -> Record:
    last = contestant.last
    facts: dict[str, Any] = {
        "count": last["count"],
        "cpu_seconds": round(last["cpu_seconds"], 3),
        "peak_rss": last["peak_rss"],
        "load_seconds": round(contestant.loaded["seconds"], 2),
        "stolen": contestant.stolen,
        "retaken": contestant.retaken,
    }
    for key in ("bytes_out", "quarantined", "stages", "threads"):
        if key in last:
            facts[key] = last[key]
    if contestant.stage_seconds:
        facts["stage_seconds"] = {stage: statistics.median(seconds) for stage, seconds in contestant.stage_seconds.items()}
    if contestant.images is not None:
        facts["images"] = {"set": contestant.images.name, **contestant.images.facts}
    if contestant.model.facts:
        facts["model"] = contestant.model.facts
    if contestant.case.who == OURS and contestant.case.figure == "end_to_end" and shared.get("images"):
        found = shared["images"].get(contestant.case.name)
        if found:
            facts["agreement"] = found
    return Record(
        **entry,
        unit=last.get("unit", "s"),
        samples=tuple(float(f"{s:.6g}") for s in contestant.samples),
        facts=facts,
        versions=contestant.loaded["versions"],
    )


def default_cache() -> Path:
    """Return the folder of images, models and environments: ``$SESEG_BENCH_CACHE``, or ``.cache`` in this package."""
    named = os.environ.get("SESEG_BENCH_CACHE")
    return Path(named) if named else ROOT / "benchmarks" / ".cache"


def select(names: Sequence[str], suite: str, contests: dict[str, Contest]) -> list[Contest]:
    """Return contests that are in a suite.

    Args:
        names: the names of contests; empty: all whose device this machine has.
        suite: the suite.
        contests: all contests, by name.
    """
    has_gpu = bool(machine.gpus())
    wanted = [contests[name] for name in names] if names else [c for c in contests.values() if c.device == "cpu" or has_gpu]
    return [c for c in wanted if suite in c.rounds]
