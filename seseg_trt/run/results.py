"""Results as data: a Parquet file with one row an input, for queries that need no image files.

While a run goes, what it commits is written to a folder of parts beside the file's place (``results.parquet.parts``), each complete
and then renamed, so that they can be queried meanwhile. At the end the file is made from the journal, which has each input exactly
once whatever happened on the way, and the parts go.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DeviceError, StoppedError
from .journal import Journal, Row
from .presence import Presence
from .whole import whole_file

ROWS_PER_PART = 10_000
ROWS_PER_GROUP = 50_000


class Results:
    """Writes the results of one process's run.

    Args:
        target: the Parquet file.
        journal: of the run.
        presence: of this process, which names its parts.

    Raises:
        DeviceError: pyarrow is not installed.
        StoppedError: the place can't be written.
    """

    def __init__(self, target: Path, journal: Journal, presence: Presence) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise DeviceError(f"results need pyarrow: {error}", "pip install 'seseg_trt[scale]'") from error
        self._arrow: Any = pyarrow
        self._parquet: Any = pyarrow.parquet
        self._target = target
        self._parts = target.with_name(target.name + ".parts")
        self._journal = journal
        self._presence = presence
        self._rows: list[Row] = []
        self._count = 0
        with self._mapped():
            self._parts.mkdir(parents=True, exist_ok=True)

    def add(self, row: Row) -> None:
        """Take a row that has been committed."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_PART:
            with self._mapped():
                self._parts.mkdir(parents=True, exist_ok=True)  # another process that ended may have removed the empty folder
                with whole_file(self._parts / f"{self._presence.name}-{self._count:06d}.parquet") as temporary:
                    self._write(temporary, self._rows)
            self._rows, self._count = [], self._count + 1

    def finish(self) -> int:
        """Make the file from the journal, and remove the parts of this process and of dead ones; return the number of rows."""
        with self._mapped():
            with whole_file(self._target) as temporary:
                count = self._write(temporary, self._journal.rows())
            with contextlib.suppress(FileNotFoundError):  # another process may have ended at the same time
                for part in self._parts.iterdir():
                    owner = "-".join(part.name.lstrip(".").split("-")[:2])
                    if owner == self._presence.name or not self._presence.is_alive(owner):
                        part.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self._parts.rmdir()
        return count

    def _write(self, target: Path, rows: Iterable[Row]) -> int:
        schema = self._schema()
        count = 0
        with self._parquet.ParquetWriter(target, schema, compression="zstd") as writer:
            remaining = iter(rows)
            while some := list(itertools.islice(remaining, ROWS_PER_GROUP)):
                writer.write_table(self._arrow.Table.from_pylist([_record(row) for row in some], schema=schema))
                count += len(some)
        return count

    def _schema(self) -> Any:
        a = self._arrow
        return a.schema(
            [
                ("path", a.string()),
                ("source", a.string()),
                ("size", a.int64()),
                ("state", a.string()),
                ("reason", a.string()),
                ("message", a.string()),
                ("width", a.int32()),
                ("height", a.int32()),
                ("explicit_share", a.float64()),
                ("mean_confidence", a.float64()),
                ("max_confidence", a.float64()),
                ("bbox", a.list_(a.int32())),
                ("rle", a.string()),
                ("decoded_by", a.string()),
            ]
        )

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoppedError(
                f"the results {self._target} can't be written: {error.strerror or error}",
                "mend that and run the same command again: the journal has all of them",
            ) from error

    def abandon(self) -> None:
        """Remove an empty folder of parts: the run did not begin, or has ended."""
        with contextlib.suppress(OSError):
            self._parts.rmdir()


def _record(row: Row) -> dict[str, Any]:
    found = row.measured or {}
    return {
        "path": _text(row.path),
        "source": _text(row.source),
        "size": row.size,
        "state": row.state,
        "reason": row.reason,
        "message": None if row.message is None else _text(os.fsencode(row.message)),
        "width": found.get("width"),
        "height": found.get("height"),
        "explicit_share": found.get("share"),
        "mean_confidence": found.get("mean"),
        "max_confidence": found.get("max"),
        "bbox": found.get("bbox"),
        "rle": found.get("rle"),
        "decoded_by": row.decoded_by,
    }


def _text(path: bytes) -> str:
    """Return a path as text; bytes that are not UTF-8 become ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")
