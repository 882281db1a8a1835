"""Kill a run before each of its steps on disk, in turn, and resume it: ``python -m tests.soak.each_step KIND [STRIDE [OFFSET]]``.

A step is a call that creates, opens for writing, locks, renames, removes or truncates a file or a folder; Python reports these calls as
audit events. Kills at random moments almost never hit the short time between two steps. The result is a line of JSON on standard output;
an AssertionError is raised if anything is wrong.

KIND is ``folder``, ``tar``, ``results`` (with a Parquet file and a report), ``nothing`` (killed, then killed again in a run that has
nothing left to do), ``parent`` or ``parent-tar`` (of a worker process), ``worker`` or ``worker-tar``: the worker is killed, and the run itself must
end as if undisturbed. Every STRIDE-th step is tested, from OFFSET on.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend, MaskOptions, RunOptions
from seseg_trt.cli.console import run_shown
from seseg_trt.files import segment_files
from seseg_trt.reports.run_page import write_page
from tests.faults import Dying, watch_steps
from tests.runs import make_inputs
from tests.soak.soak import STATE_FILES

MASKS = MaskOptions(("se", "mask"), threshold=50)
KINDS = ("folder", "tar", "results", "nothing", "parent", "parent-tar", "worker", "worker-tar")
WITH_RESULTS = ("results",)
INPUTS = 5
BAD = 4
NO_TWO_ALIKE = ("log.txt", "lock", "report.html", "results.parquet")
"""Files whose content contains times or process ids."""


def run(kind: str, top: Path, backend: FakeBackend | None = None) -> int:
    """Run over the inputs and return the exit code."""
    target = str(top / ("out.tar" if "tar" in kind else "out"))
    more = {"results": str(top / "results.parquet")} if kind in WITH_RESULTS else {}
    processes = int(kind.startswith(("parent", "worker")))
    options = RunOptions(keep_suffix=True, workers=1, processes=processes, **more)  # type: ignore[arg-type]
    backend = backend or FakeBackend(16)
    with run_shown(target, options, quiet=True, collect=kind in WITH_RESULTS) as shown:
        summary = segment_files([top.parent / "in"], target, masks=MASKS, options=options, observer=shown.observer, backend=backend)
        if shown.collector is not None:
            write_page(top / "report.html", summary, shown.collector, "blurred")
    return shown.finish(summary, as_json=False, quiet=True)


def in_a_child(work: Callable[[], int], at: int | None = None) -> tuple[int, int]:
    """Call a function in a child process, which is killed before step `at`; return its exit code (or minus the signal) and its steps."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reading)
            taken = [0]
            watch_steps(at, taken.append)
            code = work()
            os.write(writing, str(taken[-1]).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        steps = int(pipe.read() or b"0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps


def everything(top: Path) -> dict[str, object]:
    """Return all files and folders with their content; None for folders and for files whose content differs from run to run."""
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
    """Return the rows of the Parquet file, without the values that differ from run to run."""
    if not (top / "results.parquet").exists():
        return []
    import pyarrow.parquet

    return [{**row, "attempt": None} for row in pyarrow.parquet.read_table(top / "results.parquet").to_pylist()]


def check(kind: str, folder: Path, stride: int = 1, offset: int = 0) -> dict[str, object]:
    """Kill a run, or its worker, before each step and let it go on.

    Returns:
        The kind, the number of steps, and how many processes were killed.

    Raises:
        AssertionError: the files at the end are not those of an undisturbed run.
    """
    make_inputs(folder / "in", INPUTS, bad_every=BAD)
    whole = folder / "whole"
    whole.mkdir()
    code, steps = in_a_child(partial(run, kind, whole))
    assert code == 2 and steps > 20, (code, steps)
    state = whole / ("out.tar.seseg" if "tar" in kind else "out/.seseg")
    assert {path.name for path in state.iterdir()} <= STATE_FILES
    if kind == "nothing":
        code, steps_again = in_a_child(partial(run, kind, whole))
        assert code == 2 and steps_again, (code, steps_again)
        before, steps = steps, steps_again
    expected, rows = everything(whole), results_of(whole)
    killed = at = 0
    for at in itertools.count(1 + offset, stride):
        top = folder / f"at{at}"
        top.mkdir()
        if kind.startswith("worker"):
            mark = folder / f"mark{at}"
            assert run(kind, top, Dying(at, mark)) == 2, at
            if not mark.exists():
                break  # it has fewer steps
            killed += 1
        elif at > steps:
            break
        else:
            if kind == "nothing":
                in_a_child(partial(run, kind, top), before - at % (before // 2))
                in_a_child(partial(run, kind, top))
            code, _ = in_a_child(partial(run, kind, top), at)
            assert code in (2, -signal.SIGKILL), (at, code)
            killed += code == -signal.SIGKILL
            code, _ = in_a_child(partial(run, kind, top))
            assert code == 2, (at, code)
        found = everything(top)
        assert found.keys() == expected.keys(), (at, sorted(found.keys() ^ expected.keys()))
        assert found == expected, (at, [name for name in found if found[name] != expected[name]])
        assert results_of(top) == rows, at
        shutil.rmtree(top)
    return {"kind": kind, "steps": at - 1 if kind.startswith("worker") else steps, "killed": killed}


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1] in WITH_RESULTS:
            import pyarrow.parquet  # noqa: F401 - once here, rather than in each child
        sys.stdout.write(json.dumps(check(sys.argv[1], Path(folder), *numbers)) + "\n")
