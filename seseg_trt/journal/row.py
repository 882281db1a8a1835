"""One input's record."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from typing import Any, Literal, cast

from ..inputs.item import InputItem

State = Literal["pending", "done", "skipped", "quarantined"]


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

    def item(self) -> InputItem:
        """Return the input that the row is of."""
        path, source = os.fsdecode(self.path), os.fsdecode(self.source)
        return InputItem(source.removesuffix(path).removesuffix("/"), path)


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
FIELDS = ", ".join(COLUMNS)
_fields_of = operator.attrgetter(*COLUMNS)


def values_of(row: Row) -> tuple[object, ...]:
    return tuple(map(_value_of, _fields_of(row)))


def _value_of(field: Any) -> Any:
    if isinstance(field, dict):
        return json.dumps(field)  # ASCII: surrogates are escaped
    if isinstance(field, str):  # SQLite takes no lone surrogates; names that are not UTF-8 bring them into messages
        return field.encode("utf-8", "backslashreplace").decode()
    return field


def row_of(found: tuple[Any, ...]) -> Row:
    row = Row(*found)
    row.outputs = {name: None if made is None else (made[0], made[1]) for name, made in json.loads(cast("str", row.outputs)).items()}
    row.measured = json.loads(cast("str | None", row.measured) or "null")
    return row
