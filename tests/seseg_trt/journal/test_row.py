"""One input's record, and how it goes into the journal and comes back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from seseg_trt.inputs.item import InputItem
from seseg_trt.journal.row import COLUMNS, FIELDS, Row, row_of, values_of


def row(**changes: Any) -> Row:
    plain = Row(b"a.jpg", b"/in/a.jpg", None, None, "options", "artifact", {"a_se.png": None}, "pending")
    return dataclasses.replace(plain, **changes)


def test_a_row_has_the_journals_columns_in_their_order() -> None:
    names = "path source size mtime_ns options artifact outputs state reason message decoded_by attempt finished measured"
    assert names.split() == list(COLUMNS) and ", ".join(names.split()) == FIELDS


def test_a_new_row_was_never_tried() -> None:
    new = row()
    assert (new.attempt, new.reason, new.message, new.decoded_by, new.finished, new.measured) == (0, None, None, None, None, None)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(AttributeError):
        row().reasons = "empty"  # type: ignore[attr-defined]


def test_what_is_written_is_what_sqlite_takes() -> None:
    full = row(size=3, mtime_ns=4, outputs={"a\udcff_se.png": ("0" * 64, 7), "b": None}, state="done", attempt=2, finished=1.5)
    full.message, full.measured, full.decoded_by = "no \udcff", {"share": 0.25}, "pillow"
    made = f'{{"a\\udcff_se.png": ["{"0" * 64}", 7], "b": null}}'
    assert values_of(full) == (
        *(b"a.jpg", b"/in/a.jpg", 3, 4, "options", "artifact", made, "done"),
        *(None, "no \\udcff", "pillow", 2, 1.5, '{"share": 0.25}'),
    )


@pytest.mark.parametrize("measured", [None, {}, {"share": 0.25, "bbox": [1, 2, 3, 4]}])
def test_what_was_written_comes_back(measured: dict[str, Any] | None) -> None:
    full = row(outputs={"a\udcff_se.png": ("0" * 64, 7), "b": None}, measured=measured, reason="empty", message="the file has 0 bytes")
    again = row_of(values_of(full))
    assert again == full and isinstance(again.outputs["a\udcff_se.png"], tuple)


@pytest.mark.parametrize(
    ("source", "path", "root"),
    [
        (b"/in/sub/a.jpg", b"sub/a.jpg", "/in"),
        (b"/a.jpg", b"a.jpg", ""),
        (b"s3://bucket/in/a.jpg", b"a.jpg", "s3://bucket/in"),
        (b"/in/a.tar/x/\xff.jpg", b"x/\xff.jpg", "/in/a.tar"),
    ],
)
def test_the_input_of_a_row_is_the_one_that_it_was_made_of(source: bytes, path: bytes, root: str) -> None:
    item = row(source=source, path=path).item()
    assert item == InputItem(root, path.decode("utf-8", "surrogateescape")) and item.source.encode("utf-8", "surrogateescape") == source
