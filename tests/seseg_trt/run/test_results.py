from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import DeviceError, FakeBackend, MaskOptions, RunOptions, Summary, Watch, files, segment_files
from seseg_trt.masks.measure import measure_mask
from seseg_trt.masks.reference import apply_threshold
from seseg_trt.run import results, stream
from seseg_trt.run.journal import Journal, Row
from seseg_trt.run.presence import Presence
from seseg_trt.run.results import Results
from tests.runs import make_inputs, needs_scale, tree

pytestmark = needs_scale


def run(tmp_path: Path, masks: MaskOptions | None = None, watch: Watch | None = None, **options: Any) -> Summary:
    chosen = RunOptions(results=str(tmp_path / "results.parquet"), **options)
    return segment_files(
        [tmp_path / "in"],
        tmp_path / "out",
        masks=masks or MaskOptions((), threshold=50),
        options=chosen,
        watch=watch,
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
    monkeypatch.setattr(results, "ROWS_PER_PART", 3)
    monkeypatch.setattr(stream, "ROWS_PER_COMMIT", 4)
    make_inputs(tmp_path / "in", 200)
    stops: list[Any] = []
    parts: list[str] = []

    def committed(row: Any) -> None:
        if len(stops) == 1 and (tmp_path / "results.parquet.parts").exists():
            parts.extend(p.name for p in (tmp_path / "results.parquet.parts").glob("*.parquet"))
            if parts:
                stops[0]()

    first = run(tmp_path, watch=Watch(started=stops.append, committed=committed))
    assert first.left > 0 and parts
    states = [row["state"] for row in rows(tmp_path).values()]
    assert states.count("done") == first.done and states.count("pending") == first.left and len(states) == 200
    (tmp_path / "results.parquet.parts").mkdir()
    (tmp_path / "results.parquet.parts" / "99999-dead-000000.parquet").write_bytes(b"of a killed process")
    run(tmp_path)
    assert {row["state"] for row in rows(tmp_path).values()} == {"done"} and len(rows(tmp_path)) == 200
    assert not (tmp_path / "results.parquet.parts").exists()


def test_a_process_that_ends_takes_nothing_from_one_that_still_writes(tmp_path: Path) -> None:
    target = tmp_path / "results.parquet"
    target.with_name(".results.parquet.tmp").write_bytes(b"of a killed process")
    with (
        contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal,
        Presence(tmp_path / "runs", {}) as first,
        Presence(tmp_path / "runs", {}) as second,
    ):
        ends, goes_on = Results(target, journal, first), Results(target, journal, second)
        of_others = {f".{second.name}-000000.parquet.tmp", f"{second.name}-000001.parquet"}
        for name in (*of_others, ".99999-dead-000000.parquet.tmp", "99999-dead-000000.parquet"):
            (tmp_path / "results.parquet.parts" / name).write_bytes(b"a part")
        ends.finish()
        assert set(os.listdir(tmp_path / "results.parquet.parts")) == of_others
        goes_on.finish()
    assert sorted(os.listdir(tmp_path)) == ["journal.sqlite", "results.parquet", "runs"]


def test_a_part_is_written_although_another_process_removed_the_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROWS_PER_PART", 1)
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal, Presence(tmp_path / "runs", {}) as presence:
        goes_on = Results(tmp_path / "results.parquet", journal, presence)
        goes_on.abandon()
        goes_on.add(Row(b"a.jpg", b"in/a.jpg", None, None, "", "", {}, "pending"))
        assert os.listdir(tmp_path / "results.parquet.parts") == [f"{presence.name}-000000.parquet"]


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


def test_a_run_that_cannot_begin_leaves_no_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(tmp_path / "in", 1)

    def fail(*arguments: object) -> None:
        raise DeviceError("no such device")

    monkeypatch.setattr(files, "open_child_lane", fail)
    with pytest.raises(DeviceError):
        run(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
