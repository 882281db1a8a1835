"""What is done, in an SQLite file that survives being killed at any moment.

One row an input. The process that holds the state folder's lock is the only one that writes. Before the first image is masked, every
input has a row that names its outputs; so an output without a row is never ours. A row says ``done`` only after its outputs have their
final names. A run that was killed in between finds the row still ``pending`` and makes the outputs again, to the same bytes. SQLite's
write-ahead log keeps each commit whole when the process dies (and, with ``synchronous=FULL``, when the machine does).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import StoppedError, UsageError
from ..inputs.tar_index import Entry
from ..storage.atomic import stopping
from ..storage.base import Stat
from .row import COLUMNS, FIELDS, Row, State, row_of, values_of

JOURNAL = "journal.sqlite"
WORKERS = "workers.json"
"""The file beside the journal in which a run's parent says what its worker processes do."""
FORMAT = 1

_SCHEMA = f"""
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
    measured TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inputs_by_state ON inputs (state);
CREATE TABLE IF NOT EXISTS places (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tars (number INTEGER PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS packed (
    name BLOB PRIMARY KEY, tar INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS packed_by_tar ON packed (tar, offset);
INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}');
"""

_PATHS_PER_QUERY = 500


class Journal:
    """The journal of one output folder. It may be used from several threads; calls take turns.

    Args:
        path: the SQLite file; made with its folder when it is not there.
        durable: survive the machine's power as well, at the cost of a disk flush for each commit.
        read_only: look at a journal that another process may be writing.

    Raises:
        UsageError: the file is no journal, or one of a newer seseg_trt.
        StoppedError: the disk refused.
    """

    def __init__(self, path: Path, *, durable: bool = False, read_only: bool = False) -> None:
        self.path = path
        self._turn = threading.RLock()
        with _explained(path):
            if read_only:
                self._db = _open_to_read(path)
            else:
                with stopping(f"the run's state can't be kept in {path.parent}", "give --state a folder that can be written"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                durably = f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}"
                self._db = _connect(path, "mode=rwc", "PRAGMA journal_mode=WAL", durably, *_SCHEMA.split(";"))

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[sqlite3.Connection]:
        with self._turn, _explained(self.path):
            yield self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mapped() as db, db:  # which commits, or rolls back after an exception
            db.execute("BEGIN IMMEDIATE")
            yield db

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Run one statement; return the rows that it finds."""
        with self._mapped() as db:
            return db.execute(statement, values).fetchall()

    def get_meta(self, key: str) -> str | None:
        """Return the value of a key, or None."""
        found = self._run("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def set_meta(self, key: str, value: str) -> None:
        """Record a value that concerns the whole run."""
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def get(self, paths: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows of inputs by their paths; those without a row are left out."""
        found: dict[bytes, Row] = {}
        for first in range(0, len(paths), _PATHS_PER_QUERY):
            some = paths[first : first + _PATHS_PER_QUERY]
            rows = self._run(f"SELECT {FIELDS} FROM inputs WHERE path IN ({', '.join('?' * len(some))})", some)
            found.update((row[0], row_of(row)) for row in rows)
        return found

    def rows(self, state: State | None = None) -> Iterator[Row]:
        """Yield all rows, or those in one state, in the order of their paths' bytes."""
        return self._walk("path", "FROM inputs WHERE path > ?", (-1,), state)  # to SQLite a number is less than any bytes

    def _walk(self, key: str, query: str, values: tuple[object, ...], state: State | None) -> Iterator[Row]:
        """Yield the rows of a query, or those in one state, in the order of a key that is greater than the first of the values.

        They are read in pieces, so that nobody is kept from writing while the reader of the rows is slow.
        """
        if state is not None:
            query, values = f"{query} AND state = ?", (*values, state)
        while piece := self._run(f"SELECT {key}, {FIELDS} {query} ORDER BY {key} LIMIT 1000", values):
            for found in piece:
                yield row_of(found[1:])
            values = (piece[-1][0], *values[1:])

    def reasons(self) -> dict[str, int]:
        """Return how many inputs are quarantined for each reason, the most frequent first."""
        query = "SELECT reason, COUNT(*) FROM inputs WHERE state = 'quarantined' GROUP BY reason ORDER BY COUNT(*) DESC, reason"
        return dict(self._run(query))

    def put(self, rows: Iterable[Row]) -> None:
        """Write rows, replacing those of the same paths, in one transaction: all of them or none.

        Raises:
            StoppedError: the disk is full, or can't be written.
        """
        with self._transaction() as db:
            marks = ", ".join("?" * len(COLUMNS))
            db.executemany(f"INSERT OR REPLACE INTO inputs ({FIELDS}) VALUES ({marks})", map(values_of, rows))

    def forget(self, paths: Iterable[bytes]) -> None:
        """Remove the rows of these inputs."""
        with self._transaction() as db:
            db.executemany("DELETE FROM inputs WHERE path = ?", ((path,) for path in paths))

    def place(self, paths: Iterable[bytes]) -> None:
        """Give the next place to each path that has none, counted from 0. Outputs are packed in this order, which never changes."""
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO places (path) VALUES (?)", ((path,) for path in paths))

    def placed(self) -> int:
        """Return how many paths have a place."""
        return int(self._run("SELECT COALESCE(MAX(position), 0) FROM places")[0][0])

    def placed_rows(self, first: int, end: int, state: State | None = None) -> Iterator[Row]:
        """Yield the rows (in one state, or all) of the places from ``first`` to before ``end``, in their order."""
        query = "FROM places JOIN inputs USING (path) WHERE position > ? AND position <= ?"
        return self._walk("position", query, (first, end), state)

    # What is packed into tars.

    def packed(self, name: str) -> tuple[int, Entry] | None:
        """Return the number of the tar that an output is packed in, and its place there, or None."""
        found = self._run("SELECT tar, offset, size FROM packed WHERE name = ?", (os.fsencode(name),))
        return (found[0][0], Entry(0, *found[0][1:])) if found else None

    def packed_in(self, number: int) -> dict[str, Entry]:
        """Return what a tar holds, in its order."""
        found = self._run("SELECT name, offset, size FROM packed WHERE tar = ? ORDER BY offset", (number,))
        return {os.fsdecode(name): Entry(0, offset, size) for name, offset, size in found}

    def tar_stat(self, number: int) -> Stat | None:
        """Return the stat that a tar had when its entries were recorded, or None."""
        found = self._run("SELECT size, mtime_ns FROM tars WHERE number = ?", (number,))
        return Stat(*found[0]) if found else None

    def set_packed(self, number: int, stat: Stat, entries: Iterable[tuple[str, Entry]]) -> None:
        """Record what a tar holds. Replace what was recorded of it before."""
        with self._transaction() as db:
            db.execute("DELETE FROM packed WHERE tar = ?", (number,))
            rows = ((os.fsencode(name), number, entry.offset, entry.size) for name, entry in entries)
            db.executemany("INSERT OR REPLACE INTO packed VALUES (?, ?, ?, ?)", rows)
            db.execute("INSERT OR REPLACE INTO tars VALUES (?, ?, ?)", (number, *stat))

    def keep_tars(self, numbers: Sequence[int]) -> None:
        """Remove what was recorded of all other tars."""
        with self._transaction() as db:
            gone = set(db.execute("SELECT number FROM tars")) - {(number,) for number in numbers}
            db.executemany("DELETE FROM packed WHERE tar = ?", gone)
            db.executemany("DELETE FROM tars WHERE number = ?", gone)

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with self._turn:
            self._db.close()


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open a journal that must not be changed, also where its folder can't be written."""
    try:
        # with mode=ro the files that SQLite needs for a write-ahead log would stay
        return _connect(path, "mode=rw", "PRAGMA query_only = 1")
    except sqlite3.OperationalError:
        if os.path.exists(f"{path}-wal"):
            raise
        return _connect(path, "mode=ro&immutable=1", "PRAGMA query_only = 1")  # nobody writes, and these files can't be made


def _connect(path: Path, how: str, *statements: str) -> sqlite3.Connection:
    """Open a journal and run statements on it. Raise UsageError if it is of a newer seseg_trt."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        for statement in statements:
            db.execute(statement).fetchall()
        for (found,) in db.execute("SELECT value FROM meta WHERE key = 'format'"):
            if int(found) > FORMAT:
                raise UsageError(f"{path} was written by a newer seseg_trt (format {found})", "use that version, or another --state folder")
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert an error of SQLite to one of ours, with the way out."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if any(words in text for words in ("not a database", "malformed", "no such table")):
            raise UsageError(
                f"{path} is no journal, or is damaged: {text}",
                "move it away to begin anew: then --overwrite skip or redo decides about outputs that are there",
            ) from error
        if "locked" in text or "locking protocol" in text:  # no other run holds the state folder
            raise StoppedError(
                f"the journal {path} can't be locked: {text}", "give --state a folder on a local disk: its file system has no locks"
            ) from error
        raise StoppedError(
            f"the journal {path} can't be written: {text}", "free space or mend the folder's permissions, then run the same command again"
        ) from error
