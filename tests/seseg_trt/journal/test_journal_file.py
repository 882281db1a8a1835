"""The journal's file: its format, its locks, what it says when SQLite refuses, and the places of inputs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seseg_trt.errors import StoppedError, UsageError
from seseg_trt.journal import journal as module
from seseg_trt.journal.journal import Journal
from tests.seseg_trt.journal.test_journal import row


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as opened:
        yield opened


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def with_format(path: Path, version: int) -> Path:
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(version),))
    return path


def test_the_files_are_called_what_other_versions_call_them() -> None:
    assert (module.JOURNAL, module.WORKERS) == ("journal.sqlite", "workers.json")


def test_a_journal_is_of_format_1(journal: Journal) -> None:
    assert journal.get_meta("format") == "1"
    journal.close()
    Journal(journal.path).close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_of_a_later_format_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = with_format(tmp_path / "later", 2)
    data, before = path.read_bytes(), open_files()
    with pytest.raises(UsageError) as caught:
        Journal(path, read_only=read_only)
    assert str(caught.value) == (f"{path} was written by a newer seseg_trt (format 2)\n  use that version, or another --state folder")
    assert open_files() == before and path.read_bytes() == data
    with_format(tmp_path / "earlier", 0)
    Journal(tmp_path / "earlier", read_only=read_only).close()


def test_a_journal_that_is_closed_holds_no_file(journal: Journal) -> None:
    journal.close()
    before = open_files()
    for read_only in (False, True):
        with contextlib.closing(Journal(journal.path, read_only=read_only)):
            assert open_files() > before
    assert open_files() == before


def test_a_look_at_a_journal_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="unable to open"):
        Journal(path=tmp_path / "journal.sqlite", read_only=True)
    assert os.listdir(tmp_path) == []


def test_a_value_of_the_run_is_there_for_others_at_once_and_may_change(journal: Journal) -> None:
    assert journal.get_meta("key") is None
    with contextlib.closing(sqlite3.connect(journal.path)) as other:
        for value in ("one", "two"):
            journal.set_meta("key", value)
            assert journal.get_meta("key") == value
            assert other.execute("SELECT value FROM meta WHERE key = 'key'").fetchall() == [(value,)]


def test_what_is_put_or_forgotten_is_committed_when_the_call_returns(journal: Journal) -> None:
    with contextlib.closing(sqlite3.connect(journal.path)) as other:
        journal.put([row(b"a"), row(b"b"), row(b"c")])
        assert other.execute("SELECT path FROM inputs").fetchall() == [(b"a",), (b"b",), (b"c",)]
        journal.forget([b"a", b"nothing", b"c"])
        assert other.execute("SELECT path FROM inputs").fetchall() == [(b"b",)]
        other.execute("BEGIN IMMEDIATE")  # nobody holds the lock any more


def test_a_lock_that_somebody_holds_is_waited_for_some_seconds(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA busy_timeout").fetchall() == [(5000,)]


def test_a_lock_that_stays_held_is_explained(journal: Journal) -> None:
    journal._db.execute("PRAGMA busy_timeout = 0").fetchall()
    with contextlib.closing(sqlite3.connect(journal.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoppedError, match="can't be locked") as caught:
            journal.put([row(b"a")])
    assert caught.value.hint == "give --state a folder on a local disk: its file system has no locks"
    journal.put([row(b"a")])


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("file is not a database", UsageError, "is no journal, or is damaged: file is not a database"),
        ("database disk image is malformed", UsageError, "move it away to begin anew"),
        ("no such table: inputs", UsageError, "is no journal"),
        ("database is locked", StoppedError, "can't be locked: database is locked"),
        ("locking protocol", StoppedError, "can't be locked: locking protocol"),
        ("disk I/O error", StoppedError, "can't be written: disk I/O error\n  free space or mend the folder's permissions"),
    ],
)
def test_what_sqlite_says_becomes_an_error_with_the_way_out(text: str, kind: type[Exception], words: str) -> None:
    error = sqlite3.OperationalError(text)
    with pytest.raises(kind) as caught, module._explained(Path("/state/journal.sqlite")):
        raise error
    assert words in str(caught.value) and "/state/journal.sqlite" in str(caught.value) and caught.value.__cause__ is error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), module._explained(Path("journal.sqlite")):
        raise KeyError("locked")


def test_a_journal_is_used_by_several_threads(journal: Journal) -> None:
    def work(number: int) -> None:
        for index in range(20):
            journal.put([row(b"%d-%d" % (number, index))])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(journal.rows())) == 80


def test_a_new_journal_is_made_with_its_folders_and_nothing_is_flushed_until_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "deep" / "er" / "journal.sqlite", tmp_path / "deep" / "er" / "journal.sqlite"):  # the second is there
        with contextlib.closing(Journal(path)) as opened:
            assert opened._db.execute("PRAGMA synchronous").fetchall() == [(1,)]
    monkeypatch.chdir(tmp_path)
    Journal(Path("rel#ative?.sqlite")).close()
    assert "rel#ative?.sqlite" in os.listdir(tmp_path)


# The order in which outputs are packed.


def test_a_place_is_given_once_and_stays(journal: Journal) -> None:
    assert journal.placed() == 0
    journal.place([b"c", b"a"])
    journal.place([b"a", b"b", b"c"])
    assert journal.placed() == 3
    journal.put([row(b"a"), row(b"b", "done"), row(b"c")])
    assert [found.path for found in journal.placed_rows(0, 3)] == [b"c", b"a", b"b"]


def test_rows_are_found_by_their_places(journal: Journal) -> None:
    paths = [b"%04d" % number for number in range(2500)]
    journal.place(reversed(paths))
    journal.put(row(path, "done" if number % 2 else "pending") for number, path in enumerate(paths))
    turned = paths[::-1]
    for first, end in ((0, 2500), (0, 1), (1, 2), (3, 3), (5, 1700), (2499, 2500), (2500, 2600)):
        assert [found.path for found in journal.placed_rows(first, end)] == turned[first:end]
        done = [path for path in turned[first:end] if int(path) % 2]
        assert [found.path for found in journal.placed_rows(first, end, "done")] == done
    journal.forget(turned[:2])
    assert [found.path for found in journal.placed_rows(0, 4)] == turned[2:4]


def test_rows_are_read_in_pieces_so_that_a_writer_need_not_wait(journal: Journal) -> None:
    journal.put(row(b"%04d" % number) for number in range(1500))
    rows = journal.rows()
    assert next(rows).path == b"0000"
    with contextlib.closing(sqlite3.connect(journal.path, timeout=0)) as other, other:
        other.execute("DELETE FROM inputs WHERE path = ?", (b"1400",))
    assert [found.path for found in rows] == [b"%04d" % number for number in range(1, 1500) if number != 1400]


def test_the_first_path_may_be_empty(journal: Journal) -> None:
    journal.put([row(b""), row(b"a")])
    assert [found.path for found in journal.rows()] == [b"", b"a"]


def test_a_put_row_replaces_the_one_before(journal: Journal) -> None:
    journal.put([row(b"a", "quarantined", reason="empty", attempt=1)])
    journal.put([row(b"a", "done", attempt=2)])
    assert journal.get([b"a"]) == {b"a": row(b"a", "done", attempt=2)}


def test_reasons_of_one_number_are_in_the_order_of_their_names(journal: Journal) -> None:
    journal.put(row(b"%d" % number, "quarantined", reason=reason) for number, reason in enumerate(["truncated", "empty", "changed"]))
    assert list(journal.reasons()) == ["changed", "empty", "truncated"]
