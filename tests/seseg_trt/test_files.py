"""Whole runs with a fake network: what is done, skipped, quarantined, and gone on with."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunObserver, RunOptions, StoppedError, Summary, UsageError, native, segment_files
from seseg_trt.codecs import pillow
from seseg_trt.files import retry_files
from seseg_trt.journal.journal import Journal
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import DecodeOptions, EncodeOptions
from seseg_trt.outputs import folder as output
from seseg_trt.run import work
from seseg_trt.storage import local
from seseg_trt.storage.local import LocalStorage
from tests.corpus import make_corpus
from tests.runs import counts, make_inputs, picture, records, states, tree

ALL = MaskOptions(("se", "nse", "mask"), threshold=50)


def run(inputs: Path, target: Path, masks: MaskOptions = ALL, **options: Any) -> Summary:
    arguments = {name: options.pop(name) for name in ("observer", "decoding", "encoding") if name in options}
    summary = segment_files([inputs], target, masks=masks, options=RunOptions(**options), backend=FakeBackend(16), **arguments)
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return make_inputs(tmp_path / "in", 12)


def test_the_tree_is_mirrored_and_a_second_run_does_nothing(inputs: Path, tmp_path: Path) -> None:
    first = run(inputs, tmp_path / "out")
    assert counts(first) == (12, 0, 0, 0) and first.exit_code == 0 and first.decoded_by == {"pillow": 12}
    made = tree(tmp_path / "out")
    assert set(made) == {f"{p.relative_to(inputs).with_suffix('')}_{k}.png" for p in inputs.rglob("*.png") for k in ("se", "nse", "pred")}
    stamps = {name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in made}
    assert counts(run(inputs, tmp_path / "out")) == (0, 12, 0, 0)
    assert {name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in made} == stamps


def test_the_corpus_of_bad_inputs_gives_a_mask_or_a_reason_each(tmp_path: Path) -> None:
    expected = make_corpus(tmp_path / "in")
    (tmp_path / "in" / ".dot.jpg").write_bytes(b"x")
    (tmp_path / "in" / "Thumbs.db").write_bytes(b"x")
    summary = run(tmp_path / "in", tmp_path / "out", MaskOptions(("mask",)), keep_suffix=True)
    masks = {name for name, outcome in expected.items() if outcome == "mask"}
    assert records(tmp_path / "out") == {name: outcome for name, outcome in expected.items() if outcome != "mask"}
    assert set(tree(tmp_path / "out")) == {f"{name}_pred.png" for name in masks}
    assert counts(summary) == (len(masks), 2, len(expected) - len(masks), 0) and summary.exit_code == 2
    again = run(tmp_path / "in", tmp_path / "out", MaskOptions(("mask",)), keep_suffix=True)
    assert (again.done, again.quarantined) == (0, summary.quarantined)


def test_what_was_quarantined_for_its_bytes_waits_until_they_change(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bad = tmp_path / "in" / "a.png"
    bad.write_bytes(b"")
    assert counts(run(tmp_path / "in", tmp_path / "out")) == (0, 0, 1, 0)
    with Journal_(tmp_path / "out") as journal:
        assert journal.get([b"a.png"])[b"a.png"].attempt == 1
    run(tmp_path / "in", tmp_path / "out")
    run(tmp_path / "in", tmp_path / "out", retry=True)
    with Journal_(tmp_path / "out") as journal:
        assert journal.get([b"a.png"])[b"a.png"].attempt == 2
    bad.write_bytes(picture())
    assert counts(run(tmp_path / "in", tmp_path / "out")) == (1, 0, 0, 0)
    assert records(tmp_path / "out") == {}


def test_a_changed_input_is_done_again_and_a_spoilt_one_loses_its_outputs(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out")
    before = tree(tmp_path / "out")
    (inputs / "image00000.png").write_bytes(picture(99, 40, 30))
    assert counts(run(inputs, tmp_path / "out")) == (1, 11, 0, 0)
    after = tree(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == {f"image00000_{k}.png" for k in ("se", "nse", "pred")}
    (inputs / "image00000.png").write_bytes(b"no picture any more")
    assert counts(run(inputs, tmp_path / "out")) == (0, 11, 1, 0)
    assert set(tree(tmp_path / "out")) == {name for name in after if "image00000" not in name}


def test_an_output_that_was_removed_or_cut_is_made_again(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out")
    made = tree(tmp_path / "out")
    (tmp_path / "out" / "image00000_se.png").unlink()
    (tmp_path / "out" / "image00003_pred.png").write_bytes(b"cut")
    assert counts(run(inputs, tmp_path / "out")) == (2, 10, 0, 0)
    assert tree(tmp_path / "out") == made


def test_another_threshold_is_noticed_and_redone_on_request_alone(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out")
    made = tree(tmp_path / "out")
    other = dataclasses.replace(ALL, threshold=30)
    with pytest.raises(UsageError, match="--on-change redo"):
        run(inputs, tmp_path / "out", other)
    assert tree(tmp_path / "out") == made
    assert counts(run(inputs, tmp_path / "out", other, on_change="redo")) == (12, 0, 0, 0)
    run(inputs, tmp_path / "fresh", other)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_what_changes_no_byte_is_no_change(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out")
    same = dataclasses.replace(ALL, seed=5)  # of a random colour, which this is not
    summary = run(
        inputs, tmp_path / "out", same, decoding=DecodeOptions(max_pixels=10**6), encoding=EncodeOptions("png", 50), workers=1, threads=1
    )
    assert counts(summary) == (0, 12, 0, 0)


def test_further_kinds_are_added_and_the_first_stay_known(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out", MaskOptions(("se",)))
    assert counts(run(inputs, tmp_path / "out", MaskOptions(("mask",)))) == (12, 0, 0, 0)
    assert counts(run(inputs, tmp_path / "out", MaskOptions(("se", "mask")))) == (0, 12, 0, 0)


@pytest.mark.parametrize("known", [False, True])
def test_an_output_that_no_journal_knows_is_refused_kept_or_replaced(inputs: Path, tmp_path: Path, known: bool) -> None:
    if known:  # the input is known, this kind of output is not
        run(inputs, tmp_path / "out", MaskOptions(("nse",)))
    foreign = tmp_path / "out" / "image00000_se.png"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"mine")
    masks = MaskOptions(("se",))
    with pytest.raises(UsageError, match="no journal knows"):
        run(inputs, tmp_path / "out", masks)
    assert foreign.read_bytes() == b"mine" and not (tmp_path / "out" / "image00003_se.png").exists()
    assert counts(run(inputs, tmp_path / "out", masks, overwrite="skip")) == (11, 1, 0, 0)
    assert counts(run(inputs, tmp_path / "out", masks)) == (0, 12, 0, 0)
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()
    assert counts(run(inputs, tmp_path / "out", masks)) == (1, 11, 0, 0)
    shutil.rmtree(tmp_path / "out" / ".seseg")
    assert counts(run(inputs, tmp_path / "out", masks, overwrite="redo")) == (12, 0, 0, 0)


def test_a_higher_limit_of_pixels_frees_what_was_too_large(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture(1, 30, 30))
    assert counts(run(tmp_path / "in", tmp_path / "out", decoding=DecodeOptions(max_pixels=899))) == (0, 0, 1, 0)
    assert records(tmp_path / "out") == {"a.png": "too_large"}
    assert counts(run(tmp_path / "in", tmp_path / "out", decoding=DecodeOptions(max_pixels=900))) == (1, 0, 0, 0)


def test_the_state_may_lie_elsewhere(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out", state_dir=str(tmp_path / "state"))
    assert not (tmp_path / "out" / ".seseg").exists()
    assert (tmp_path / "state" / "journal.sqlite").exists()
    assert counts(run(inputs, tmp_path / "out", state_dir=str(tmp_path / "state"))) == (0, 12, 0, 0)


def test_an_output_folder_inside_the_input_folder(inputs: Path) -> None:
    assert counts(run(inputs, inputs / "masked")) == (12, 0, 0, 0)
    assert counts(run(inputs, inputs / "masked")) == (0, 12, 0, 0)


@pytest.mark.parametrize("stage", ["decode", "composite", "encode", "infer", "read", "write"])
@pytest.mark.parametrize("kind", ["error", "no memory"])
def test_a_fault_of_a_stage_costs_one_image_and_the_next_run_mends_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, kind: str
) -> None:
    run(inputs, tmp_path / "undisturbed")
    place, name = {
        "decode": (pillow, "decode"),
        "infer": (CPULane, "infer"),
        "composite": (CPULane, "composite"),
        "encode": (CPULane, "_encode"),
        "read": (LocalStorage, "read"),
        "write": (output.OutputFolder, "write"),
    }[stage]
    real = getattr(place, name)
    calls = iter(range(10**6))
    lock = threading.Lock()

    def faulty(*arguments: Any, **named: Any) -> Any:
        with lock:
            number = next(calls)
        if number == 5:
            raise RuntimeError("injected") if kind == "error" else MemoryError
        return real(*arguments, **named)

    monkeypatch.setattr(place, name, faulty)
    assert counts(run(inputs, tmp_path / "out")) == (11, 0, 1, 0)
    ((_, reason),) = records(tmp_path / "out").items()
    wanted = {"decode": "decode_error", "infer": "engine_error", "read": "unreadable"}.get(stage, "encode_error")
    assert reason == wanted
    assert len(tree(tmp_path / "out")) == 33
    monkeypatch.undo()
    # damaged bytes stay damaged; what failed in this program is tried again
    run(inputs, tmp_path / "out", retry=stage == "decode")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("where", ["output", "journal"])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run(inputs, tmp_path / "undisturbed")
    if where == "output":
        real = os.replace
        calls = iter(range(10**6))

        def replace(source: Any, target: Any) -> None:
            if next(calls) >= 7:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
    else:
        put = Journal.put

        def refuse(self: Journal, rows: Any) -> None:
            rows = list(rows)
            if any(row.state == "done" for row in rows):
                raise StoppedError("the journal can't be written: database or disk is full")
            put(self, rows)

        monkeypatch.setattr(Journal, "put", refuse)
    summary = run(inputs, tmp_path / "out")
    assert summary.exit_code == 5 and "full" in str(summary.stopped) and summary.left > 0
    monkeypatch.undo()
    with Journal_(tmp_path / "out") as journal:
        for row in journal.rows("done"):
            assert all((tmp_path / "out" / name).is_file() for name in row.outputs)
        assert states(journal).get("done", 0) == summary.done
    run(inputs, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_an_output_folder_that_disappears_in_the_middle_is_one_clear_error(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)

    def committed(row: Any) -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    state = str(tmp_path / "state")
    make_inputs(inputs, 300)
    summary = run(inputs, tmp_path / "out", observer=RunObserver(committed=committed), state_dir=state)
    assert summary.exit_code == 5 and str(tmp_path / "out") in str(summary.stopped)
    run(inputs, tmp_path / "out", state_dir=state)
    run(inputs, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_an_engine_that_keeps_failing_stops_the_run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CPULane, "infer", lambda self, batch: 1 / 0)
    summary = run(inputs, tmp_path / "out")
    assert summary.exit_code == 3 and "in a row" in str(summary.stopped)
    monkeypatch.undo()
    assert counts(run(inputs, tmp_path / "out")) == (12, 0, 0, 0)


@pytest.mark.parametrize("limit", [3, 0.25])
def test_too_many_failures_stop_the_run(tmp_path: Path, limit: float) -> None:
    inputs = make_inputs(tmp_path / "in", 12, bad_every=2)
    summary = run(inputs, tmp_path / "out", max_failures=limit)
    assert summary.exit_code == 5 and summary.quarantined > 3 and "--max-failures" in str(summary.stopped)
    assert run(inputs, tmp_path / "out2", max_failures=6).exit_code == 2


def test_a_stop_finishes_what_is_in_flight_and_the_next_run_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 200)
    stops: list[Any] = []
    summary = run(inputs, tmp_path / "out", observer=RunObserver(started=stops.append, committed=lambda row: stops[0]()))
    assert summary.left > 0 and summary.done > 0 and summary.exit_code == 5
    assert len(tree(tmp_path / "out")) == 3 * summary.done
    run(inputs, tmp_path / "out")
    run(inputs, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_run_with_other_options_beside_a_living_one_is_refused(inputs: Path, tmp_path: Path) -> None:
    refused: list[UsageError] = []

    def planned(plan: Any, todo: Any) -> None:
        with pytest.raises(UsageError, match="is at work on") as caught:
            run(inputs, tmp_path / "out", dataclasses.replace(ALL, threshold=10))
        refused.append(caught.value)

    assert counts(run(inputs, tmp_path / "out", observer=RunObserver(planned=planned))) == (12, 0, 0, 0)
    assert refused


def test_shards_together_do_everything_once(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 40)
    parts = [run(inputs, tmp_path / "out", shard=(i, 3)) for i in (1, 2, 3)]
    assert sum(part.done for part in parts) == 40 and all(part.skipped == 0 for part in parts)
    run(inputs, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_file_that_changes_while_it_is_read_is_quarantined_and_tried_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inputs / "x.png").write_bytes(picture(77))
    real, cut = os.fstat, []

    def fstat(descriptor: int) -> Any:
        found = real(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith("x.png") and not cut:
            cut.append(os.truncate(descriptor_path := path, 5) or descriptor_path)
        return found

    monkeypatch.setattr(local.os, "fstat", fstat)
    assert counts(run(inputs, tmp_path / "out")) == (12, 0, 1, 0)
    assert cut and records(tmp_path / "out") == {"x.png": "changed"}
    monkeypatch.undo()
    (inputs / "x.png").write_bytes(picture(77))
    assert counts(run(inputs, tmp_path / "out")) == (1, 12, 0, 0)


def test_an_unreadable_file_is_quarantined_with_the_systems_words(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith("in/image00000.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(local.os, "open", refuse)
    assert counts(run(inputs, tmp_path / "out")) == (11, 0, 1, 0)
    assert records(tmp_path / "out") == {"image00000.png": "unreadable"}


def test_retry_runs_the_quarantined_again_with_their_own_options(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 9, bad_every=3)
    run(inputs, tmp_path / "out")
    for index in (2, 5):
        (path,) = inputs.rglob(f"image{index:05d}.png")
        path.write_bytes(picture(index))
    summary = retry_files(tmp_path / "out", backend=FakeBackend(16))
    assert counts(summary) == (2, 0, 1, 0) and summary.inputs == 3
    run(inputs, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    with pytest.raises(UsageError, match="no journal"):
        retry_files(tmp_path / "nowhere", backend=FakeBackend(16))


def test_the_summary_names_the_stage_that_holds_the_others_up(inputs: Path, tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(FakeBackend):
        def infer(self, images: Any) -> Any:
            gate.wait(0.02)
            return super().infer(images)

    summary = segment_files([inputs], tmp_path / "out", masks=ALL, backend=Slow(16))
    assert summary.bottleneck == "infer"
    stages = {stage.name: stage for stage in summary.stages}
    assert [*stages] == ["read", "decode", "infer", "composite", "encode", "write"] and stages["write"].jobs == 12
    assert any("bottleneck is infer" in line for line in summary.lines())
    json.dumps(summary.as_dict())


def test_a_slow_encoder_is_told_of_the_code_that_was_not_built(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow(self: CPULane, frame: Any, real: Any = CPULane._encode) -> Any:
        gate.wait(0.05)
        return real(self, frame)

    monkeypatch.setattr(CPULane, "_encode", slow)
    summary = run(inputs, tmp_path / "out")
    assert summary.bottleneck == "encode" and not any("not built" in line for line in summary.lines())
    monkeypatch.setattr(native, "MODULE", None)
    assert any("not built" in line for line in summary.lines())


class Journal_:
    """A journal of an output folder, closed at the end."""

    def __init__(self, target: Path) -> None:
        self._journal = Journal(target / ".seseg" / "journal.sqlite")

    def __enter__(self) -> Journal:
        return self._journal

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def test_one_pattern_and_one_path_are_not_read_letter_by_letter(tmp_path: Path) -> None:
    for name in ("include", "exclude"):
        with pytest.raises(UsageError, match=name):
            RunOptions(**{name: "*.png"})
    make_inputs(tmp_path / "in", 2)
    for inputs in (str(tmp_path / "in"), tmp_path / "in"):
        assert segment_files(inputs, tmp_path / f"out{type(inputs).__name__}", backend=FakeBackend(16)).done == 2  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no colour"):
        MaskOptions(color="red")  # type: ignore[arg-type]
