"""Workers that fail in ways that nobody foresaw: the run ends, with every input answered for, and only the guilty pay."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import DeviceError, RunObserver, RunOptions, UsageError, segment_files
from seseg_trt.files import retry_files
from seseg_trt.journal.journal import Journal
from seseg_trt.models import cache
from seseg_trt.workers import process, supervisor
from tests.faults import SEGV, Faulty, Patched
from tests.runs import counts, make_inputs, picture, records, tree
from tests.seseg_trt.workers.test_supervisor import ROOT, children, run


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["work.ParentWork.add", "stream.Stream._settle", "pipeline.Pipeline._put"])
def test_an_exception_outside_of_every_stage_costs_no_input(tmp_path: Path, place: str) -> None:
    module, kind, name = place.split(".")
    module = "seseg_trt.workers.worker" if kind == "ParentWork" else f"seseg_trt.run.{module}"
    code = f"""
import importlib, os, pathlib
kind = getattr(importlib.import_module({module!r}), {kind!r})
real, mark = getattr(kind, {name!r}), pathlib.Path(backend.mark)
def fails(*arguments):
    if not mark.exists():
        mark.touch()
        raise MemoryError
    return real(*arguments)
setattr(kind, {name!r}, fails)
"""
    inputs = make_inputs(tmp_path / "in", 12)
    assert counts(run(inputs, tmp_path / "out", backend=Patched(code, mark=str(tmp_path / "mark")))) == (12, 0, 0, 0)
    assert (tmp_path / "mark").exists() and not children()


@pytest.mark.timeout(60)
def test_a_worker_that_is_never_ready_keeps_no_run_from_ending(tmp_path: Path) -> None:
    code = "import os, pathlib, time\nmark = pathlib.Path(backend.mark)\ntry:\n    mark.touch(exist_ok=False)\nexcept FileExistsError:\n    time.sleep(600)"
    inputs = make_inputs(tmp_path / "in", 8)
    assert counts(run(inputs, tmp_path / "out", backend=Patched(code, mark=str(tmp_path / "mark")), processes=2)) == (8, 0, 0, 0)


@pytest.mark.timeout(60)
def test_a_worker_that_hangs_at_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SECONDS_TO_END", 0.5)
    code = "import time; from seseg_trt.lanes.cpu import CPULane; CPULane.close = lambda self: time.sleep(600)"
    assert counts(run(make_inputs(tmp_path / "in", 5), tmp_path / "out", backend=Patched(code))) == (5, 0, 0, 0)
    assert not children()


@pytest.mark.timeout(60)
def test_a_worker_whose_child_outlives_it_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SECONDS_PER_STATUS", 0.1)
    code = """
import os, time
from seseg_trt.codecs import pillow
real = pillow.decode
def decode(data, options):
    if data.endswith(b"fork"):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        os._exit(3)
    return real(data, options)
pillow.decode = decode
"""
    inputs = make_inputs(tmp_path / "in", 5)
    (inputs / "forks.png").write_bytes(picture(9) + b"fork")
    assert counts(run(inputs, tmp_path / "out", backend=Patched(code))) == (5, 0, 1, 0)
    assert records(tmp_path / "out") == {"forks.png": "crashed"}
    for pid in children():  # what it forked
        os.kill(pid, signal.SIGKILL)


def test_a_large_backend_comes_in_pieces(tmp_path: Path) -> None:
    assert counts(run(make_inputs(tmp_path / "in", 3), tmp_path / "out", backend=Patched("", ballast=os.urandom(2_000_000)))) == (
        3,
        0,
        0,
        0,
    )


@pytest.mark.timeout(120)
def test_who_spoils_a_process_does_not_get_its_neighbour_quarantined(tmp_path: Path) -> None:
    code = """
import os, signal
from seseg_trt.codecs import pillow
real, spoilt = pillow.decode, []
def decode(data, options):
    if spoilt:
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(b"evil"):
        spoilt.append(True)
    return real(data, options)
pillow.decode = decode
"""
    inputs = make_inputs(tmp_path / "in", 12)
    (inputs / "aaa.png").write_bytes(picture(99) + b"evil")
    assert counts(run(inputs, tmp_path / "out", backend=Patched(code), workers=1)) == (13, 0, 0, 0)


def test_one_of_several_workers_of_a_device_may_fail_to_begin(tmp_path: Path) -> None:
    code = """
import pathlib, time
mark = pathlib.Path(backend.mark)
try:
    mark.touch(exist_ok=False)
except FileExistsError:
    while not mark.read_bytes():  # until the other has done something
        time.sleep(0.01)
    raise MemoryError
