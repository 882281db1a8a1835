"""One parent and its workers: an input can only cost itself, and nothing outlives the parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import DeviceError, MaskOptions, ModelError, RunObserver, RunOptions, Summary, UsageError, segment_files
from seseg_trt.journal.journal import Journal
from seseg_trt.workers import process, supervisor
from tests.faults import HANG, KILL, LEAK, SEGV, Faulty
from tests.runs import counts, how_many, make_inputs, picture, records, states, tree

ROOT = Path(__file__).parents[3]
MASKS = MaskOptions(("se", "mask"), threshold=50)


def run(inputs: Path, target: Path, *, backend: Any = None, observer: RunObserver | None = None, **options: Any) -> Summary:
    chosen = RunOptions(**{"processes": 1, **options})
    summary = segment_files([inputs], target, masks=MASKS, options=chosen, backend=backend or Faulty(), observer=observer)
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def workers_of(target: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads((target / ".seseg" / "workers.json").read_bytes()))
    return []


def children(pid: int | None = None) -> list[int]:
    """Return the workers whose parent is this process, or the one named."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().split(b"\0")
            if command[-2:-1] == [str(pid or os.getpid()).encode()] and any(b"seseg_trt.workers" in part for part in command):
                found.append(int(path.parent.name))
    return found


def spoil(inputs: Path, name: str, ending: bytes, seed: int = 999) -> Path:
    path = inputs / name
    path.write_bytes(picture(seed) + ending)
    return path


def test_any_number_of_processes_makes_the_same_tree(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 120, bad_every=10)
    expected = None
    for processes in (0, 1, 2, 3):
        target = tmp_path / f"out{processes}"
        committed: list[Any] = []
        summary = run(inputs, target, processes=processes, observer=RunObserver(committed=committed.append))
        assert counts(summary) == (108, 0, 12, 0) and summary.decoded_by == {"pillow": 108}
        assert len(committed) == len({row.path for row in committed}) == 120
        found = tree(target)
        assert expected in (None, found)
        expected = found
        assert {path.name for path in (target / ".seseg").iterdir()} <= {"journal.sqlite", "lock", "log.txt", "quarantine.jsonl"}
        assert sum(int(line.split()[-2]) for line in summary.workers) == (120 if processes else 0)
    assert run(inputs, tmp_path / "out2", processes=2).skipped == 108  # nothing is left, so no process is started
    assert not children()


@pytest.mark.parametrize(("ending", "said"), [(SEGV, "SIGSEGV"), (KILL, "SIGKILL")])
def test_an_image_on_which_a_decoder_dies_costs_itself_alone(tmp_path: Path, ending: bytes, said: str) -> None:
    inputs = make_inputs(tmp_path / "in", 40)
    spoil(inputs, "killer.png", ending)
    summary = run(inputs, tmp_path / "out")
    assert counts(summary) == (40, 0, 1, 0) and summary.exit_code == 2
    assert records(tmp_path / "out") == {"killer.png": "crashed"}
    assert said in (tmp_path / "out" / ".seseg" / "quarantine.jsonl").read_text()
    (inputs / "killer.png").unlink()
    run(inputs, tmp_path / "undisturbed", processes=0)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_several_killers_among_good_images(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 60)
    for index in range(3):
        spoil(inputs, f"sub1/image{index:05d}_killer.png", SEGV, seed=index)
    summary = run(inputs, tmp_path / "out", processes=2)
    assert counts(summary) == (60, 0, 3, 0) and set(records(tmp_path / "out").values()) == {"crashed"}


def test_who_dies_once_is_tried_again(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 30)
    spoil(inputs, "once.png", SEGV)
    (tmp_path / "marks").mkdir()
    assert counts(run(inputs, tmp_path / "out", backend=Faulty(once=tmp_path / "marks"))) == (31, 0, 0, 0)


def test_an_image_that_hangs_ends_with_its_worker(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 30)
    spoil(inputs, "slow.png", HANG)
    begun = time.monotonic()
    summary = run(inputs, tmp_path / "out", timeout=0.5)
    assert time.monotonic() - begun < 60
    assert counts(summary) == (30, 0, 1, 0) and records(tmp_path / "out") == {"slow.png": "timeout"}
    assert not children()


def test_in_the_callers_process_a_hang_stops_the_run_and_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(tmp_path / "in", 5)
    spoil(inputs, "slow.png", HANG)
    faulty, release = Faulty(), threading.Event()
    from seseg_trt.codecs import pillow

    real = pillow.decode
    monkeypatch.setattr(pillow, "decode", lambda data, options: release.wait() if data.endswith(HANG) else real(data, options))
    summary = run(inputs, tmp_path / "out", backend=faulty, processes=0, timeout=0.3)
    release.set()
    assert summary.exit_code == 5 and "slow.png" in str(summary.stopped) and "processes=1" in str(summary.stopped)
    monkeypatch.undo()
    (inputs / "slow.png").write_bytes(picture(999))
    assert run(inputs, tmp_path / "out", processes=0).left == 0


def test_workers_killed_from_outside_cost_nothing(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 300)
    killed: list[int] = []

    def committed(row: Any) -> None:
        if len(killed) < 3 and (found := children()):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    summary = run(inputs, tmp_path / "out", backend=Faulty(seconds=0.003), processes=2, observer=RunObserver(committed=committed))
    assert len(killed) == 3 and counts(summary) == (300, 0, 0, 0) and summary.stopped is None
    run(inputs, tmp_path / "undisturbed", processes=0)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    assert not children()


