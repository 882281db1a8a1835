"""What is done, in an SQLite file that survives being killed at any moment.

One row an input. Several processes may work on one journal: each claims some pending rows before it works on them; a claim of a
process that died counts for nothing. Before the first image is masked, every input has a row that names its outputs; so an output without a row
is never ours. A row says ``done`` only after its outputs have their final names; a run that was killed in between finds the row
still ``pending`` and makes the outputs again, to the same bytes. SQLite's write-ahead log keeps each commit whole when the
process dies (and, with ``synchronous=FULL``, when the machine does).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import StoppedError, UsageError
from .scan import WorkItem
from .whole import whole_file

State = Literal["pending", "done", "skipped", "quarantined"]

FORMAT = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS inputs (
    path BLOB PRIMARY KEY,
    source BLOB NOT NULL,
    size INTEGER,
    mtime_ns INTEGER,
    options TEXT NOT NULL,
    artifact TEXT NOT NULL,
    outputs TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    message TEXT,
    decoded_by TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    finished REAL,
    measured TEXT,
    owner TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE INDEX IF NOT EXISTS inputs_by_state ON inputs (state);
"""


@dataclasses.dataclass(slots=True)
class Row:
    """One input's record.

    Attributes:
        path: its identity: the relative path, as bytes.
        source: the path it was read from, as bytes.
        size, mtime_ns: of the source when it was read; None before.
        options: a digest of all that decides the outputs' bytes but the model.
        artifact: the model's SHA-256.
        outputs: name (relative to the output folder) to [SHA-256, size in bytes], or to None before they are made.
        state: see the module.
        reason, message: why it is quarantined.
        decoded_by: the library that decoded it.
        attempt: how often it was tried.
        finished: when, in seconds since 1970.
        measured: what ``--results`` tells of its mask, or None.
    """

    path: bytes
    source: bytes
    size: int | None
    mtime_ns: int | None
    options: str
    artifact: str
    outputs: dict[str, tuple[str, int] | None]
    state: State
    reason: str | None = None
    message: str | None = None
    decoded_by: str | None = None
    attempt: int = 0
    finished: float | None = None
    measured: dict[str, Any] | None = None

    def item(self) -> WorkItem:
        """Return the input that the row is of."""
        path, source = os.fsdecode(self.path), os.fsdecode(self.source)
        return WorkItem(source.removesuffix(path).removesuffix("/"), path)


_COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM inputs"
_JSON = (_COLUMNS.index("outputs"), _COLUMNS.index("measured"))


