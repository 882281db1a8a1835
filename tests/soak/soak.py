"""Kill and stop runs and their workers, inject faults into them, and check the results afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seseg_trt.journal.journal import Journal
from tests.runs import make_inputs, states, tree
from tests.soak.worker import PLACES

STATE_FILES = {"journal.sqlite", "lock", "log.txt", "quarantine.jsonl"}


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with contextlib.suppress(OSError):
        return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return []


def orphans() -> list[int]:
    """Return the workers on this machine whose parents are gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, ValueError):
            command = path.read_bytes().split(b"\0")
            if any(b"seseg_trt.workers.worker" in part for part in command) and not Path(f"/proc/{int(command[-2])}").exists():
                found.append(int(path.parent.name))
    return found


class Soak:
    """A set of inputs, and the output tree that an undisturbed run makes of them."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder = folder
        self.images = images
        self.inputs = make_inputs(folder / "in", images, bad_every=17)
        begun = time.monotonic()
        process = self.start(folder / "undisturbed")
        words = process.communicate(timeout=240)
        assert process.returncode == 2, words
        self.seconds = time.monotonic() - begun
        self.expected = tree(folder / "undisturbed")

    def start(self, target: Path, fault: str = "", processes: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.soak.worker", str(self.inputs), str(target), str(processes), fault]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, target: Path, how: str = "", processes: int = 0) -> None:
        """Let an undisturbed run finish the rest, and check everything."""
        process = self.start(target, how, processes)
        words = process.communicate(timeout=240)
        assert process.returncode == 2, words
        self.check(target)

    def check(self, target: Path) -> None:
        """Check that the tree is that of the undisturbed run, that the journal is intact and right, and that no other files are left."""
        found = tree(target)
        different = {name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)}
        assert not different, {name: (len(found.get(name, b"")), len(self.expected.get(name, b""))) for name in different}
        left = {path.name for path in (target / ".seseg").iterdir()} - STATE_FILES
        assert not left, left
        end = time.monotonic() + 5
        while left_behind := orphans():
            assert time.monotonic() < end, left_behind
        with contextlib.closing(sqlite3.connect(target / ".seseg" / "journal.sqlite")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with contextlib.closing(Journal(target / ".seseg" / "journal.sqlite")) as journal:
            bad = self.images // 17
            assert states(journal) == {"done": self.images - bad, "quarantined": bad}
            for row in journal.rows("done"):
                for name, made in row.outputs.items():
                    data = (target / name).read_bytes()
                    assert made == (hashlib.sha256(data).hexdigest(), len(data))
        lines = (target / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
        assert len(lines) == bad and all(json.loads(line)["reason"] == "not_an_image" for line in lines)

    def disturb(self, processes: list[subprocess.Popen[str]], number: int, draw: random.Random) -> int:
        """Send a signal to each process at a random moment; return how many were still running then."""
        begun, met = time.monotonic(), 0
        moments = sorted((draw.uniform(0.1, 1.0) * self.seconds, index) for index in range(len(processes)))
        for moment, index in moments:
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            met += processes[index].poll() is None
            processes[index].send_signal(number)
        for process in processes:
            process.communicate(timeout=240)
            assert process.returncode in (2, -signal.SIGKILL, -signal.SIGTERM, 143), process.returncode
        return met

    def signalled(self, target: Path, number: int, processes: int, draw: random.Random) -> int:
        """Kill or stop a run (its parent, where it has workers) one to five times, then let it finish."""
        met = sum(self.disturb([self.start(target, processes=processes)], number, draw) for _ in range(draw.randint(1, 5)))
        self.finish(target, processes=processes)
        return met

    def workers_killed(self, target: Path, draw: random.Random) -> int:
        """Kill workers of a run at random moments, one to five times; the run itself must finish everything."""
        process, met = self.start(target, processes=2), 0
        for _ in range(draw.randint(1, 5)):
            time.sleep(draw.uniform(0.05, 0.5) * self.seconds)
            if workers := children_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(workers), signal.SIGKILL)
                    met += 1
        words = process.communicate(timeout=240)
        assert process.returncode == 2, words
        self.check(target)
        return met

    def killed_at(self, target: Path, place: str, draw: random.Random) -> int:
        """Kill a run just before and just after a random call of a function, then let it finish."""
        met = 0
        for what in ("die", "die-after"):
            process = self.start(target, f"{place}:{what}:{draw.randint(0, 3 if place in ('commit',) else self.images // 4)}")
            process.communicate(timeout=240)
            met += process.returncode == -signal.SIGKILL
        self.finish(target)
        return met

    def failing(self, target: Path, place: str, what: str, draw: random.Random) -> int:
        """Inject a fault into a run; the same command, run again, must repair everything."""
        process = self.start(target, f"{place}:{what}:{draw.randint(0, self.images // 2)}")
        words, _ = process.communicate(timeout=240)
        assert process.returncode in (2, 5), (process.returncode, words)
        if process.returncode == 2:
            found = json.loads(words)
            assert found["inputs"] == found["done"] + found["skipped"] + found["quarantined"]
        if place == "decode":  # an image that failed to decode is not retried by default
            self.finish(target, "retry")
        else:
            self.finish(target)
        return 1


def soak(
    folder: Path,
    *,
    runs: int,
    others: int,
    images: int,
    seed: int = 1,
    jobs: int = 1,
    keep: Callable[[dict[str, object]], None] = lambda record: None,
) -> dict[str, object]:
    """Disturb runs in several ways and check each afterwards.

    Args:
        folder: for inputs and outputs.
        runs: how many runs to kill at random moments.
        others: how many runs to disturb in each of the other ways.
        images: the number of inputs.
        seed: the seed of all random choices.
        jobs: how many runs at a time.
        keep: takes the record after each way.

    Returns:
        The record: for each way, the number of runs and of disturbances.

    Raises:
        AssertionError: anything is wrong after a run.
    """
    begun = time.monotonic()
    soaked = Soak(folder, images)
    record: dict[str, object] = {"images": images, "seed": seed, "undisturbed_seconds": round(soaked.seconds, 2), "ways": {}}
    ways: dict[str, Callable[[Path, int, random.Random], int]] = {
        "SIGKILL at random moments, one to five times": lambda target, n, draw: soaked.signalled(target, signal.SIGKILL, 0, draw),
        "SIGTERM at random moments, one to five times": lambda target, n, draw: soaked.signalled(target, signal.SIGTERM, n % 3, draw),
        "the parent of two workers killed, one to five times": lambda target, n, draw: soaked.signalled(target, signal.SIGKILL, 2, draw),
        "workers killed, one to five times": lambda target, n, draw: soaked.workers_killed(target, draw),
        "killed before and after a call of each stage": lambda target, n, draw: soaked.killed_at(
            target, list(PLACES)[n % len(PLACES)], draw
        ),
        "an injected fault of each stage": lambda target, n, draw: soaked.failing(target, list(PLACES)[n % 6], "raise", draw),
        "a full disk": lambda target, n, draw: soaked.failing(target, "write", "full", draw),
    }
    counts: dict[str, object] = {}
    for name, way in ways.items():

        def once(number: int, name: str = name, way: Callable[[Path, int, random.Random], int] = way) -> int:
            target = folder / f"{len(counts)}-{number}"
            met = way(target, number, random.Random(f"{seed} {name} {number}"))
            subprocess.run(["rm", "-rf", str(target)], check=True)
            return met

        count = others if counts else runs
        with ThreadPoolExecutor(jobs) as pool:
            met = sum(pool.map(once, range(count)))
        counts[name] = {"runs": count, "identical_trees": count, "disturbances": met}
        record |= {"ways": counts, "seconds": round(time.monotonic() - begun, 1)}
        keep(record)
    return record
