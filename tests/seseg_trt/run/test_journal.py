from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from seseg_trt.errors import StoppedError, UsageError
from seseg_trt.run.journal import Journal, Row
from seseg_trt.run.presence import Presence


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
        assert again.get(odd) == kept
        assert again.get(b"a") == measured
        assert again.get(b"nothing") is None
        assert again.counts() == {"done": 1, "quarantined": 1}
        assert again.reasons() == {"truncated": 1}


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
    assert journal.counts() == {}
    journal.put([row(b"b")])
    assert journal.counts() == {"pending": 1}


def test_pending_rows_are_claimed_once_while_their_owner_lives(journal: Journal) -> None:
    journal.put([row(b"a"), row(b"b"), row(b"c", "done")])
    assert set(journal.claim([b"a", b"c", b"nothing"], "one", lambda name: True)) == {b"a"}
    assert set(journal.claim([b"a", b"b"], "two", lambda name: True)) == {b"b"}
    assert set(journal.claim([b"a", b"b"], "three", lambda name: name != "one")) == {b"a"}
    journal.release("two")
    assert set(journal.claim([b"a", b"b"], "four", lambda name: True)) == {b"b"}
    journal.put([row(b"a", "done")])
    assert journal.states([b"a", b"b", b"nothing"]) == ["done", "pending", None]


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
    assert journal.counts() == {}


def test_the_state_folder_can_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StoppedError, match="--state"):
        Journal(tmp_path / "state" / "journal.sqlite")


def test_quarantine_is_written_whole_with_names_that_are_not_utf8(journal: Journal, tmp_path: Path) -> None:
    journal.put([row(b"a", "done"), row(b"b\xff\n", "quarantined", reason="empty", message="the file has 0 bytes", finished=0.5)])
    assert journal.write_quarantine(tmp_path / "quarantine.jsonl") == 1
    (line,) = (tmp_path / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
    record = json.loads(line)
    assert os.fsencode(record["path"]) == b"b\xff\n"
    assert (record["reason"], record["message"], record["time"]) == ("empty", "the file has 0 bytes", "1970-01-01T00:00:00Z")
    assert os.listdir(tmp_path) == ["state", "quarantine.jsonl"] or sorted(os.listdir(tmp_path)) == ["quarantine.jsonl", "state"]


def _hold(folder: Path, ready: object) -> None:
    Presence(folder, {"work": "x"})
    ready.send(True)  # type: ignore[attr-defined]
    ready.recv()  # type: ignore[attr-defined]


def test_a_process_is_present_until_it_dies(tmp_path: Path) -> None:
    with Presence(tmp_path, {"work": "mine"}) as mine:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, theirs))
        process.start()
        assert ours.recv() is True
        ((name, says),) = mine.others().items()
        assert says == {"work": "x"} and mine.is_alive(name) and mine.is_alive(mine.name)
        process.kill()
        process.join()
        assert mine.others() == {}
        assert not mine.is_alive(name)
        assert os.listdir(tmp_path) == [mine.name]
    assert os.listdir(tmp_path) == []
