"""Runs into tars that are refused, killed, or broken off at any step: the same command ends in the same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import RunObserver, UsageError
from seseg_trt.inputs.tar_index import Entry
from seseg_trt.journal.journal import Journal
from seseg_trt.outputs import packer as packing
from seseg_trt.outputs.tar import TarOutputs
from seseg_trt.run import work
from seseg_trt.storage.base import Stat
from tests.runs import counts, make_inputs, make_tar
from tests.seseg_trt.outputs.tars import nothing_stray, run, tars_of


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return make_inputs(tmp_path / "in", 25, bad_every=9)


@pytest.mark.parametrize("where", ["tar", "staged", "journal"])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real, set_packed = os.replace, Journal.set_packed
    calls = iter(range(10**6))

    def replace(source: Any, target: Any) -> None:
        kind = "tar" if str(target).endswith(".tar") else "staged"
        if kind == where and (where != "staged" or next(calls) > 7):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    def full(self: Journal, number: int, stat: Stat, entries: Iterable[tuple[str, Entry]]) -> None:
        self._db.execute("PRAGMA max_page_count = 1").fetchall()  # no more than there are
        set_packed(self, number, stat, [*entries, *((f"{number:0500d}", Entry(0, 0, 0)) for number in range(100))])

    monkeypatch.setattr(os, "replace", replace)
    if where == "journal":
        monkeypatch.setattr(Journal, "set_packed", full)
    summary = run(inputs, tmp_path / "m.tar")
    assert summary.exit_code == 5 and "full" in str(summary.stopped)
    monkeypatch.undo()
    assert run(inputs, tmp_path / "m.tar").exit_code == 2
    run(inputs, tmp_path / "whole.tar")
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    nothing_stray(tmp_path / "m.tar")


def test_a_second_run_on_the_tars_is_refused_and_the_first_is_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 5)
    inputs = make_inputs(tmp_path / "in", 100, bad_every=10)
    target = tmp_path / "m-%02d.tar"
    refused: list[UsageError] = []

    def second(row: Any) -> None:
        time.sleep(0.002)
        if len(refused) < 3:
            with pytest.raises(UsageError, match="is at work on") as caught:
                run(inputs, target, overwrite="redo")
            refused.append(caught.value)

    assert run(inputs, target, tar_entries=30, observer=RunObserver(committed=second)).unpacked == 0
    assert len(refused) == 3 and "--state" in refused[0].hint
    run(inputs, tmp_path / "whole" / "m-%02d.tar", tar_entries=30)
    assert tars_of(tmp_path) == tars_of(tmp_path / "whole") and len(tars_of(tmp_path)) == 4
    nothing_stray(target)


DIES = """
import fnmatch, os, signal, sys, time
from seseg_trt import FakeBackend, MaskOptions, RunOptions, segment_files
from seseg_trt.inputs.tar_index import Entry
from seseg_trt.journal.journal import Journal
from seseg_trt.outputs import packer
from seseg_trt.run import work

source, target, owner, name, mark, number, when = sys.argv[1:]
packer.SECONDS_BETWEEN_LOOKS, work.OUTCOMES_PER_COMMIT = 0.01, 7
owner = {"os": os, "Journal": Journal}[owner]
real, calls = getattr(owner, name), iter(range(10**6))

def dies(*arguments, **named):
    due = fnmatch.fnmatch(str(arguments[-1]), mark) and next(calls) == int(number)
    if due and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = real(*arguments, **named)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

class Slow(FakeBackend):
    def infer(self, images):
        time.sleep(0.002)
        return super().infer(images)

setattr(owner, name, dies)
entries = 25 if "%" in target else None
masks = MaskOptions(("se", "mask"), threshold=50)
summary = segment_files([source], target, masks=masks, options=RunOptions(tar_entries=entries), backend=Slow(16))
sys.exit(summary.exit_code)
"""


@pytest.mark.parametrize("pattern", ["m.tar", "m-%02d.tar"])
def test_runs_that_are_killed_at_any_moment_end_in_the_same_tars(tmp_path: Path, pattern: str) -> None:
    make_tar(tmp_path / "in.tar", make_inputs(tmp_path / "in", 60, bad_every=17))
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    run(tmp_path / "in.tar", tmp_path / "whole" / pattern, **({"tar_entries": 25} if "%" in pattern else {}))
    target = tmp_path / "killed" / pattern

    def killed(*fault: object) -> int:
        command = [sys.executable, "-c", DIES, str(tmp_path / "in.tar"), str(target), *map(str, fault)]
        return subprocess.run(command, check=False).returncode

    chance = random.Random(5)
    faults: list[tuple[object, ...]] = [("os", "replace", "*/staged/*", chance.randint(0, 20), when) for when in ("before", "after")]
    faults += [("Journal", "put", "*", 3, "before"), ("Journal", "put", "*", 3, "after")]
    faults += [("os", "replace", "*.tar", 0, when) for when in ("before", "after")]
    faults += [("Journal", "set_packed", "*", 0, when) for when in ("before", "after")]
    faults += [("os", "unlink", "*/staged/*", 4, when) for when in ("before", "after")]
    for fault in faults:
        assert killed(*fault) == -signal.SIGKILL, fault
    assert killed("os", "replace", "nowhere", 0, "before") == 2
    assert tars_of(tmp_path / "killed") == tars_of(tmp_path / "whole") and len(tars_of(tmp_path / "whole")) == (3 if "%" in pattern else 1)
    nothing_stray(target)


@pytest.mark.parametrize("place", ["_write_tar", "add", "rename", "unlink", "record", "recorded"])
def test_packing_that_is_broken_off_anywhere_is_done_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run(inputs, tmp_path / "whole.tar")
    calls = iter(range(10**6))
    places: dict[str, tuple[Any, str]] = {"add": (tarfile.TarFile, "addfile"), "rename": (os, "replace"), "unlink": (os, "unlink")}
    places |= dict.fromkeys(("record", "recorded"), (Journal, "set_packed"))
    owner, name = places.get(place, (TarOutputs, place))
    real = getattr(owner, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named) if place == "recorded" else None
        relevant = fnmatch(str(arguments[-1]), {"rename": "*.tar", "unlink": "*/staged/*"}.get(place, "*"))
        if relevant and next(calls) == (9 if place in ("add", "unlink") else 0):
            raise KeyboardInterrupt  # no handler of errors of ours takes it
        return found if place == "recorded" else real(*arguments, **named)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "m.tar")
    monkeypatch.undo()
    assert (tmp_path / "m.tar").exists() == (place in ("unlink", "record", "recorded"))
    assert counts(run(inputs, tmp_path / "m.tar")) == (0, 23, 2, 0)
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    nothing_stray(tmp_path / "m.tar")
