"""The files that are made of a journal: their schema, and each of their fields."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import DeviceError, StoppedError, __version__
from seseg_trt.errors import install_hint
from seseg_trt.journal import exports
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.row import Row
from tests.runs import needs_scale


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as opened:
        yield opened


def row(path: bytes, state: Any, **changes: Any) -> Row:
    return Row(path, b"/in/" + path, 3, 4, "options", "artifact", changes.pop("outputs", {}), state, **changes)


MEASURED = {"width": 8, "height": 6, "share": 0.5, "mean": 0.25, "max": 1.0, "bbox": [1, 2, 3, 4], "rle": "abc"}
COLUMNS = """path: string
source: string
size: int64
state: string
reason: string
message: string
width: int32
height: int32
explicit_share: double
mean_confidence: double
max_confidence: double
bbox: list<item: int32>
rle: string
decoded_by: string
outputs: list<item: string>
threshold: int32
model_sha256: string"""


@needs_scale
def test_every_field_is_the_rows_or_the_masks(journal: Journal, tmp_path: Path) -> None:
    import pyarrow.parquet

    outputs = {"a_se.png": ("0" * 64, 7), "b\udcff.png": ("1" * 64, 8), "c.png": None}
    journal.put(
        [
            row(b"a\xff", "done", outputs=outputs, measured=MEASURED, decoded_by="pillow"),
            row(b"b", "quarantined", outputs={"b_se.png": None}, reason="unreadable", message="no \udcff"),
            row(b"c", "pending"),
        ]
    )
    assert exports.write_results(journal, tmp_path / "results.parquet", "/out", None) == 3
    file = pyarrow.parquet.ParquetFile(tmp_path / "results.parquet")
    types = "\n".join(f"{field.name}: {field.type}" for field in file.schema_arrow)
    assert types.replace("<element: ", "<item: ") == COLUMNS  # what Parquet calls the items of a list
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    notes = {name.decode(): text.decode() for name, text in file.schema_arrow.metadata.items() if name != b"ARROW:schema"}
    assert notes == {
        "bbox": "x, y, width, height in pixels",
        "rle": "COCO's compressed run lengths of [height, width]",
        "outputs": "relative to `output`",
        "output": "/out",
        "threshold": "none",
        "seseg_trt": __version__,
    }
    done, bad, pending = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert done == {
        "path": "a\\xff",
        "source": "/in/a\\xff",
        "size": 3,
        "state": "done",
        "reason": None,
        "message": None,
        "width": 8,
        "height": 6,
        "explicit_share": 0.5,
        "mean_confidence": 0.25,
        "max_confidence": 1.0,
        "bbox": [1, 2, 3, 4],
        "rle": "abc",
        "decoded_by": "pillow",
        "outputs": ["a_se.png", "b\\xff.png"],
        "threshold": None,
        "model_sha256": "artifact",
    }
    assert (bad["reason"], bad["message"], bad["outputs"], bad["width"]) == ("unreadable", "no \\udcff", [], None)
    assert (pending["state"], pending["message"], pending["bbox"]) == ("pending", None, None)


@needs_scale
def test_a_journal_without_rows_gives_a_file_without_rows(journal: Journal, tmp_path: Path) -> None:
    import pyarrow.parquet

    assert exports.write_results(journal, tmp_path / "results.parquet") == 0
    found = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert (found.num_rows, found.num_columns) == (0, 17)
    assert found.schema.metadata[b"output"] == b""


@needs_scale
def test_a_threshold_of_0_is_one(journal: Journal, tmp_path: Path) -> None:
    import pyarrow.parquet

    journal.put([row(b"a", "done")])
    exports.write_results(journal, tmp_path / "results.parquet", threshold=0)
    found = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert found.schema.metadata[b"threshold"] == b"0" and found.column("threshold").to_pylist() == [0]


@needs_scale
def test_a_place_for_results_is_looked_at_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports.check_results(tmp_path / "new" / "folder" / "results.parquet")
    exports.check_results(tmp_path / "new" / "folder" / "results.parquet")
    assert os.listdir(tmp_path / "new" / "folder") == []
    (tmp_path / "folder.parquet").mkdir()
    hint = "mend that and run the same command again: the journal has all of them"
    with pytest.raises(StoppedError) as caught:
        exports.check_results(tmp_path / "folder.parquet")
    assert str(caught.value) == f"the results {tmp_path}/folder.parquet can't be written: it is a folder\n  {hint}"
    monkeypatch.setattr(os, "access", lambda path, mode: not (str(path) == str(tmp_path) and mode == os.W_OK))
    with pytest.raises(StoppedError) as caught:
        exports.check_results(tmp_path / "a.parquet")
    assert str(caught.value) == f"the results {tmp_path}/a.parquet can't be written: {tmp_path} can't be written\n  {hint}"


def test_without_pyarrow_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DeviceError, match="results need pyarrow: ") as caught:
        exports.check_results(tmp_path / "results.parquet")
    assert caught.value.hint == install_hint("scale") and os.listdir(tmp_path) == []


def test_the_quarantine_has_a_line_for_each_quarantined_input_in_the_order_of_paths(journal: Journal, tmp_path: Path) -> None:
    journal.put(
        [
            row(b"c", "quarantined", reason="empty", message="the file has 0 bytes", attempt=3, finished=86_399.9),
            row(b"b", "done", finished=1.0),
            row(b"a\xff", "quarantined", reason="missing", attempt=1),
        ]
    )
    assert exports.write_quarantine(journal, tmp_path / "quarantine.jsonl") == 2
    lines = (tmp_path / "quarantine.jsonl").read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"}\n") for line in lines)
    assert [json.loads(line) for line in lines] == [
        {"path": "a\udcff", "source": "/in/a\udcff", "reason": "missing", "message": None, "attempt": 1, "time": None},
        {
            "path": "c",
            "source": "/in/c",
            "reason": "empty",
            "message": "the file has 0 bytes",
            "attempt": 3,
            "time": "1970-01-01T23:59:59Z",
        },
    ]
    journal.forget([b"a\xff", b"c"])
    assert exports.write_quarantine(journal, tmp_path / "quarantine.jsonl") == 0
    assert (tmp_path / "quarantine.jsonl").read_bytes() == b""
