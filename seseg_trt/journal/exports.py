"""The journal for others: results as a Parquet file, what is quarantined as JSON lines. Each has every input exactly once."""

from __future__ import annotations

import itertools
import json
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DeviceError, install_hint
from ..storage.atomic import atomic_write, stopping
from .journal import Journal
from .row import Row

ROWS_PER_GROUP = 50_000
_COLUMNS = {
    "path": ("string", None),
    "source": ("string", None),
    "size": ("int64", None),
    "state": ("string", None),
    "reason": ("string", None),
    "message": ("string", None),
    "width": ("int32", "width"),
    "height": ("int32", "height"),
    "explicit_share": ("float64", "share"),
    "mean_confidence": ("float64", "mean"),
    "max_confidence": ("float64", "max"),
    "bbox": ("list", "bbox"),
    "rle": ("string", "rle"),
    "decoded_by": ("string", None),
    "outputs": ("names", None),
    "threshold": ("int32", None),
    "model_sha256": ("string", None),
}
"""The columns of a Parquet file: their types, and what :attr:`Row.measured` calls them, or None for the row's own fields."""
NOTES = {
    "bbox": "x, y, width, height in pixels",
    "rle": "COCO's compressed run lengths of [height, width]",
    "outputs": "relative to `output`",
}
"""What the schema's metadata say of columns."""


def check_results(target: Path) -> None:
    """Raise if results could not be written to a Parquet file, before the run begins.

    Raises:
        DeviceError: pyarrow is not installed.
        StoppedError: its folder can't be written.
    """
    _arrow()
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() or not os.access(target.parent, os.W_OK):
            raise PermissionError("it is a folder" if target.is_dir() else f"{target.parent} can't be written")


def write_results(journal: Journal, target: Path, output: str = "", threshold: int | None = None) -> int:
    """Write a Parquet file with a row for each input, whole or not at all; return how many.

    Args:
        journal: of the run.
        target: the file.
        output: the folder or tar of the outputs.
        threshold: of the masks, or None.

    Raises:
        StoppedError: it can't be written.
    """
    arrow, parquet = _arrow()
    types = {"list": arrow.list_(arrow.int32()), "names": arrow.list_(arrow.string())}
    notes = {**NOTES, "output": output, "threshold": "none" if threshold is None else str(threshold), "seseg_trt": __version__}
    schema = arrow.schema([(name, types.get(kind) or arrow.type_for_alias(kind)) for name, (kind, _) in _COLUMNS.items()], notes)
    count = 0
    with _writing(target), atomic_write(target) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rows = journal.rows()
        while some := list(itertools.islice(rows, ROWS_PER_GROUP)):
            writer.write_table(arrow.Table.from_pylist([{**_record(row), "threshold": threshold} for row in some], schema=schema))
            count += len(some)
    return count


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DeviceError(f"results need pyarrow: {error}", install_hint("scale")) from error
    return pyarrow, pyarrow.parquet


def _writing(target: Path) -> AbstractContextManager[None]:
    return stopping(f"the results {target} can't be written", "mend that and run the same command again: the journal has all of them")


def _record(row: Row) -> dict[str, Any]:
    measured = row.measured or {}
    found = {name: measured.get(key) if key else getattr(row, name, None) for name, (_, key) in _COLUMNS.items()}
    made = [_text(os.fsencode(name)) for name, info in row.outputs.items() if info is not None]
    message = None if row.message is None else _text(os.fsencode(row.message))
    texts = {"path": _text(row.path), "source": _text(row.source), "message": message}
    return {**found, **texts, "outputs": made, "model_sha256": row.artifact}


def _text(path: bytes) -> str:
    """Return a path as text; bytes that are not UTF-8 become ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def write_quarantine(journal: Journal, target: Path) -> int:
    """Write all quarantined rows as JSON lines, whole or not at all; return how many.

    Bytes that are not UTF-8 are surrogate-escaped, as in Python's os.fsdecode.
    """
    count = 0
    with atomic_write(target) as file:
        for row in journal.rows("quarantined"):
            record = {
                "path": os.fsdecode(row.path),
                "source": os.fsdecode(row.source),
                "reason": row.reason,
                "message": row.message,
                "attempt": row.attempt,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.finished)) if row.finished else None,
            }
            file.write(json.dumps(record).encode("ascii") + b"\n")
            count += 1
    return count
