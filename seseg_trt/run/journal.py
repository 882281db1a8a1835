"""What is done, in an SQLite file that survives being killed at any moment.

One row an input. Before the first image is masked, every input has a row that names its outputs; so an output without a row
is never ours. A row says ``done`` only after its outputs have their final names; a run that was killed in between finds the row
still ``pending`` and makes the outputs again, to the same bytes. SQLite's write-ahead log keeps each commit whole when the
process dies (and, with ``synchronous=FULL``, when the machine does).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from ..errors import StoppedError, UsageError

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
    finished REAL
) WITHOUT ROWID;
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


_COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


class Journal:
    """The journal of one output folder. It is used from one thread.

    Args:
        path: the SQLite file; made with its folder when it is not there.
        durable: survive the machine's power as well, at the cost of a disk flush for each commit.

    Raises:
        UsageError: the file is no journal, or one of a newer seseg_trt.
        StoppedError: the disk refused.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))
            (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.DatabaseError as error:
            raise _map(error, path) from error
        except OSError as error:
            raise StoppedError(
                f"the run's state can't be kept in {path.parent}: {error.strerror}", "give --state a folder that can be written"
            ) from error
        if int(found) > FORMAT:
            self._db.close()
            raise UsageError(f"{path} was written by a newer seseg_trt (format {found})", "use that version, or another --state folder")

    def get(self, path: bytes) -> Row | None:
        """Return the row of an input, or None."""
        found = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM inputs WHERE path = ?", (path,)).fetchone()
        return None if found is None else _row(found)

    def rows(self, state: State | None = None) -> Iterator[Row]:
        """Yield all rows, or those in one state, in the order of their paths' bytes."""
        where, values = ("WHERE state = ?", (state,)) if state else ("", ())
        for found in self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM inputs {where} ORDER BY path", values):
            yield _row(found)

    def counts(self) -> dict[str, int]:
        """Return how many rows there are in each state."""
        return dict(self._db.execute("SELECT state, COUNT(*) FROM inputs GROUP BY state").fetchall())

    def put(self, rows: Iterable[Row]) -> None:
        """Write rows, replacing those of the same paths, in one transaction: all of them or none.

        Raises:
            StoppedError: the disk is full, or can't be written.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(f"INSERT OR REPLACE INTO inputs ({', '.join(_COLUMNS)}) VALUES ({marks})", map(_values, rows))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _map(error, self.path) from error

    def write_quarantine(self, target: Path) -> int:
        """Write all quarantined rows as JSON lines, whole or not at all; return how many."""
        temporary = target.with_name(target.name + ".tmp")
        count = 0
        with open(temporary, "w", encoding="utf-8") as file:
            for row in self.rows("quarantined"):
                file.write(json.dumps(quarantine_record(row)) + "\n")
                count += 1
        os.replace(temporary, target)
        return count

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
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
    values[_COLUMNS.index("outputs")] = json.dumps(row.outputs)  # ASCII: surrogates are escaped
    return tuple(values)


def _row(found: tuple[object, ...]) -> Row:
    row = Row(*found)  # type: ignore[arg-type]
    outputs = json.loads(found[_COLUMNS.index("outputs")])  # type: ignore[arg-type]
    row.outputs = {name: None if made is None else (made[0], made[1]) for name, made in outputs.items()}
    return row


def _map(error: sqlite3.DatabaseError, path: Path) -> UsageError | StoppedError:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return UsageError(
            f"{path} is no journal, or is damaged: {text}",
            "move it away to begin anew: then --overwrite skip or redo decides about outputs that are there",
        )
    return StoppedError(
        f"the journal {path} can't be written: {text}", "free space or mend the folder's permissions, then run the same command again"
    )
