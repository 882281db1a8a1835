from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import DeviceError, FakeBackend, MaskOptions, RunObserver, RunOptions, StoppedError, Summary, UsageError, segment_files
from seseg_trt.journal import exports
from seseg_trt.journal.journal import Journal
from seseg_trt.lanes import select as lanes
from seseg_trt.masks.measure import measure_mask
from seseg_trt.masks.reference import apply_threshold
from seseg_trt.run import work
from seseg_trt.storage.atomic import temporary_name
from tests.runs import make_inputs, needs_scale, tree

pytestmark = needs_scale


def run(tmp_path: Path, masks: MaskOptions | None = None, observer: RunObserver | None = None, **options: Any) -> Summary:
    chosen = RunOptions(results=str(tmp_path / "results.parquet"), **options)
    return segment_files(
        [tmp_path / "in"],
        tmp_path / "out",
        masks=masks or MaskOptions((), threshold=50),
        options=chosen,
        observer=observer,
        backend=FakeBackend(16),
    )


def rows(tmp_path: Path) -> dict[str, dict[str, Any]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert len({row["path"] for row in table}) == len(table)
    return {row["path"]: row for row in table}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools' decoder, with NumPy 2
def test_each_input_has_one_row_with_figures_that_the_mask_itself_gives(tmp_path: Path) -> None:
    from pycocotools import mask as coco

    make_inputs(tmp_path / "in", 12, bad_every=4)
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes((tmp_path / "in" / "image00000.png").read_bytes())
    run(tmp_path, MaskOptions(("mask",), threshold=50), rle=True)
    found = rows(tmp_path)
    assert len(found) == 13 and "\\xff.png" in found
    assert sum(row["state"] == "quarantined" for row in found.values()) == 3
    for path, row in found.items():
        if row["state"] == "quarantined":
            assert row["reason"] == "not_an_image" and row["explicit_share"] is None and row["size"] == 10
            continue
        name = os.fsdecode(path.encode().replace(b"\\xff", b"\xff")).replace(".png", "_pred.png")
        mask = np.asarray(Image.open(tmp_path / "out" / name)) == 255
        assert (row["width"], row["height"]) == (mask.shape[1], mask.shape[0])
        assert row["explicit_share"] == pytest.approx(mask.mean())
        assert 0 <= row["mean_confidence"] <= row["max_confidence"] <= 1
        assert np.array_equal(coco.decode({"size": list(mask.shape), "counts": row["rle"].encode()}), mask)
        if mask.any():
            x, y, width, height = row["bbox"]
            box = mask[y : y + height, x : x + width]
            assert box.sum() == mask.sum() and box[0].any() and box[-1].any() and box[:, 0].any() and box[:, -1].any()
        else:
            assert row["bbox"] is None
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "results.parquet"]


def test_no_output_files_are_needed(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 6)
    assert run(tmp_path).done == 6
    assert tree(tmp_path / "out") == {} and len(rows(tmp_path)) == 6
    assert run(tmp_path).skipped == 6
    assert len(rows(tmp_path)) == 6


def test_a_run_that_was_stopped_and_gone_on_with_has_each_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)
    make_inputs(tmp_path / "in", 200)
    stops: list[Any] = []
    first = run(tmp_path, observer=RunObserver(started=stops.append, committed=lambda row: stops[0]()))
    assert first.left > 0 < first.done
    states = [row["state"] for row in rows(tmp_path).values()]
    assert states.count("done") == first.done and states.count("pending") == first.left and len(states) == 200
    Path(temporary_name(tmp_path / "results.parquet")).write_bytes(b"of a killed process")
    assert run(tmp_path).done == first.left
    assert {row["state"] for row in rows(tmp_path).values()} == {"done"} and len(rows(tmp_path)) == 200
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "results.parquet"]


def test_the_results_are_the_journals_in_the_order_of_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "ROWS_PER_GROUP", 3)
    make_inputs(tmp_path / "in", 10, bad_every=5)
    run(tmp_path)
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(tmp_path / "results.parquet")
    assert file.num_row_groups == 4
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite", read_only=True)) as journal:
        assert list(rows(tmp_path)) == [row.path.decode() for row in journal.rows()]
        assert exports.write_results(journal, tmp_path / "again.parquet", str(tmp_path / "out"), 50) == 10
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "results.parquet").read_bytes()


