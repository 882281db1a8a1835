"""One run owns a state folder; a second one is refused, and whoever dies owns nothing any more."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, RunObserver, RunOptions, StoppedError, Summary, UsageError, segment_files
from seseg_trt.cli.main import group
from seseg_trt.cli.main import run as run_command
from seseg_trt.storage.locks import LOCK, is_owned, sole_owner
from tests.runs import counts, make_inputs, tree

HOLDS = """
import subprocess, sys
from pathlib import Path
from seseg_trt.storage.locks import sole_owner
with sole_owner(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def run(inputs: Path, target: Path, observer: RunObserver | None = None, **options: Any) -> Summary:
    return segment_files([inputs], target, options=RunOptions(**options), observer=observer, backend=FakeBackend(16))


def test_a_second_run_is_refused_with_the_way_out_and_the_first_is_undisturbed(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 40, bad_every=9)
    refused: list[UsageError] = []
    others: list[Summary] = []

    def second(row: object) -> None:
        if refused:
            return
        with pytest.raises(UsageError) as caught:
            run(inputs, tmp_path / "out", on_change="redo", overwrite="redo", retry=True)
        refused.append(caught.value)
        others.append(run(inputs, tmp_path / "out2", shard=(1, 2)))  # a state folder of its own

    summary = run(inputs, tmp_path / "out", RunObserver(committed=second))
    assert str(os.getpid()) in refused[0].message and str(tmp_path / "out" / ".seseg") in refused[0].message
    assert "--shard" in refused[0].hint and "--state" in refused[0].hint and refused[0].exit_code == 1
    assert counts(summary) == (36, 0, 4, 0) and summary.stopped is None and others[0].left == 0
    run(inputs, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    assert counts(run(inputs, tmp_path / "out")) == (0, 36, 4, 0)


def test_the_command_line_refuses_it_with_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = make_inputs(tmp_path / "in", 1)
    with sole_owner(tmp_path / "state"):
        code = run_command(group, ["segment", "--model", "demo", "--state", str(tmp_path / "state"), str(inputs), str(tmp_path / "out")])
    said = capfd.readouterr().err
    assert code == 1 and "is at work on" in said and "--shard" in said and "--state" in said
    assert not (tmp_path / "out").exists() and os.listdir(tmp_path / "state") == [LOCK]


def test_an_owner_is_seen_by_others_until_it_ends(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    assert not is_owned(state)
    with sole_owner(state):
        assert is_owned(state)
        with pytest.raises(UsageError), sole_owner(state):
            pass
        assert is_owned(state)
    assert not is_owned(state)
    with pytest.raises(ZeroDivisionError), sole_owner(state):
        raise ZeroDivisionError
    assert not is_owned(state)
    with sole_owner(state):
        assert (state / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_killed_owner_owns_nothing_even_while_its_children_live(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        try:
            assert is_owned(tmp_path)
            with pytest.raises(UsageError, match=f"process {owner.pid} is at work"), sole_owner(tmp_path):
                pass
            owner.kill()
            owner.wait()
            assert not is_owned(tmp_path)
            with sole_owner(tmp_path):
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, 9)


def test_whoever_only_looks_does_not_keep_a_run_from_beginning(tmp_path: Path) -> None:
    with sole_owner(tmp_path):
        pass
    looking = threading.Event()

    def look() -> None:
        with open(tmp_path / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            time.sleep(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    with sole_owner(tmp_path):
        assert is_owned(tmp_path)
    thread.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    inputs = make_inputs(tmp_path / "in", 2)
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoppedError) as caught:
        run(inputs, tmp_path / "out")
    assert "--state" in caught.value.hint and os.strerror(number) in caught.value.message
    assert tree(tmp_path / "out") == {} and os.listdir(tmp_path / "out" / ".seseg") == [LOCK]
    assert not is_owned(tmp_path / "out" / ".seseg")
    monkeypatch.undo()
    assert run(inputs, tmp_path / "out").done == 2


def test_a_state_folder_that_cannot_be_made_or_whose_lock_leads_elsewhere_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoppedError, match="can't be kept in") as caught, sole_owner(tmp_path / "file" / "state"):
        pass
    assert "--state" in caught.value.hint
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(StoppedError, match="can't be kept in"), sole_owner(tmp_path / "state"):
        pass
    assert (tmp_path / "file").read_bytes() == b"x"


def test_an_output_folder_that_goes_in_the_middle_stops_the_run(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 300)
    observer = RunObserver(committed=lambda row: shutil.rmtree(tmp_path / "out", ignore_errors=True))
    summary = run(tmp_path / "in", tmp_path / "out", observer)
    assert summary.exit_code == 5 and str(tmp_path / "out") in str(summary.stopped)
