"""Runs that are killed, stopped, shared and made to fail, and what must be true of them afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seseg_trt.run.journal import Journal
from tests.runs import make_inputs, tree
from tests.soak.worker import PLACES

STATE_FILES = {"journal.sqlite", "lock", "log.txt", "quarantine.jsonl", "runs"}


class Soak:
    """Inputs, and the tree that an undisturbed run makes of them."""

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

    def start(self, target: Path, fault: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.soak.worker", str(self.inputs), str(target), fault]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, target: Path, how: str = "") -> None:
        """Let an undisturbed run end what is left, and check everything."""
        process = self.start(target, how)
        words = process.communicate(timeout=240)
        assert process.returncode == 2, words
        self.check(target)

    def check(self, target: Path) -> None:
        """The tree is the undisturbed one's, the journal is whole and true, and nothing is left over."""
        found = tree(target)
        different = {name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)}
        assert not different, {name: (len(found.get(name, b"")), len(self.expected.get(name, b""))) for name in different}
        left = {path.name for path in (target / ".seseg").iterdir()} - STATE_FILES
        assert not left, left
        assert not list((target / ".seseg" / "runs").iterdir())
        with contextlib.closing(sqlite3.connect(target / ".seseg" / "journal.sqlite")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with contextlib.closing(Journal(target / ".seseg" / "journal.sqlite")) as journal:
            bad = self.images // 17
            assert journal.counts() == {"done": self.images - bad, "quarantined": bad}
            for row in journal.rows("done"):
                for name, made in row.outputs.items():
                    data = (target / name).read_bytes()
                    assert made == (hashlib.sha256(data).hexdigest(), len(data))
        lines = (target / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
        assert len(lines) == bad and all(json.loads(line)["reason"] == "not_an_image" for line in lines)

    def disturb(self, processes: list[subprocess.Popen[str]], number: int, draw: random.Random) -> int:
        """Send a signal to each of some processes at random moments of their lives; return how many were alive then."""
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

    def signalled(self, target: Path, number: int, draw: random.Random) -> int:
        """Kill (or stop) a run one to five times, then let it end."""
        met = sum(self.disturb([self.start(target)], number, draw) for _ in range(draw.randint(1, 5)))
        self.finish(target)
        return met

    def shared(self, target: Path, draw: random.Random) -> int:
        """Two processes on one folder, one or both killed, more than once; then two more that end it together."""
        met = 0
        for _ in range(draw.randint(1, 3)):
            pair = [self.start(target), self.start(target)]
            met += self.disturb(pair[: draw.randint(1, 2)], signal.SIGKILL, draw)
            for process in pair:
                process.communicate(timeout=240)
        pair = [self.start(target), self.start(target)]
        for process in pair:
            words = process.communicate(timeout=240)
            assert process.returncode == 2, words
        self.check(target)
        return met

    def killed_at(self, target: Path, place: str, draw: random.Random) -> int:
        """Die just before, or just after, some call of one function."""
        met = 0
        for what in ("die", "die-after"):
            process = self.start(target, f"{place}:{what}:{draw.randint(0, 3 if place in ('commit', 'claim') else self.images // 4)}")
            process.communicate(timeout=240)
            met += process.returncode == -signal.SIGKILL
        self.finish(target)
        return met

    def failing(self, target: Path, place: str, what: str, draw: random.Random) -> int:
        """An injected fault costs one image at most, and the same command mends it."""
        process = self.start(target, f"{place}:{what}:{draw.randint(0, self.images // 2)}")
        words, _ = process.communicate(timeout=240)
        assert process.returncode in (2, 5), (process.returncode, words)
        if process.returncode == 2:
            found = json.loads(words)
            assert found["inputs"] == found["done"] + found["skipped"] + found["quarantined"]
        if place == "decode":  # what a decoder takes for damage is not tried again of itself
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
    """Kill ``runs`` runs, disturb ``others`` in each other way, ``jobs`` of them at a time; return the record, and ``keep`` it after each way.

    Raises:
        AssertionError: anything is not as it must be.
    """
    begun = time.monotonic()
    soaked = Soak(folder, images)
    record: dict[str, object] = {"images": images, "seed": seed, "undisturbed_seconds": round(soaked.seconds, 2), "ways": {}}
    ways: dict[str, Callable[[Path, int, random.Random], int]] = {
        "SIGKILL at random moments, one to five times": lambda target, n, draw: soaked.signalled(target, signal.SIGKILL, draw),
        "SIGTERM at random moments, one to five times": lambda target, n, draw: soaked.signalled(target, signal.SIGTERM, draw),
        "two processes on one folder, one or both killed": lambda target, n, draw: soaked.shared(target, draw),
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