def test_a_worker_that_leaks_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MEMORY_ALLOWED", 64 << 20)
    monkeypatch.setattr(supervisor, "SECONDS_PER_STATUS", 0.05)
    inputs = make_inputs(tmp_path / "in", 10)
    for index in range(20):
        spoil(inputs, f"leak{index:02d}.png", LEAK, seed=index)
    pids: set[int] = set()
    observer = RunObserver(committed=lambda row: pids.update(children()))
    summary = run(inputs, tmp_path / "out", backend=Faulty(seconds=0.05), observer=observer, memory=1 << 20)
    assert counts(summary) == (30, 0, 0, 0) and len(pids) > 1


def test_a_parent_that_is_killed_takes_its_workers_with_it(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 400)
    program = (
        "import sys\nfrom seseg_trt import *\nfrom tests.faults import Faulty\n"
        "segment_files([sys.argv[1]], sys.argv[2], masks=MaskOptions(('se', 'mask'), threshold=50), "
        "options=RunOptions(processes=2), backend=Faulty(seconds=0.02))\n"  # no __main__ guard is asked for
    )
    with subprocess.Popen([sys.executable, "-c", program, str(inputs), str(tmp_path / "out")], cwd=ROOT) as parent:
        while how_many(tmp_path / "out") < 20 or len(workers := children(parent.pid)) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.02)
    run(inputs, tmp_path / "out", processes=2)
    run(inputs, tmp_path / "undisturbed", processes=0)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_stop_finishes_what_is_in_flight(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 400)
    stops: list[Any] = []
    observer = RunObserver(started=stops.append, committed=lambda row: stops[0]())
    summary = run(inputs, tmp_path / "out", backend=Faulty(seconds=0.01), processes=2, observer=observer)
    assert 0 < summary.done < 400 and summary.left == 400 - summary.done and summary.exit_code == 5
    assert len(tree(tmp_path / "out")) == 2 * summary.done
    assert run(inputs, tmp_path / "out").done == summary.left


def test_a_second_run_on_the_same_state_is_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 6)
    refused: list[UsageError] = []

    def planned(plan: Any, remaining: Any) -> None:
        with pytest.raises(UsageError) as caught:
            run(inputs, tmp_path / "out")
        refused.append(caught.value)

    assert counts(run(inputs, tmp_path / "out", observer=RunObserver(planned=planned))) == (6, 0, 0, 0)
    assert refused[0].exit_code == 1 and str(os.getpid()) in str(refused[0])
    assert "--shard i/n" in refused[0].hint and "--state" in refused[0].hint


def test_status_shows_the_workers_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SECONDS_PER_STATUS", 0.1)
    inputs = make_inputs(tmp_path / "in", 30)
    spoil(inputs, "slow.png", HANG)
    seen: list[str] = []

    def watch() -> None:
        while not seen:
            if any(worker["in_hand"] and worker["seconds"] > 0.5 for worker in workers_of(tmp_path / "out")):
                command = [sys.executable, "-m", "seseg_trt", "status", str(tmp_path / "out")]
                seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run(inputs, tmp_path / "out", timeout=4.0)
    watcher.join(timeout=10)
    assert "1 run is at work" in seen[0] and "decode" in seen[0] and "slow.png" in seen[0] and "30 images" in seen[0]
    assert workers_of(tmp_path / "out") == []


def test_a_device_that_is_not_there_is_a_broken_promise(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    with pytest.raises((DeviceError, ModelError)) as caught:
        segment_files([inputs], tmp_path / "out", model="demo", options=RunOptions(device="cuda:98,99"))
    assert caught.value.exit_code == 3 and caught.value.hint
    assert tree(tmp_path / "out") == {} and not children()


def test_a_worker_that_dies_while_it_starts_ends_the_run_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BOOT", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    inputs = make_inputs(tmp_path / "in", 3)
    with pytest.raises(DeviceError, match="SIGSEGV") as caught:
        run(inputs, tmp_path / "out")
    assert "log.txt" in caught.value.hint and not children()


def test_a_worker_that_lies_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = 'channel.send("done", {"number": 10**6, "reason": None, "message": "", "stat": None, "decoded_by": "x", "outputs": {}, "measured": None, "pixels": 1})'
    monkeypatch.setattr(
        process,
        "BOOT",
        process.BOOT.replace(
            "main()",
            f"""
from seseg_trt.workers import worker
real = worker.Stream.run
def run(self):
    channel = self._work._channel
    {lie}
    real(self)
worker.Stream.run = run
main()""",
        ),
    )
    inputs = make_inputs(tmp_path / "in", 3)
    summary = run(inputs, tmp_path / "out", observer=RunObserver())
    assert summary.done == 0 and set(records(tmp_path / "out").values()) <= {"crashed"}
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite")) as journal:
        assert sum(states(journal).values()) == 3


def test_a_backend_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    class Local(Faulty):
        pass

    with pytest.raises(UsageError, match="Local") as caught:
        run(make_inputs(tmp_path / "in", 1), tmp_path / "out", backend=Local())
    assert "processes=0" in caught.value.hint