def test_a_row_says_what_its_outputs_are_and_were_made_with(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 4, bad_every=4)
    run(tmp_path, MaskOptions(("mask", "se"), threshold=30))
    import pyarrow.parquet

    found = rows(tmp_path)
    assert found["image00000.png"]["outputs"] == ["image00000_pred.png", "image00000_se.png"]
    assert found["image00003.png"]["outputs"] == [] and found["image00003.png"]["state"] == "quarantined"
    assert {(row["threshold"], row["model_sha256"]) for row in found.values()} == {(30, "backend:fake")}
    notes = pyarrow.parquet.read_schema(tmp_path / "results.parquet").metadata
    assert notes[b"bbox"] == b"x, y, width, height in pixels" and notes[b"threshold"] == b"30"
    assert notes[b"output"] == str(tmp_path / "out").encode() and notes[b"seseg_trt"]


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.json", "r.csv.gz", "x.txt"])
def test_results_of_another_kind_are_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        RunOptions(results=name)
    assert "results.parquet" in caught.value.hint


def test_results_that_cannot_be_written_stop_the_run_and_the_same_command_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(tmp_path / "in", 5)
    (tmp_path / "results.parquet").write_bytes(b"of an earlier run")
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if str(target).endswith(".parquet"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    summary = run(tmp_path)
    assert (summary.done, summary.exit_code) == (5, 5)
    assert "results.parquet" in str(summary.stopped) and "No space left" in str(summary.stopped)
    assert (tmp_path / "results.parquet").read_bytes() == b"of an earlier run"
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "results.parquet"]
    monkeypatch.undo()
    assert (run(tmp_path).skipped, len(rows(tmp_path))) == (5, 5)


def test_what_can_be_no_file_of_results_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 2)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.parquet").mkdir()
    for name in ("folder.parquet", "file/results.parquet"):
        options = RunOptions(results=str(tmp_path / name))
        with pytest.raises(StoppedError, match=name):
            segment_files([tmp_path / "in"], tmp_path / "out", options=options, backend=FakeBackend(16))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.parquet", "in"]
    options = RunOptions(results=str(tmp_path / "deep" / "er" / "results.parquet"))
    segment_files([tmp_path / "in"], tmp_path / "out", options=options, backend=FakeBackend(16))
    assert os.listdir(tmp_path / "deep" / "er") == ["results.parquet"]


def test_without_pyarrow_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DeviceError, match="results need pyarrow"):
        run(tmp_path)
    assert os.listdir(tmp_path) == ["in"]


def test_what_was_done_without_being_measured_is_measured_when_it_is_asked_for(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 4)
    masks = MaskOptions(("se",), threshold=50)
    segment_files([tmp_path / "in"], tmp_path / "out", masks=masks, backend=FakeBackend(16))
    before = tree(tmp_path / "out")
    assert run(tmp_path, masks).done == 4
    assert run(tmp_path, masks).done == 0
    assert run(tmp_path, masks, rle=True).done == 4
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("threshold", [None, 0, 50, 100])
def test_figures_of_an_opacity(threshold: int | None) -> None:
    opacity = np.zeros((8, 10), np.uint8)
    opacity[2:5, 3:9] = 200
    measured = measure_mask(opacity, threshold)
    explicit = apply_threshold(opacity, 50 if threshold is None else threshold) > 0
    assert measured["share"] == pytest.approx(opacity.mean() / 255 if threshold is None else explicit.mean())
    assert measured["bbox"] == ([3, 2, 6, 3] if explicit.any() else None)
    assert measured["max"] == pytest.approx(200 / 255) and measured["mean"] == pytest.approx(18 * 200 / 255 / 80)


def test_a_run_that_cannot_begin_leaves_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 1)

    def fail(*arguments: object, **named: object) -> None:
        raise DeviceError("no such device")

    monkeypatch.setattr(lanes, "open_lane", fail)
    with pytest.raises(DeviceError):
        run(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
