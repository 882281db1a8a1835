"""``python -m tests.soak.each_step KIND [STRIDE [OFFSET]]``: a run killed before each of its steps on the disk, one step after the other, and gone on with.

A step is a call that makes, opens for writing, locks, renames, removes or shortens a file or a folder; Python announces them (audit events). Moments
drawn at random meet the short ways between two of them about never. Prints a line of JSON; raises AssertionError where anything is not as it must be.

KIND is ``folder``, ``tar``, ``results`` (a Parquet file and a report as well), ``nothing`` (killed, and then again in the run that finds nothing
left to do), ``beside`` (one of two that work on one folder, with results) or ``beside-tar``. Every STRIDE-th step is taken, from OFFSET on.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend, MaskOptions, RunOptions
from seseg_trt.console import run_shown
from seseg_trt.files import segment_files
from tests.runs import make_inputs
from tests.soak.soak import STATE_FILES

MASKS = MaskOptions(("se", "mask"), threshold=50)
KINDS = ("folder", "tar", "results", "nothing", "beside", "beside-tar")
WITH_RESULTS = ("results", "beside")
STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
INPUTS = 5
INPUTS_OF_TWO = 12
"""The first process takes eight."""
BAD = 4
SECONDS_TO_WAIT = 1.0
NO_TWO_ALIKE = ("log.txt", "report.html", "results.parquet", "0.json")
"""Times are in them."""


class Waiting(FakeBackend):
    """The fake network, which waits at first until a file is there, and not for long; until when, it says in a file beside it."""

    def __init__(self, until: Path) -> None:
        super().__init__(16)
        self._until = until
        self._end: float | None = None

    def infer(self, images: Any) -> Any:
        """See :class:`FakeBackend`."""
        if self._end is None:
            self._end = time.monotonic() + SECONDS_TO_WAIT
            written = self._until.with_suffix(".written")
            written.write_text(str(self._end))
            written.replace(self._until.with_suffix(".waits"))
        while not self._until.exists() and time.monotonic() < self._end:
            time.sleep(0.002)
        return super().infer(images)


def run(kind: str, top: Path, until: Path | None = None) -> int:
    """Run over the inputs; return the exit code."""
    target = str(top / ("out.tar" if "tar" in kind else "out"))
    more = {"results": str(top / "results.parquet")} if kind in WITH_RESULTS else {}
    options = RunOptions(keep_suffix=True, workers=1, **more)  # type: ignore[arg-type]
    backend = Waiting(until) if until else FakeBackend(16)
    with run_shown(target, options, quiet=True, collect=kind in WITH_RESULTS) as shown:
        summary = segment_files([top.parent / "in"], target, masks=MASKS, options=options, watch=shown.watch, backend=backend)
        if kind in WITH_RESULTS:
            shown.report(top / "report.html", summary, "blurred")
    return shown.finish(summary, as_json=False, quiet=True)


def in_a_child(work: Callable[[], int], at: int | None = None) -> tuple[int, int]:
    """Do something in a child that dies at a step, if it gets there; return its exit code (or minus the signal) and the steps it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reading)
            counter = itertools.count(1)
            taken = [0]

            def step(event: str, arguments: tuple[Any, ...]) -> None:
                if event in STEPS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
                    taken[0] = next(counter)
                    if taken[0] == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(step)
            code = work()
            os.write(writing, str(taken[0]).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        steps = int(pipe.read() or b"0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps


def beside(one: Callable[[], int], other: Callable[[], int], at: int, gone: Path) -> tuple[int, bool]:
    """Kill one of two runs, while the other waits for that; return its exit code, and whether the other one surely was at work then."""
    codes = []
    survivor = threading.Thread(target=lambda: codes.append(in_a_child(other)[0]))
    survivor.start()
    waits = gone.with_suffix(".waits")
    while survivor.is_alive() and not waits.exists():
        time.sleep(0.002)
    code, _ = in_a_child(one, at)
    outlived = code == -signal.SIGKILL and waits.exists() and time.monotonic() < float(waits.read_text())
    gone.touch()
    survivor.join()
    assert codes == [2], (at, codes)
    return code, outlived


def everything(top: Path) -> dict[str, object]:
    """Return all files and folders with what is in them; of those that no two runs have alike, only that they are there."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.name == "quarantine.jsonl":
            found[name] = [{**json.loads(line), "time": None, "attempt": None} for line in path.read_text().splitlines()]
        elif path.is_dir() or path.name.startswith("journal.sqlite") or path.name in NO_TWO_ALIKE:
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found


def results_of(top: Path) -> list[dict[str, Any]]:
    """Return the rows of the Parquet file, without what differs between two runs."""
    if not (top / "results.parquet").exists():
        return []
    import pyarrow.parquet

    return [{**row, "attempt": None} for row in pyarrow.parquet.read_table(top / "results.parquet").to_pylist()]


def check(kind: str, folder: Path, stride: int = 1, offset: int = 0) -> dict[str, object]:
    """Kill a run before each step; return how many steps there were, how many runs were killed, and how many of those another one outlived.

    Raises:
        AssertionError: a run that goes on does not end in what the undisturbed one makes.
    """
    make_inputs(folder / "in", INPUTS_OF_TWO if kind.startswith("beside") else INPUTS, bad_every=BAD)
    whole = folder / "whole"
    whole.mkdir()
    code, steps = in_a_child(partial(run, kind, whole))
    assert code == 2 and steps > 20, (code, steps)
    state = whole / ("out.tar.seseg" if "tar" in kind else "out/.seseg")
    assert {path.name for path in state.iterdir()} <= STATE_FILES | {"packed"}
    again = 0
    if kind == "nothing":
        code, again = in_a_child(partial(run, kind, whole))
        assert code == 2 and again, (code, again)
    expected, rows = everything(whole), results_of(whole)
    killed = survived = 0
    for at in range(1 + offset, (again or steps) + 1, stride):
        top = folder / f"at{at}"
        top.mkdir()
        one = partial(run, kind, top)
        if kind == "nothing":
            in_a_child(one, steps - at % (steps // 2))
            in_a_child(one)
        if kind.startswith("beside"):
            gone = folder / f"gone{at}"
            code, outlived = beside(one, partial(run, kind, top, gone), at, gone)
        else:
            code, outlived = in_a_child(one, at)[0], False
        assert code in (2, -signal.SIGKILL), (at, code)
        killed += code == -signal.SIGKILL
        survived += outlived
        for alone in (False, True) if outlived else (True,):  # who outlives another leaves nothing to be done
            if alone:
                code, _ = in_a_child(one)
                assert code == 2, (at, code)
            found = everything(top)
            assert found.keys() == expected.keys(), (at, alone, sorted(found.keys() ^ expected.keys()))
            assert found == expected, (at, alone, [name for name in found if found[name] != expected[name]])
            assert results_of(top) == rows, (at, alone)
        shutil.rmtree(top)
    return {"kind": kind, "steps": again or steps, "killed": killed, **({"outlived": survived} if kind.startswith("beside") else {})}


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1] in WITH_RESULTS:
            import pyarrow.parquet  # noqa: F401 - once, and not in every child
        sys.stdout.write(json.dumps(check(sys.argv[1], Path(folder), *numbers)) + "\n")
