"""Runs from their plan to their summary, in the caller's process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunObserver, RunOptions, Summary, UsageError, segment_files
from seseg_trt.errors import DeviceError, StoppedError
from seseg_trt.journal.journal import Journal
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions, StreamOptions
from seseg_trt.outputs.packer import Packer
from seseg_trt.run import session as module
from seseg_trt.run.job import Outcome
from seseg_trt.run.pipeline import StageReport
from seseg_trt.run.plan import make_plan
from seseg_trt.run.session import SPEC, Execute, Execution, Session, run_here
from seseg_trt.run.spec import RunSpec
from seseg_trt.storage.atomic import temporary_name
from tests.runs import counts, make_inputs, picture, records, tree


def spec(tmp_path: Path, lane: LaneOptions | None = None) -> RunSpec:
    return RunSpec(
        model=None,
        identity="backend:fake",
        lane=lane or LaneOptions(MaskOptions(threshold=50)),
        keep_suffix=False,
        target=str(tmp_path / "out"),
        state=str(tmp_path / "out" / ".seseg"),
        durable=False,
        device="cpu",
        backend=None,
        threads=None,
        stream=StreamOptions(1),
    )


def session(
    tmp_path: Path,
    execute: Execute | None = None,
    *,
    lane: LaneOptions | None = None,
    observer: RunObserver | None = None,
    begun: float = 0.0,
    **options: Any,
) -> Session:
    """Return a session over the pictures in ``in``, which does nothing itself where ``execute`` is given."""
    made = spec(tmp_path, lane)
    plan = make_plan([str(tmp_path / "in")], made.target, made.naming)
    backend = FakeBackend(16)
    return Session(plan, made, None, RunOptions(**options), observer or RunObserver(), backend, begun, execute or run_here(None, backend))


def settling(
    count: int | None = None, seconds: float = 0.0, error: StoppedError | None = None, reason: Any = None, pixels: int = 0
) -> Execute:
    """Return what settles so many tasks, or all, and then may fail."""

    def execute(spec: RunSpec, ledger: Any, outputs: Any, observer: RunObserver) -> Execution:
        tasks = ledger.take(len(ledger) if count is None else count)
        ledger.settle([Outcome(task.number, reason, "" if reason is None else "for a test", pixels=pixels) for task in tasks])
        if error is not None:
            raise error
        return Execution([StageReport("decode", 2, 5)], seconds, "a lane", ["worker 0", "worker 1"])

    return execute


def run(folder: Path, masks: MaskOptions | None = None, **named: Any) -> Summary:
    """Run the pictures in ``in`` with a fake network."""
    apart = {name: named.pop(name) for name in ("decoding", "encoding", "observer") if name in named}
    masks = masks or MaskOptions(threshold=50)
    return segment_files([folder / "in"], folder / "out", masks=masks, options=RunOptions(**named), backend=FakeBackend(16), **apart)


def meta(folder: Path) -> Any:
    with contextlib.closing(Journal(folder / "out" / ".seseg" / "journal.sqlite", read_only=True)) as journal:
        return json.loads(journal.get_meta(SPEC) or "null")


def test_a_run_is_summed_up(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 6, bad_every=3)
    (tmp_path / "in" / ".dot").write_bytes(b"x")
    for name in ("x.png", "y.png", "z.png"):
        (tmp_path / "in" / name).symlink_to("nowhere")
    first = run(tmp_path)
    assert counts(first) == (4, 1, 5, 0) and first.inputs == 10 and first.exit_code == 2
    assert first.reasons == {"missing": 3, "not_an_image": 2} and first.decoded_by == {"pillow": 4}
    pixels = sum((16 + index % 7) * (12 + index % 5) for index in (0, 1, 3, 4))
    assert first.megapixels == pixels / 1_000_000
    assert (first.model, first.model_sha256, first.certificate) == ("fake", "", "")
    assert (first.output_dir, first.state_dir) == (str(tmp_path / "out"), tmp_path / "out" / ".seseg")
    assert (first.workers, first.results, first.unpacked, first.stopped, first.signal) == ((), None, 0, None, None)
    assert "fake backend" in first.device and first.seconds > 0 and first.startup_seconds > 0
    assert [stage.name for stage in first.stages] == ["read", "decode", "infer", "composite", "encode", "write"]
    assert [stage.jobs for stage in first.stages] == [6, 6, 4, 4, 4, 4]
    second = run(tmp_path)
    assert counts(second) == (0, 5, 5, 0)
    assert (second.device, second.seconds, second.stages, second.decoded_by) == ("nothing to do", 0.0, (), {})
    assert set(records(tmp_path / "out").values()) == {"missing", "not_an_image"}


def test_all_that_is_skipped_and_all_that_is_quarantined_is_counted_together(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"good{number}.png").write_bytes(picture(number))
        (tmp_path / "in" / f"bad{number}.png").write_bytes(b"no picture")
        (tmp_path / "in" / f".dot{number}.png").write_bytes(b"x")
        (tmp_path / "in" / f"gone{number}.png").symlink_to("nowhere")
    assert counts(run(tmp_path)) == (3, 3, 6, 0)
    for number in range(3):
        (tmp_path / "in" / f"worse{number}.png").write_bytes(b"no picture either")
    assert counts(run(tmp_path)) == (0, 6, 9, 0)


def test_the_observer_is_told_in_order(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3, bad_every=3)
    told: list[Any] = []
    observer = RunObserver(
        planned=lambda plan, remaining: told.append((plan.inputs, len(remaining.items))),
        loading=lambda phase, done, total: told.append(phase),
        started=lambda stop: told.append("started"),
        committed=lambda row: told.append(row.state),
    )
    run(tmp_path, observer=observer)
    assert told[:2] == [(3, 3), "started"] and sorted(told[2:]) == ["done", "done", "quarantined"]
    told.clear()
    run(tmp_path, observer=observer)
    assert told == [(3, 0)]


def test_the_function_that_stops_a_run_lets_it_begin_nothing_more(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3)
    summary = run(tmp_path, observer=RunObserver(started=lambda stop: stop()))
    assert counts(summary) == (0, 0, 0, 3) and summary.stopped is None and summary.exit_code == 5


def test_a_network_is_closed_after_the_run_also_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 2)
    closed: list[bool] = []
    monkeypatch.setattr(CPULane, "close", lambda self: closed.append(True))

    def fail(row: Any) -> None:
        raise KeyError("observer")

    with pytest.raises(KeyError):
        session(tmp_path, observer=RunObserver(committed=fail)).run()
    assert closed == [True]
    assert session(tmp_path).run().exit_code == 0 and closed == [True] * len(closed)


def test_start_up_is_all_that_is_not_streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 2)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 117.0)
    first = session(tmp_path, settling(seconds=4.0, pixels=3_000_000), begun=110.0).run()
    assert (first.startup_seconds, first.seconds, first.megapixels) == (3.0, 4.0, 6.0)
    assert (first.device, first.workers, [stage.name for stage in first.stages]) == ("a lane", ("worker 0", "worker 1"), ["decode"])
    (tmp_path / "out").mkdir(exist_ok=True)


def test_start_up_is_counted_where_nothing_is_left_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 1)
    run(tmp_path)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 117.0)
    assert session(tmp_path, settling(), begun=110.0).run().startup_seconds == 7.0


def test_what_stops_the_execution_is_told_and_what_is_left_is_counted(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 5)
    full = StoppedError("the journal can't be written")
    summary = session(tmp_path, settling(2, error=full)).run()
    assert counts(summary) == (2, 0, 0, 3) and summary.stopped is full and summary.exit_code == 5
    assert (summary.device, summary.seconds) == ("nothing to do", 0.0)


@pytest.mark.parametrize(("allowed", "stops"), [(2, False), (1, True), (0.5, False), (0.4, True), (None, False)])
def test_more_failures_than_are_allowed_of_all_inputs_stop_the_run(tmp_path: Path, allowed: Any, stops: bool) -> None:
    make_inputs(tmp_path / "in", 4)
    summary = session(tmp_path, settling(2, reason="empty"), max_failures=allowed).run()
    assert (summary.stopped is not None) == stops and counts(summary) == (0, 0, 2, 2)


def test_the_outputs_place_is_made_only_where_there_is_something_to_do(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    calls: list[str] = []

    def execute(*arguments: Any) -> Execution:
        calls.append("execute")
        return Execution()

    summary = session(tmp_path, execute).run()
    assert calls == [] and summary.inputs == 0 and summary.exit_code == 0


@pytest.mark.parametrize(("count", "whole"), [(None, True), (2, False)])
def test_tars_are_finished_as_whole_where_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, whole: bool
) -> None:
    make_inputs(tmp_path / "in", 3)
    asked: list[bool] = []

    def finish(self: Packer, *, whole: bool) -> int:
        asked.append(whole)
        return 4

    monkeypatch.setattr(Packer, "finish", finish)
    assert session(tmp_path, settling(count)).run().unpacked == 4
    assert asked == [whole]


def test_a_tar_that_can_not_be_written_stops_the_run_and_the_records_are_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(tmp_path / "in", 3)
    full = StoppedError("the disk is full")

    def finish(self: Packer, *, whole: bool) -> int:
        raise full

    monkeypatch.setattr(Packer, "finish", finish)
    summary = session(tmp_path, settling(reason="empty")).run()
    assert summary.stopped is full and summary.unpacked == 0 and len(records(tmp_path / "out")) == 3


def test_records_that_can_not_be_written_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 1)

    def refuse(journal: Any, target: Path) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_quarantine", refuse)
    summary = session(tmp_path, settling()).run()
    assert summary.stopped is not None and summary.exit_code == 5 and summary.done == 1
    assert summary.stopped.message == f"{tmp_path}/out/.seseg/quarantine.jsonl can't be written: No space left on device"
    assert summary.stopped.hint == "the journal beside it has the same records: mend the disk and run the same command again"


def test_results_are_checked_first_and_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 2)
    calls: list[Any] = []
    results = str(tmp_path / "results.parquet")
    monkeypatch.setattr(module, "check_results", lambda target: calls.append(("check", target)))
    monkeypatch.setattr(module, "write_results", lambda journal, *rest: calls.append(("write", *rest)))
    summary = session(tmp_path, settling(), results=results).run()
    assert calls == [("check", Path(results)), ("write", Path(results), str(tmp_path / "out"), 50)] and summary.results == results
    calls.clear()
    assert session(tmp_path, settling()).run().results is None and calls == []

    def refuse(target: Path) -> None:
        raise DeviceError("results need pyarrow")

    monkeypatch.setattr(module, "check_results", refuse)
    with pytest.raises(DeviceError):
        session(tmp_path, settling(), results=results).run()


def test_results_that_can_not_be_written_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 2)
    full = StoppedError("the results can't be written")

    def refuse(*arguments: Any) -> None:
        raise full

    monkeypatch.setattr(module, "check_results", lambda target: None)
    monkeypatch.setattr(module, "write_results", refuse)
    assert session(tmp_path, settling(), results=str(tmp_path / "results.parquet")).run().stopped is full


def test_what_a_parent_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    state = tmp_path / "out" / ".seseg"
    state.mkdir(parents=True)
    left = [state / "workers.json", Path(temporary_name(state / "workers.json"))]
    for path in left:
        path.write_bytes(b"{}")
    (state / "log.txt").write_bytes(b"words")
    seen: list[bool] = []
    session(tmp_path, settling(), observer=RunObserver(planned=lambda plan, remaining: seen.append(any(p.exists() for p in left)))).run()
    assert seen == [False] and (state / "log.txt").exists()


def test_the_journal_keeps_how_its_inputs_were_run(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    session(tmp_path, settling()).run()
    assert RunSpec.from_json(meta(tmp_path)) == spec(tmp_path)


THEN = LaneOptions(
    MaskOptions(("se",), (1, 2, 3), 50), DecodeOptions(exif_orientation=False, max_pixels=10**6), EncodeOptions("jpg", 80, "444")
)


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (dataclasses.replace(THEN, masks=MaskOptions(("se",), (1, 2, 3), 60)), "threshold 50 then, 60 now"),
        (
            dataclasses.replace(THEN, masks=MaskOptions(("se",), (1, 2, 4), None)),
            "color [1, 2, 3] then, [1, 2, 4] now; threshold 50 then, None now",
        ),
        (dataclasses.replace(THEN, decoding=DecodeOptions(max_pixels=7)), "exif_orientation False then, True now"),
        (
            dataclasses.replace(THEN, masks=MaskOptions(("se", "mask"), (1, 2, 3), 50), encoding=EncodeOptions("jpg", 81, "420")),
            "quality 80 then, 81 now; subsampling 444 then, 420 now",
        ),
        (dataclasses.replace(THEN, decoding=DecodeOptions(frames="first", exif_orientation=True)), "exif_orientation False then, True now"),
    ],
)
def test_what_changed_since_the_run_before_is_told_with_both_values(tmp_path: Path, now: LaneOptions, changes: str) -> None:
    make_inputs(tmp_path / "in", 1)
    session(tmp_path, lane=THEN).run()
    with pytest.raises(UsageError) as caught:
        session(tmp_path, lane=now).run()
    assert caught.value.message.endswith(f"with other options ({changes})")
    assert RunSpec.from_json(meta(tmp_path)).lane == THEN


def test_a_journal_of_an_earlier_version_may_lack_an_option(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    session(tmp_path, lane=THEN).run()
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite")) as journal:
        found = json.loads(journal.get_meta(SPEC) or "")
        del found["lane"]["encoding"]["quality"]
        journal.set_meta(SPEC, json.dumps(found))
    with pytest.raises(UsageError, match=r"\(threshold 50 then, 60 now; quality None then, 80 now\)"):
        session(tmp_path, lane=dataclasses.replace(THEN, masks=MaskOptions(("se",), (1, 2, 3), 60))).run()


def test_a_run_without_a_spec_before_it_tells_of_no_change(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    session(tmp_path, lane=THEN).run()
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite")) as journal:
        journal.set_meta(SPEC, "null")
    with pytest.raises(UsageError, match="threshold, colour, seed, format, decoder or orientation"):
        session(tmp_path, lane=LaneOptions()).run()


def test_without_an_artifact_or_a_backend_no_model_is_named(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    made = spec(tmp_path)
    plan = make_plan([str(tmp_path / "in")], made.target, made.naming)
    assert Session(plan, made, None, RunOptions(), RunObserver(), None, 0.0, settling()).run().model == ""


@pytest.mark.parametrize("required", [False, True])
def test_a_model_that_is_certified_may_be_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool) -> None:
    from seseg_trt.models import certificate

    make_inputs(tmp_path / "in", 1)
    asked: list[Any] = []
    monkeypatch.setattr(certificate, "certificate_line", lambda artifact: "certified: IoU 0.9")
    monkeypatch.setattr(certificate, "require_certificate", asked.append)
    artifact: Any = SimpleNamespace(sha256="c" * 64)
    made = spec(tmp_path)
    plan = make_plan([str(tmp_path / "in")], made.target, made.naming)
    options = RunOptions(require_certificate=required)
    summary = Session(plan, made, artifact, options, RunObserver(), FakeBackend(16), 0.0, settling()).run()
    assert (summary.model, summary.model_sha256, summary.certificate) == (str(artifact), "c" * 64, "certified: IoU 0.9")
    assert asked == ([artifact] if required else [])


def test_the_demonstration_model_masks_a_picture(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture(1))
    summary = segment_files([tmp_path / "in"], tmp_path / "out", model="demo", options=RunOptions(device="cpu", processes=0, threads=1))
    assert counts(summary) == (1, 0, 0, 0) and summary.model.startswith("demo (") and len(summary.model_sha256) == 64
    assert summary.certificate != "" and summary.stopped is None
    assert list(tree(tmp_path / "out")) == ["a_se.png"]


def test_a_run_holds_its_state_folder_to_the_end(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 2)
    refused: list[str] = []

    def planned(plan: Any, remaining: Any) -> None:
        with pytest.raises(UsageError) as caught:
            session(tmp_path, settling()).run()
        refused.append(caught.value.message)

    assert session(tmp_path, settling(), observer=RunObserver(planned=planned)).run().done == 2
    assert refused == [f"process {os.getpid()} is at work on {tmp_path}/out/.seseg"]
    assert session(tmp_path, settling()).run().done == 2  # the outputs are not there: it is free, and they are made again


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_durable_is_so_in_the_journal_and_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    make_inputs(tmp_path / "in", 1)
    asked: list[bool] = []

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            asked.append(named["durable"])
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(module, "Journal", noting(module.Journal))
    monkeypatch.setattr(module, "open_outputs", noting(module.open_outputs))
    made = dataclasses.replace(spec(tmp_path), durable=durable)
    plan = make_plan([str(tmp_path / "in")], made.target, made.naming)
    Session(plan, made, None, RunOptions(), RunObserver(), FakeBackend(16), 0.0, settling()).run()
    assert asked == [durable, durable]


def test_an_execution_of_nothing_took_no_time() -> None:
    done = Execution()
    assert (done.reports, done.seconds, done.description, done.workers) == ([], 0.0, "nothing to do", [])
