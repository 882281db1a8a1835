"""Files that several processes may write: whole, the last writer's, and nothing left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seseg_trt.run.whole import whole_file

DIES = """
import os, signal, sys
from pathlib import Path
from seseg_trt.run.whole import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("much more than whoever comes next will write")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_a_killed_process_left_is_used_up_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "quarantine.jsonl"
    target.write_text("old")
    assert subprocess.run([sys.executable, "-c", DIES, str(target)], check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == [".quarantine.jsonl.tmp", "quarantine.jsonl"] and target.read_text() == "old"
    with whole_file(target) as temporary:
        assert temporary.read_text() == ""
        temporary.write_text("new")
    assert names(tmp_path) == ["quarantine.jsonl"] and target.read_text() == "new"


def test_an_exception_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(ValueError, match="half way"), whole_file(target) as temporary:
        temporary.write_text("half")
        raise ValueError("half way")
    assert names(tmp_path) == ["report.html"] and target.read_text() == "old"
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nowhere" / "report.html"):
        pass


def test_writers_take_turns_and_what_the_last_one_read_stays(tmp_path: Path) -> None:
    target, counter, written = tmp_path / "results", tmp_path / "counter", []
    counter.write_text("0")

    def write() -> None:
        for _ in range(20):
            with whole_file(target) as temporary:
                value = int(counter.read_text())  # no lock but the file's own
                time.sleep(0.001)
                counter.write_text(str(value + 1))
                temporary.write_text(str(value + 1))
                written.append(value + 1)

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == list(range(1, 101)) and target.read_text() == "100"
    assert names(tmp_path) == ["counter", "results"]
