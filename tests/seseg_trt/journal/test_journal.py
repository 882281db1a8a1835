from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, segment_files
from seseg_trt.errors import StoppedError, UsageError
from seseg_trt.inputs.tar_index import Entry
from seseg_trt.journal.exports import write_quarantine
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.merge import merge_journals
from seseg_trt.journal.row import Row
from seseg_trt.run import resume
from seseg_trt.storage.base import Stat
from tests.runs import make_inputs, picture, states, tree


def row(path: bytes, state: str = "pending", **changes: object) -> Row:
    outputs = {"a_se.png": ("0" * 64, 7)} if state == "done" else {"a_se.png": None}
    return Row(path, b"/in/" + path, 3, 4, "options", "artifact", outputs, state, **changes)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as opened:
        yield opened


def test_rows_come_back_as_they_were_put_also_under_odd_names(journal: Journal) -> None:
    odd = os.fsencode("new\nline '\" \udcff ü")
    kept = row(odd, "quarantined", reason="truncated", message="it ends too early", attempt=2, finished=1.5)
    measured = row(b"a", "done", measured={"share": 0.25, "bbox": [1, 2, 3, 4]}, decoded_by="pillow")
    measured.outputs = {"n\udcff_se.png": ("0" * 64, 9), "other.png": None}
    journal.put([kept, measured])
    journal.close()
    with contextlib.closing(Journal(journal.path)) as again:
        assert again.get([odd, b"nothing", b"a"]) == {odd: kept, b"a": measured}
        assert again.get([]) == {}
        assert states(again) == {"done": 1, "quarantined": 1}
        assert [row.reason for row in again.rows("quarantined")] == ["truncated"]


def test_a_row_knows_its_input_again() -> None:
    item = row(b"sub/x\xff.jpg").item()
    assert (item.root, item.identity) == ("/in", b"sub/x\xff.jpg")


def test_rows_are_in_the_order_of_their_bytes_and_all_there(journal: Journal) -> None:
    journal.put(row(b"%05d" % n, "done" if n % 2 else "pending") for n in reversed(range(2500)))
    assert [r.path for r in journal.rows()] == [b"%05d" % n for n in range(2500)]
    assert len(list(journal.rows("done"))) == 1250


def test_a_transaction_is_whole_or_nothing(journal: Journal) -> None:
    def rows() -> object:
        yield row(b"a")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        journal.put(rows())  # type: ignore[arg-type]
    assert states(journal) == {}
    journal.put([row(b"b")])
    assert states(journal) == {"pending": 1}


def test_any_number_of_rows_is_got_at_once(journal: Journal) -> None:
    journal.put(row(b"%05d" % n) for n in range(0, 2600, 2))
    found = journal.get([b"%05d" % n for n in range(2600)])
    assert list(found) == [b"%05d" % n for n in range(0, 2600, 2)]
    assert all(path == got.path for path, got in found.items())