"""
    backend = Patched(code, mark=str(tmp_path / "mark"), seconds=0.01)
    observer = RunObserver(committed=lambda row: (tmp_path / "mark").write_bytes(b"x") and None)
    summary = run(make_inputs(tmp_path / "in", 200), tmp_path / "out", backend=backend, processes=2, observer=observer)
    assert counts(summary) == (200, 0, 0, 0) and summary.exit_code == 0
    assert "MemoryError" in (tmp_path / "out" / ".seseg" / "log.txt").read_text()


@pytest.mark.parametrize("processes", [0, 1])
def test_names_that_are_not_utf8_may_stand_in_messages(tmp_path: Path, processes: int) -> None:
    inputs = make_inputs(tmp_path / "in", 2)
    (inputs / os.fsdecode(b"\xff" * 250 + b".png")).write_bytes(picture(5))
    assert counts(run(inputs, tmp_path / "out", processes=processes)) == (2, 0, 1, 0)
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite")) as journal:
        (row,) = journal.rows("quarantined")
    assert row.reason == "encode_error" and "\\xff" in (row.message or "").replace("\\udcff", "\\xff")


def test_utf8_mode_reaches_the_workers(tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "\xe9.png").write_bytes(picture(1))
    code = "import sys; from seseg_trt import *; from tests.faults import Faulty\nprint(segment_files([sys.argv[1]], sys.argv[2], options=RunOptions(processes=1), backend=Faulty()).done)"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", code, str(inputs), str(tmp_path / "out")]
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_folder_that_was_removed_may_be_the_current_one(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 2)
    (tmp_path / "gone").mkdir()
    # Imported before: Python 3.13.0 can't import NumPy in a folder that is gone.
    code = (
        "import os, sys\nfrom seseg_trt import *\nfrom tests.faults import Faulty\nos.chdir(sys.argv[3]); os.rmdir(sys.argv[3])\n"
        "print(segment_files([sys.argv[1]], sys.argv[2], options=RunOptions(processes=1), backend=Faulty()).done)"
    )
    command = [sys.executable, "-c", code, str(inputs), str(tmp_path / "out"), str(tmp_path / "gone")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr


def test_workers_that_cannot_be_started_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process.subprocess, "Popen", refuse)
    with pytest.raises(DeviceError, match="Too many open files") as caught:
        run(make_inputs(tmp_path / "in", 2), tmp_path / "out")
    assert "ulimit" in caught.value.hint


def test_a_journal_that_cannot_be_written_is_a_summary_and_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seseg_trt import StoppedError

    inputs = make_inputs(tmp_path / "in", 20)
    put = Journal.put

    def refuse(self: Journal, rows: Any) -> None:
        rows = list(rows)
        if any(row.state == "done" for row in rows):
            raise StoppedError("the journal can't be written: database or disk is full")
        put(self, rows)

    monkeypatch.setattr(Journal, "put", refuse)
    summary = run(inputs, tmp_path / "out")
    assert summary.exit_code == 5 and summary.left == 20 and not children()
    monkeypatch.undo()
    assert counts(run(inputs, tmp_path / "out")) == (20, 0, 0, 0)


def test_a_retry_with_another_model_is_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 2)
    (inputs / "bad.png").write_bytes(b"")
    model = tmp_path / "model.onnx"
    model.write_bytes(cache.demo_path().read_bytes())
    segment_files([inputs], tmp_path / "out", model=model, options=RunOptions(processes=0))
    import onnx

    graph = onnx.load(model)
    graph.doc_string = "another"
    onnx.save(graph, model)
    with pytest.raises(UsageError, match="another"):
        retry_files(tmp_path / "out", options=RunOptions(processes=0))
    assert not [name for name in tree(tmp_path / "out") if "bad" in name]


@pytest.mark.timeout(120)
def test_workers_that_die_of_every_input_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CRASHES_BEFORE_THE_FIRST", 3)
    code = "import os, signal; from seseg_trt.lanes.cpu import CPULane; CPULane.infer = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)"
    inputs = make_inputs(tmp_path / "in", 20)
    summary = run(inputs, tmp_path / "out", backend=Patched(code))
    assert summary.exit_code == 3 and counts(summary) == (0, 0, 3, 17) and "none was done" in str(summary.stopped)
    assert counts(run(inputs, tmp_path / "out")) == (20, 0, 0, 0)


@pytest.mark.timeout(120)
def test_inputs_that_kill_are_tried_again_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CRASHES_BEFORE_THE_FIRST", 3)
    inputs = make_inputs(tmp_path / "in", 20)
    monkeypatch.setattr(process, "TASKS_AT_FIRST", 4)
    for index in range(7):  # they come first by their names, and more than a worker gets at once
        (inputs / f"aaa{index:02d}.png").write_bytes(picture(index) + SEGV)
    assert run(inputs, tmp_path / "out", backend=Faulty()).exit_code == 3
    committed: list[str] = []
    observer = RunObserver(committed=lambda row: committed.append(row.state))
    summary = run(inputs, tmp_path / "out", backend=Faulty(), observer=observer)
    assert summary.exit_code in (2, 3) and summary.done + summary.quarantined + summary.left == 27
    while summary.exit_code == 3:
        summary = run(inputs, tmp_path / "out", backend=Faulty())
    assert len([name for name in tree(tmp_path / "out") if "aaa" not in name]) == 40
