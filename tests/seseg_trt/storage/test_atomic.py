"""Files that are seen whole or not at all, and what a killed writer leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.storage import atomic
from seseg_trt.storage.atomic import atomic_write, check_writable, temporary_name
from tests.runs import tree

DIES = """
import os, signal, sys
from seseg_trt.storage import atomic
from seseg_trt.storage.atomic import atomic_write
with atomic_write(sys.argv[1], exclusive=sys.argv[2] == "True") as file:
    file.write(b"much more than whoever comes next will write")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""

both = pytest.mark.parametrize("exclusive", [True, False])


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_temporary_file_lies_beside_its_target_and_its_name_depends_on_that_alone(tmp_path: Path) -> None:
    temporary = Path(temporary_name(tmp_path / "sub" / "a.png"))
    assert temporary.parent == tmp_path / "sub" and temporary.name.startswith(".seseg-") and temporary.name.endswith(".tmp")
    assert temporary_name(str(tmp_path / "sub" / "a.png")) == str(temporary)
    assert Path(temporary_name(tmp_path / "other" / "a.png")).name == temporary.name
    others = {temporary_name(name) for name in ("a.png", "b.png", "\udcff.png", "x" * 255, "A.png")}
    assert len(others) == 5 and max(map(len, others)) < 64  # a name of 255 bytes leaves no room for a longer one


@both
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, exclusive: bool) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    data = os.urandom(1 << 20) * 9
    with atomic_write(target, exclusive=exclusive) as file:
        for begin in range(0, len(data), 1_000_003):
            file.write(data[begin : begin + 1_000_003])
        assert target.read_bytes() == b"old"
        assert names(tmp_path) == [Path(temporary_name(target)).name, "a.bin"]
    assert target.read_bytes() == data and names(tmp_path) == ["a.bin"]
    with atomic_write(target, exclusive=exclusive):
        pass
    assert target.read_bytes() == b""


@both
def test_what_a_killed_process_left_is_replaced_by_the_next(tmp_path: Path, exclusive: bool) -> None:
    target = tmp_path / "quarantine.jsonl"
    target.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", DIES, str(target), str(exclusive)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [Path(temporary_name(target)).name, "quarantine.jsonl"] and target.read_bytes() == b"old"
    assert Path(temporary_name(target)).read_bytes().startswith(b"much more")
    with atomic_write(target, exclusive=exclusive) as file:
        file.write(b"new")
    assert names(tmp_path) == ["quarantine.jsonl"] and target.read_bytes() == b"new"