def test_a_refusal_writes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of what was new before it, nor of what was looked at in an earlier piece."""
    monkeypatch.setattr(resume, "ITEMS_AT_ONCE", 3)
    inputs = make_inputs(tmp_path / "in", 10, bad_every=4)

    def run(**options: Any) -> Summary:
        masks = MaskOptions(threshold=options.pop("threshold", 50))
        return segment_files([inputs], tmp_path / "out", masks=masks, options=RunOptions(**options), backend=FakeBackend(16))

    def rows() -> list[Row]:
        with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite", read_only=True)) as opened:
            return list(opened.rows())

    assert run().done == 8
    before, made = rows(), tree(tmp_path / "out")
    (inputs / "aaa.png").write_bytes(picture(1))
    (inputs / "sub2" / "image00005.png").write_bytes(picture(2))
    with pytest.raises(UsageError, match="other options"):
        run(threshold=20)
    (tmp_path / "out" / "sub2" / "zzz_se.png").write_bytes(b"mine")
    (inputs / "sub2" / "zzz.png").write_bytes(picture(3))
    with pytest.raises(UsageError, match="no journal knows it"):
        run()
    (tmp_path / "out" / "sub2" / "zzz_se.png").unlink()
    assert rows() == before and tree(tmp_path / "out") == made
    assert run().done == 3


# What is packed into tars.


def entries(**places: tuple[int, int]) -> list[tuple[str, Entry]]:
    return [(name, Entry(0, *place)) for name, place in places.items()]


def test_what_a_tar_holds_replaces_what_was_noted_of_it(journal: Journal) -> None:
    journal.set_packed(0, Stat(10, 1), entries(b=(2048, 7), a=(512, 5)))
    journal.set_packed(1, Stat(20, 2), [("odd\udcff\n", Entry(9, 1, 2)), *entries(c=(512, 3))])
    assert journal.packed("a") == (0, Entry(0, 512, 5)) and journal.packed("odd\udcff\n") == (1, Entry(0, 1, 2))
    assert list(journal.packed_in(0).items()) == entries(a=(512, 5), b=(2048, 7))
    assert (journal.tar_stat(0), journal.tar_stat(1), journal.tar_stat(2)) == (Stat(10, 1), Stat(20, 2), None)
    journal.set_packed(0, Stat(11, 3), entries(b=(512, 9), c=(1024, 1)))
    assert journal.packed("a") is None and journal.packed("b") == (0, Entry(0, 512, 9)) and journal.tar_stat(0) == Stat(11, 3)
    assert journal.packed("c") == (0, Entry(0, 1024, 1))  # the last that was noted
    assert list(journal.packed_in(1)) == ["odd\udcff\n"]
    journal.set_packed(1, Stat(1024, 4), [])
    assert journal.packed_in(1) == {} and journal.tar_stat(1) == Stat(1024, 4)
    journal.close()
    with contextlib.closing(Journal(journal.path)) as again:
        assert list(again.packed_in(0)) == ["b", "c"]


def test_tars_that_are_gone_are_forgotten(journal: Journal) -> None:
    for number in range(4):
        journal.set_packed(number, Stat(number, number), entries(**{f"n{number}": (512, 1)}))
    journal.keep_tars([1, 3, 9])
    assert [journal.tar_stat(number) is not None for number in range(4)] == [False, True, False, True]
    assert [journal.packed(f"n{number}") is not None for number in range(4)] == [False, True, False, True]
    journal.keep_tars([])
    assert journal.packed_in(1) == journal.packed_in(3) == {}


def test_what_a_tar_holds_is_noted_whole_or_not_at_all(journal: Journal) -> None:
    journal.set_packed(0, Stat(10, 1), entries(a=(512, 5)))

    def broken() -> Iterator[tuple[str, Entry]]:
        yield "b", Entry(0, 512, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.set_packed(0, Stat(11, 2), broken())
    assert (journal.tar_stat(0), list(journal.packed_in(0))) == (Stat(10, 1), ["a"])


# A journal that is only looked at.


def test_a_journal_is_read_while_another_connection_writes(journal: Journal) -> None:
    journal.put([row(b"a", "done")])
    with journal._transaction() as writing:  # holds the lock on writing all the time
        writing.execute("UPDATE inputs SET state = 'pending'")
        with contextlib.closing(Journal(journal.path, read_only=True)) as looking:
            assert states(looking) == {"done": 1} and looking.get([b"a"])[b"a"].state == "done"
        assert merge_journals([journal.path.parent]).as_dict()["done"] == 1
    with contextlib.closing(Journal(journal.path, read_only=True)) as looking:
        assert states(looking) == {"pending": 1}
        journal.put([row(b"b", "done")])
        assert states(looking) == {"pending": 1, "done": 1}  # each look sees what is committed by then
        with pytest.raises(StoppedError, match="can't be written"):
            looking.put([row(b"c")])
        with pytest.raises(StoppedError, match="can't be written"):
            looking.set_meta("key", "value")


@contextlib.contextmanager
def only_readable(folder: Path) -> Iterator[None]:
    """Take the right to write in a folder, from the superuser too."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        assert not os.access(folder, os.W_OK, effective_ids=True)
        yield
    finally:
        if superuser:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize("closed", [True, False])
