"""What of an earlier run still holds: each test ends in the tree of a fresh run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, UsageError, segment_files
from tests.runs import make_inputs, picture, records, tree


def run(tmp_path: Path, outputs: tuple[Any, ...], threshold: int = 50, out: str = "out", **options: Any) -> Summary:
    return segment_files(
        [tmp_path / "in"],
        tmp_path / out,
        masks=MaskOptions(outputs, threshold=threshold),
        options=RunOptions(**options),
        backend=FakeBackend(16),
    )


def test_an_output_of_other_options_that_was_not_asked_for_meanwhile_is_made_again(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 5)
    run(tmp_path, ("se", "mask"), 10)
    run(tmp_path, ("mask",), 90, on_change="redo")
    assert run(tmp_path, ("se", "mask"), 90).done == 5  # the se that is there is of the first threshold
    run(tmp_path, ("se", "mask"), 90, out="fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_an_output_that_was_not_asked_for_meanwhile_and_still_holds_is_kept(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 5)
    run(tmp_path, ("se", "mask"))
    (tmp_path / "in" / "image00000.png").write_bytes(picture(77))
    assert run(tmp_path, ("mask",)).done == 1
    assert run(tmp_path, ("se", "mask")).done == 1  # of the image that changed, the se is of the old pixels
    run(tmp_path, ("se", "mask"), out="fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("what", ["size", "mtime"])
def test_an_input_is_another_by_its_size_or_its_time_alone(tmp_path: Path, what: str) -> None:
    make_inputs(tmp_path / "in", 3)
    path = tmp_path / "in" / "image00000.png"
    path.write_bytes(picture(5, 20, 20) + b"0123")
    before = path.stat()
    run(tmp_path, ("se",))
    data = picture(6, 20, 20)
    path.write_bytes(data + b"0" * (before.st_size - len(data) + (what == "size")) if len(data) <= before.st_size else data)
    assert what == "size" or path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + (what == "mtime")))
    assert run(tmp_path, ("se",)).done == 1


def test_what_was_quarantined_is_tried_again_with_other_options_or_another_file(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 4, bad_every=4)
    for expected, threshold in ((1, 50), (1, 50), (2, 60)):
        assert run(tmp_path, ("se",), threshold, on_change="redo").quarantined == 1
        (line,) = (tmp_path / "out" / ".seseg" / "quarantine.jsonl").read_text().splitlines()
        assert json.loads(line)["attempt"] == expected
    (bad,) = records(tmp_path / "out")
    (tmp_path / "in" / bad).write_bytes(picture(3))
    assert run(tmp_path, ("se",), 60).done == 1 and not records(tmp_path / "out")


def test_a_change_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3)
    run(tmp_path, ("se",))
    before = tree(tmp_path / "out")
    with pytest.raises(UsageError, match="threshold 50 then, 60 now"):
        run(tmp_path, ("se",), 60)
    assert tree(tmp_path / "out") == before