@both
def test_an_exception_leaves_the_old_file_alone_and_nothing_else(tmp_path: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    target.write_bytes(b"old")
    for error in (ValueError("half way"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_write(target, exclusive=exclusive) as file:
            file.write(b"half")
            raise error
        assert names(tmp_path) == ["report.html"] and target.read_bytes() == b"old"
    monkeypatch.setattr(os, "replace", lambda source, to: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    with pytest.raises(OSError, match="Read-only"), atomic_write(target, exclusive=exclusive) as file:
        file.write(b"whole")
    monkeypatch.undo()
    assert names(tmp_path) == ["report.html"] and target.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nowhere" / "report.html", exclusive=exclusive):
        pass


def test_a_write_that_the_disk_cuts_short_is_never_taken_for_whole(tmp_path: Path) -> None:
    """The system call writes what fits and returns its count; only the next one fails."""
    code = """
import resource, signal, sys
from seseg_trt.storage import atomic
from seseg_trt.storage.atomic import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_write(sys.argv[1], exclusive=False) as file:
        file.write(bytes(150_000))
except OSError as error:
    sys.exit(error.errno)
"""
    (tmp_path / "a").write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == errno.EFBIG
    assert tree(tmp_path) == {"a": b"old"}


def test_writers_take_turns_and_what_the_last_one_read_stays(tmp_path: Path) -> None:
    target, counter, written = tmp_path / "results", tmp_path / "counter", []
    counter.write_text("0")

    def write() -> None:
        for turn in range(20):
            with contextlib.suppress(ZeroDivisionError), atomic_write(target) as file:
                value = int(counter.read_text())  # no lock but the file's own
                time.sleep(0.001)
                counter.write_text(str(value + 1))
                file.write(b"%d" % (value + 1))
                written.append(value + 1)
                if turn % 5 == 4:
                    raise ZeroDivisionError  # removes the temporary file that others wait for

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == list(range(1, 101)) and 90 <= int(target.read_text()) <= 100
    assert names(tmp_path) == ["counter", "results"]


@both
@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link"])
def test_a_link_that_was_planted_is_neither_followed_nor_emptied(tmp_path: Path, exclusive: bool, kind: str) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    out.mkdir()
    if kind != "dangling":
        theirs.write_bytes(b"precious")
    temporary = Path(temporary_name(out / "a.png"))
    if kind == "hard link":
        temporary.hardlink_to(theirs)
    else:
        temporary.symlink_to(theirs)
    with atomic_write(out / "a.png", exclusive=exclusive) as file:
        file.write(b"mine")
    assert tree(out) == {"a.png": b"mine"} and not (out / "a.png").is_symlink()
    assert theirs.exists() == (kind != "dangling")
    if theirs.exists():
        assert theirs.read_bytes() == b"precious" and theirs.stat().st_nlink == 1


@both
def test_durable_flushes_the_whole_file_then_renames_then_flushes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    calls: list[tuple[str, object]] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        folder = os.path.samestat(status, os.stat(tmp_path))
        calls.append(("folder", names(tmp_path)) if folder else ("file", status.st_size))
        sync(descriptor)

    def rename(source: Any, target: Any) -> None:
        calls.append(("rename", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    with atomic_write(tmp_path / "a.png", exclusive=exclusive):
        pass
    assert calls == [("rename", "a.png")]
    calls.clear()
    with atomic_write(tmp_path / "b.png", durable=True, exclusive=exclusive) as file:
        file.write(b"x" * 100)  # still in Python's buffer
    assert calls == [("file", 100), ("rename", "b.png"), ("folder", ["a.png", "b.png"])]


@both
def test_a_folder_that_cannot_be_flushed_is_an_error_that_takes_nothing_from_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    target = tmp_path / "a.png"

    def flush(folder: str) -> None:
        Path(temporary_name(target)).write_bytes(b"of another writer, who has begun")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic, "flush_folder", flush)
    with pytest.raises(OSError, match="Input/output"), atomic_write(target, durable=True, exclusive=exclusive) as file:
        file.write(b"x")
    assert tree(tmp_path) == {"a.png": b"x", Path(temporary_name(target)).name: b"of another writer, who has begun"}


def test_a_relative_name_without_a_folder_is_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write("a", durable=True) as file:
        file.write(b"x")
    assert tree(tmp_path) == {"a": b"x"}


def test_no_rename_leaves_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder of the outputs may be another disk, from which nothing can be renamed."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    folder = OutputFolder(tmp_path / "out")
    folder.prepare()
    folder.write("a.png", b"a")
    folder.write("sub/disk/b.png", b"b")
    assert tree(tmp_path / "out") == {"a.png": b"a", "sub/disk/b.png": b"b"}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as elsewhere:  # most often another disk
        (tmp_path / "out" / "linked").symlink_to(elsewhere)
        folder.write("linked/c.png", b"c")
        assert tree(Path(elsewhere)) == {"c.png": b"c"}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_no_descriptor_stays_open(tmp_path: Path, durable: bool, exclusive: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for index in range(20):
        with atomic_write(tmp_path / f"{index}", durable=durable, exclusive=exclusive) as file:
            file.write(b"x")
        with contextlib.suppress(ZeroDivisionError), atomic_write(tmp_path / "never", durable=durable, exclusive=exclusive):
            raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before and not (tmp_path / "never").exists()


def test_a_check_leaves_nothing_and_says_what_cannot_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.html")
    (tmp_path / "there").write_bytes(b"old")
    check_writable(tmp_path / "there")
    assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_bytes() == b"old"
    for bad in (tmp_path, tmp_path / "nowhere" / "a.html"):
        with pytest.raises(OSError):
            check_writable(bad)