class Journal:
    """The journal of one output folder. It may be used from several threads; calls take turns.

    Args:
        path: the SQLite file; made with its folder when it is not there.
        durable: survive the machine's power as well, at the cost of a disk flush for each commit.

    Raises:
        UsageError: the file is no journal, or one of a newer seseg_trt.
        StoppedError: the disk refused.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._turn = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        except OSError as error:
            raise StoppedError(
                f"the run's state can't be kept in {path.parent}: {error.strerror}", "give --state a folder that can be written"
            ) from error
        except sqlite3.DatabaseError as error:
            raise _map(error, path) from error
        try:
            self._prepare(durable)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, durable: bool) -> None:
        with self._mapped() as db:
            _until_free(lambda: db.execute("PRAGMA journal_mode=WAL").fetchall())
            db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            _until_free(lambda: db.executescript(_SCHEMA))
        self.set_meta("format", str(FORMAT), replace=False)
        found = self.get_meta("format")
        if int(found or 0) > FORMAT:
            raise UsageError(
                f"{self.path} was written by a newer seseg_trt (format {found})", "use that version, or another --state folder"
            )

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise _map(error, self.path) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mapped() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def get_meta(self, key: str) -> str | None:
        """Return what was noted under a key, or None."""
        with self._mapped() as db:
            found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def set_meta(self, key: str, value: str, *, replace: bool = True) -> None:
        """Note something of the whole run."""
        with self._mapped() as db:
            db.execute(f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO meta VALUES (?, ?)", (key, value))

    def get(self, path: bytes) -> Row | None:
        """Return the row of an input, or None."""
        with self._mapped() as db:
            found = db.execute(f"{_SELECT} WHERE path = ?", (path,)).fetchone()
        return None if found is None else _row(found)

    def rows(self, state: State | None = None) -> Iterator[Row]:
        """Yield all rows, or those in one state, in the order of their paths' bytes."""
        where, values = ("AND state = ?", (state,)) if state else ("", ())
        last = None
        while True:  # in pieces, so that nobody is kept from writing while the reader of the rows is slow
            after, key = ("path > ?", (last,)) if last is not None else ("1", ())
            with self._mapped() as db:
                piece = db.execute(f"{_SELECT} WHERE {after} {where} ORDER BY path LIMIT 1000", (*key, *values)).fetchall()
            if not piece:
                return
            for found in piece:
                yield _row(found)
            last = piece[-1][0]

    def counts(self) -> dict[str, int]:
        """Return how many rows there are in each state."""
        with self._mapped() as db:
            return dict(db.execute("SELECT state, COUNT(*) FROM inputs GROUP BY state").fetchall())

    def reasons(self) -> dict[str, int]:
        """Return how many rows are quarantined for each reason."""
        with self._mapped() as db:
            query = "SELECT reason, COUNT(*) FROM inputs WHERE state = 'quarantined' GROUP BY reason ORDER BY 2 DESC, 1"
            return dict(db.execute(query).fetchall())

    def put(self, rows: Iterable[Row]) -> None:
        """Write rows, replacing those of the same paths and the claims on them, in one transaction: all of them or none.

        Raises:
            StoppedError: the disk is full, or can't be written.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        with self._transaction() as db:
            db.executemany(f"INSERT OR REPLACE INTO inputs ({', '.join(_COLUMNS)}) VALUES ({marks})", map(_values, rows))

    def claim(self, paths: Sequence[bytes], owner: str, is_alive: Callable[[str], bool]) -> dict[bytes, Row]:
        """Take pending rows that nobody alive has claimed; return those that are now ours.

        Args:
            paths: of the rows wanted.
            owner: who takes them.
            is_alive: whether the owner of a claim is still at work.
        """
        taken = {}
        with self._transaction() as db:
            for path in paths:
                found = db.execute(f"{_SELECT.replace(' FROM', ', owner FROM')} WHERE path = ?", (path,)).fetchone()
                if found is None:
                    continue
                *values, holder = found
                row = _row(tuple(values))
                if row.state == "pending" and (holder is None or holder == owner or not is_alive(holder)):
                    taken[path] = row
            db.executemany("UPDATE inputs SET owner = ? WHERE path = ?", [(owner, path) for path in taken])
        return taken

    def release(self, owner: str) -> None:
        """Give up all claims of an owner."""
        with self._mapped() as db:
            db.execute("UPDATE inputs SET owner = NULL WHERE state = 'pending' AND owner = ?", (owner,))

    def states(self, paths: Sequence[bytes]) -> list[State | None]:
        """Return the state of each path, or None where it has no row."""
        with self._mapped() as db:
            found = [db.execute("SELECT state FROM inputs WHERE path = ?", (path,)).fetchone() for path in paths]
        return [None if row is None else row[0] for row in found]

    def forget(self, paths: Iterable[bytes]) -> None:
        """Remove the rows of inputs that are none any more."""
        with self._transaction() as db:
            db.executemany("DELETE FROM inputs WHERE path = ?", ((path,) for path in paths))

    def place(self, paths: Iterable[bytes]) -> None:
        """Give each path that has no place yet the next one, counted from 0. Places order what is packed; they never change."""
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO places (path) VALUES (?)", ((path,) for path in paths))

    def placed(self) -> int:
        """Return how many paths have a place."""
        with self._mapped() as db:
            return int(db.execute("SELECT COALESCE(MAX(position), 0) FROM places").fetchone()[0])

    def placed_rows(self, first: int, end: int, state: State | None = None) -> Iterator[Row]:
        """Yield the rows (in one state, or all) of the places from ``first`` to before ``end``, in their order."""
        query = f"SELECT position, {', '.join(_COLUMNS)} FROM places JOIN inputs USING (path) WHERE position > ? AND position <= ?"
        where, values = ("AND state = ?", (state,)) if state else ("", ())
        while True:
            with self._mapped() as db:
                piece = db.execute(f"{query} {where} ORDER BY position LIMIT 1000", (first, end, *values)).fetchall()
            for found in piece:
                yield _row(found[1:])
            if not piece:
                return
            first = piece[-1][0]

    def write_quarantine(self, target: Path) -> int:
        """Write all quarantined rows as JSON lines, whole or not at all; return how many."""
        count = 0
        with whole_file(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for row in self.rows("quarantined"):
                file.write(json.dumps(quarantine_record(row)) + "\n")
                count += 1
        return count

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with self._turn:
            self._db.close()


def quarantine_record(row: Row) -> dict[str, object]:
    """Return what ``quarantine.jsonl`` says of a row. Bytes that are not UTF-8 are surrogate-escaped, as Python's os.fsdecode does."""
    return {
        "path": os.fsdecode(row.path),
        "source": os.fsdecode(row.source),
        "reason": row.reason,
        "message": row.message,
        "attempt": row.attempt,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.finished)) if row.finished else None,
    }


def _values(row: Row) -> tuple[object, ...]:
    values = [getattr(row, name) for name in _COLUMNS]
    for index in _JSON:
        if values[index] is not None:
            values[index] = json.dumps(values[index])  # ASCII: surrogates are escaped
    return tuple(values)


def _row(found: tuple[Any, ...]) -> Row:
    row = Row(*found)
    row.outputs = {name: None if made is None else (made[0], made[1]) for name, made in json.loads(found[_JSON[0]]).items()}
    row.measured = None if found[_JSON[1]] is None else json.loads(found[_JSON[1]])
    return row


def _until_free(work: Callable[[], object]) -> None:
    """Try for a minute: SQLite's own patience does not cover the change to a write-ahead log by two processes at once."""
    for attempt in range(600):
        try:
            work()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == 599:
                raise
            time.sleep(0.1)


def _map(error: sqlite3.Error, path: Path) -> UsageError | StoppedError:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return UsageError(
            f"{path} is no journal, or is damaged: {text}",
            "move it away to begin anew: then --overwrite skip or redo decides about outputs that are there",
        )
    return StoppedError(
        f"the journal {path} can't be written: {text}", "free space or mend the folder's permissions, then run the same command again"
    )