def test_a_journal_is_read_in_a_folder_that_cannot_be_written(closed: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as found:  # pytest's own folders, and perhaps TMPDIR, are closed to everybody else
        top = Path(found)
        top.chmod(0o755)
        state = top / ".seseg"
        if closed:
            with contextlib.closing(Journal(state / "journal.sqlite")) as opened:
                opened.put([row(b"a", "done"), row(b"b")])
        else:  # a write-ahead log that was never folded in
            assert subprocess.run([sys.executable, "-c", KILLED, str(state / "journal.sqlite")], check=False).returncode == -signal.SIGKILL
            assert (state / "journal.sqlite-wal").stat().st_size > 0
        names = sorted(os.listdir(state))
        with only_readable(state):
            with contextlib.closing(Journal(state / "journal.sqlite", read_only=True)) as looking:
                assert states(looking) == {"done": 1, "pending": 1} and set(looking.get([b"a", b"b"])) == {b"a", b"b"}
            assert merge_journals([top]).as_dict()["left"] == 1
        assert sorted(os.listdir(state)) == names


def test_a_journal_that_would_be_read_without_its_log_is_not_read() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as found:
        top = Path(found)
        top.chmod(0o755)
        path = top / "state" / "journal.sqlite"
        Journal(path).close()
        assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -signal.SIGKILL
        path.with_name(f"{path.name}-shm").unlink()
        with only_readable(path.parent), contextlib.suppress(StoppedError):
            with contextlib.closing(Journal(path, read_only=True)) as looking:
                assert states(looking) == {"done": 1, "pending": 1}


KILLED = """
import os, signal, sys
from pathlib import Path
from seseg_trt.journal.journal import Journal
from tests.seseg_trt.journal.test_journal import row
journal = Journal(Path(sys.argv[1]))
journal.put([row(b"a", "done"), row(b"b")])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_look_makes_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.put([row(b"a", "done")])
    journal.close()
    data = journal.path.read_bytes()
    with contextlib.closing(Journal(journal.path, read_only=True)) as looking:
        assert states(looking) == {"done": 1}
    assert os.listdir(journal.path.parent) == ["journal.sqlite"] and journal.path.read_bytes() == data
    with pytest.raises(StoppedError):
        Journal(tmp_path / "nowhere" / "journal.sqlite", read_only=True)
    assert os.listdir(tmp_path) == ["state"]
    (tmp_path / "foreign").write_bytes(b"this is no database, " * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("foreign", "empty"):
        with pytest.raises(UsageError, match="no journal"):
            Journal(tmp_path / name, read_only=True)


def test_a_file_that_is_no_journal_or_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(b"this is no database, " * 100)
    with pytest.raises(UsageError, match="no journal"):
        Journal(tmp_path / "foreign")
    Journal(tmp_path / "later").close()
    with sqlite3.connect(tmp_path / "later") as database:
        database.execute("UPDATE meta SET value = '99'")
    database.close()
    with pytest.raises(UsageError, match="newer"):
        Journal(tmp_path / "later")


def test_damage_that_shows_later_is_explained(journal: Journal) -> None:
    journal.put(row(b"%05d" % n, "done") for n in range(5000))
    journal.close()
    data = bytearray(journal.path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = os.urandom(64)
    journal.path.write_bytes(data)
    with pytest.raises(UsageError, match="damaged"):
        with contextlib.closing(Journal(journal.path)) as damaged:
            list(damaged.rows())


def test_a_disk_that_refuses_stops_the_run(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(StoppedError, match="full"):
        journal.put(row(b"%09d" % n) for n in range(10_000))
    assert states(journal) == {}


def test_the_state_folder_can_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StoppedError, match="--state"):
        Journal(tmp_path / "state" / "journal.sqlite")


def test_quarantine_is_written_whole_with_names_that_are_not_utf8(journal: Journal, tmp_path: Path) -> None:
    journal.put([row(b"a", "done"), row(b"b\xff\n", "quarantined", reason="empty", message="the file has 0 bytes", finished=0.5)])
    assert write_quarantine(journal, tmp_path / "quarantine.jsonl") == 1
    (line,) = (tmp_path / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
    record = json.loads(line)
    assert os.fsencode(record["path"]) == b"b\xff\n"
    assert (record["reason"], record["message"], record["time"]) == ("empty", "the file has 0 bytes", "1970-01-01T00:00:00Z")
    assert os.listdir(tmp_path) == ["state", "quarantine.jsonl"] or sorted(os.listdir(tmp_path)) == ["quarantine.jsonl", "state"]


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
def test_commits_reach_the_log_and_the_disk_as_asked(tmp_path: Path, durable: bool, level: int) -> None:
    with contextlib.closing(Journal(tmp_path / "journal.sqlite", durable=durable)) as journal:
        assert journal._db.execute("PRAGMA synchronous").fetchall() == [(level,)]
        assert journal._db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


def test_a_transaction_takes_the_lock_when_it_begins(journal: Journal) -> None:
    with journal._transaction(), contextlib.closing(sqlite3.connect(journal.path, timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    with contextlib.closing(sqlite3.connect(journal.path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")


def test_quarantine_is_counted_by_reason_the_most_frequent_first(journal: Journal) -> None:
    reasons = ["empty", "truncated", "truncated", None]
    journal.put(row(b"%d" % index, "quarantined" if reason else "done", reason=reason) for index, reason in enumerate(reasons))
    assert list(journal.reasons().items()) == [("truncated", 2), ("empty", 1)]
