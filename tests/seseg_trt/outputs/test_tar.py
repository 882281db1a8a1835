"""Tars as outputs: what is in them is what a folder would hold, and their bytes are the same however the run went."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunObserver, StoppedError, UsageError
from seseg_trt.files import retry_files
from seseg_trt.inputs.tar_index import Entry
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.merge import merge_journals
from seseg_trt.journal.row import Row
from seseg_trt.outputs import packer as packing
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.tar import TarOutputs
from seseg_trt.reports.run_page import Collector, write_page
from seseg_trt.run import work
from seseg_trt.storage.base import Stat
from tests.runs import counts, make_inputs, make_tar, picture, tree
from tests.seseg_trt.outputs.tars import extracted, nothing_stray, run


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return make_inputs(tmp_path / "in", 25, bad_every=9)


def test_a_tar_holds_what_the_folder_would_and_is_left_alone_when_it_does(inputs: Path, tmp_path: Path) -> None:
    folder = run(inputs, tmp_path / "folder")
    one = run(inputs, tmp_path / "one.tar")
    run(inputs, tmp_path / "two.tar", workers=4, memory=1 << 20)
    run(inputs, tmp_path / "three.tar", MaskOptions(("mask", "se"), threshold=50), processes=2, durable=True)
    assert counts(one) == counts(folder) == (23, 0, 2, 0) and one.unpacked == 0
    assert extracted(tmp_path / "one.tar") == tree(tmp_path / "folder")
    data = (tmp_path / "one.tar").read_bytes()
    assert data == (tmp_path / "two.tar").read_bytes() == (tmp_path / "three.tar").read_bytes()
    stamp = os.stat(tmp_path / "one.tar").st_mtime_ns
    assert counts(run(inputs, tmp_path / "one.tar")) == (0, 23, 2, 0)
    assert counts(run(inputs, tmp_path / "one.tar", retry=True)) == (0, 23, 2, 0)
    assert counts(retry_files(tmp_path / "one.tar", backend=FakeBackend(16))) == (0, 0, 2, 0)
    assert os.stat(tmp_path / "one.tar").st_mtime_ns == stamp
    nothing_stray(tmp_path / "one.tar")
    assert merge_journals([tmp_path / "one.tar"]).as_dict()["done"] == 23


def test_tar_in_and_tar_out_and_the_output_is_never_read(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "folder")
    make_tar(tmp_path / "in.tar", inputs)
    run(tmp_path / "in.tar", tmp_path / "out.tar")
    assert extracted(tmp_path / "out.tar") == tree(tmp_path / "folder")
    for target in (inputs / "masks.tar", inputs / "masks-%03d.tar"):
        assert counts(run(inputs, target)) == (23, 0, 2, 0)
        assert counts(run(inputs, target)) == (0, 23, 2, 0)
        for path in inputs.glob("masks*"):
            (shutil.rmtree if path.is_dir() else os.unlink)(path)
    run(inputs, inputs / "masks.tar")
    with pytest.raises(UsageError, match="lies in the output"):
        run(inputs / "masks.tar", inputs / "masks.tar")


def test_a_row_of_tars_is_cut_by_inputs_and_has_no_holes(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 11, bad_every=4)
    for name in ("sub1/image00001.png", "sub1/image00004.png"):
        (inputs / name).write_bytes(b"no picture")
    run(inputs, tmp_path / "folder")
    run(inputs, tmp_path / "o" / "m-%04d.tar", tar_entries=2)
    tars = sorted((tmp_path / "o").glob("*.tar"))
    assert [path.name for path in tars] == [f"m-{number:04d}.tar" for number in range(6)]
    assert extracted(*tars) == tree(tmp_path / "folder")
    order = sorted(str(path.relative_to(inputs).with_suffix("")) for path in inputs.rglob("*.png"))
    for number, path in enumerate(tars):
        stems = order[2 * number : 2 * number + 2]
        assert all(name.rpartition("_")[0] in stems for name in extracted(path))
    assert [] in [list(extracted(path)) for path in tars]
    with pytest.raises(UsageError, match="begun with 2 inputs"):
        run(inputs, tmp_path / "o" / "m-%04d.tar", tar_entries=3)
    assert counts(run(inputs, tmp_path / "o" / "m-%04d.tar")) == (0, 7, 4, 0)


def test_tars_are_packed_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 2)
    inputs = make_inputs(tmp_path / "in", 60)
    seen: list[int] = []

    def committed(row: Any) -> None:
        time.sleep(0.01)
        seen.append(len(list(tmp_path.glob("m-*.tar"))))

    run(inputs, tmp_path / "m-%02d.tar", tar_entries=10, observer=RunObserver(committed=committed))
    assert seen[-1] >= 1 and len(list(tmp_path.glob("m-*.tar"))) == 6
    run(inputs, tmp_path / "folder")
    assert extracted(*tmp_path.glob("m-*.tar")) == tree(tmp_path / "folder")
    nothing_stray(tmp_path / "m-%02d.tar")


def test_what_is_mended_spoilt_added_or_redone_is_packed_again(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 12, bad_every=4)
    target = tmp_path / "m-%d.tar"

    def same() -> None:
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        run(inputs, tmp_path / "folder")
        assert extracted(*tmp_path.glob("m-?.tar")) == tree(tmp_path / "folder")
        nothing_stray(target)

    run(inputs, target, tar_entries=5)
    stamps = [os.stat(tmp_path / f"m-{number}.tar").st_mtime_ns for number in range(3)]
    (inputs / "image00003.png").write_bytes(picture(3))
    assert counts(retry_files(target, backend=FakeBackend(16))) == (1, 0, 2, 0)
    same()
    changed = [os.stat(tmp_path / f"m-{number}.tar").st_mtime_ns for number in range(3)]
    assert [a == b for a, b in zip(stamps, changed, strict=True)] == [False, True, True]
    (inputs / "image00000.png").write_bytes(b"no picture any more")
    (inputs / "image00006.png").write_bytes(picture(66))
    assert counts(run(inputs, target)) == (1, 8, 3, 0)
    same()
    (inputs / "aaa.png").write_bytes(picture(77))
    assert run(inputs, target).done == 1
    same()
    fresh = dict(extracted(*tmp_path.glob("m-?.tar")))
    run(inputs, target, MaskOptions(("se", "mask"), threshold=20), on_change="redo")
    assert extracted(*tmp_path.glob("m-?.tar")).keys() == fresh.keys() != {}
    run(inputs, target, on_change="redo")
    same()
    (tmp_path / "m-1.tar").unlink()
    assert run(inputs, target).done > 0
    same()


def test_a_tar_that_no_journal_knows_is_refused_kept_or_replaced(inputs: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.tar"
    run(inputs, tmp_path / "whole.tar")
    foreign = tmp_path / "foreign"
    for name in ("image00000_se.png", "other.json", "other.jpg"):
        (foreign / name).parent.mkdir(exist_ok=True)
        (foreign / name).write_bytes(b"mine")
    make_tar(target, foreign)
    before = target.read_bytes()
    with pytest.raises(UsageError, match="no journal knows it"):
        run(inputs, target)
    assert target.read_bytes() == before
    assert counts(run(inputs, target, overwrite="skip")) == (22, 1, 2, 0)
    with tarfile.open(target) as tar:
        held = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert all(held[name] == b"mine" for name in ("image00000_se.png", "other.json", "other.jpg")) and len(held) == 47
    shutil.rmtree(tmp_path / "m.tar.seseg")
    assert counts(run(inputs, target, overwrite="redo")) == (23, 0, 2, 0)
    assert target.read_bytes() == (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "d.tar").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        run(inputs, tmp_path / "d.tar")
    with pytest.raises(UsageError, match="nothing to pack"):
        run(inputs, tmp_path / "n.tar", MaskOptions(()))
    with pytest.raises(UsageError, match="--tar-entries"):
        run(inputs, tmp_path / "n.tar", tar_entries=5)


def test_names_of_any_bytes_and_any_length(tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    for number, name in enumerate(["a\udcff\udcfe.png", "ü/é.png", "new\nline.png", "d/" * 60 + "deep.png", "l" * 180 + ".png"]):
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).write_bytes(picture(number))
    run(inputs, tmp_path / "folder")
    run(inputs, tmp_path / "m.tar")
    assert extracted(tmp_path / "m.tar") == tree(tmp_path / "folder")
    assert counts(run(inputs, tmp_path / "m.tar")) == (0, 5, 0, 0)


@pytest.mark.parametrize("pattern", ["m.tar", "m-%02d.tar"])
def test_a_stop_in_the_middle_and_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 150)
    entries = {"tar_entries": 40} if "%" in pattern else {}
    stops: list[Any] = []
    summary = run(inputs, tmp_path / pattern, **entries, observer=RunObserver(started=stops.append, committed=lambda row: stops[0]()))
    assert summary.left > 0 and summary.done > 0 and summary.unpacked > 0
    assert any("not written yet" in line for line in summary.lines())
    assert run(inputs, tmp_path / pattern, **entries).unpacked == 0
    run(inputs, tmp_path / "whole" / pattern, **entries)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("m*.tar")} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")
    }
    nothing_stray(tmp_path / pattern)


def test_an_input_that_went_before_it_was_reached_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 1)
    inputs = make_inputs(tmp_path / "in", 150)
    stops: list[Any] = []
    assert run(inputs, tmp_path / "m.tar", observer=RunObserver(started=stops.append, committed=lambda row: stops[0]())).left > 0
    with contextlib.closing(Journal(tmp_path / "m.tar.seseg" / "journal.sqlite")) as journal:
        row = next(journal.rows("pending"))
    os.unlink(os.fsdecode(row.source))
    assert run(inputs, tmp_path / "m.tar").unpacked == 0
    run(inputs, tmp_path / "folder")
    assert extracted(tmp_path / "m.tar") == tree(tmp_path / "folder")


def test_the_report_shows_what_tars_hold(inputs: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in.tar", inputs)
    collector = Collector()
    observer = RunObserver(started=lambda stop: collector.start(), committed=collector.add)
    summary = run(tmp_path / "in.tar", tmp_path / "m-%d.tar", tar_entries=7, observer=observer)
    write_page(tmp_path / "report.html", summary, collector, "clear")
    text = (tmp_path / "report.html").read_text()
    assert text.count('alt="input"') == text.count('alt="se"') == text.count('alt="pred"') > 0


def test_a_state_that_cannot_be_written_is_one_error(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoppedError):
        run(inputs, tmp_path / "m.tar", state_dir=str(tmp_path / "file" / "state"))
    assert not (tmp_path / "m.tar").exists()


def test_parts_of_a_run_may_share_a_tar_and_its_state(inputs: Path, tmp_path: Path) -> None:
    parts = [run(inputs, tmp_path / "m.tar", shard=(number, 3)) for number in (1, 2, 3)]
    assert sum(part.done for part in parts) == 23 and parts[-1].unpacked == 0
    run(inputs, tmp_path / "folder")
    assert extracted(tmp_path / "m.tar") == tree(tmp_path / "folder")


def test_a_tar_that_was_moved_with_its_state_is_known(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "m.tar")
    (tmp_path / "elsewhere").mkdir()
    for name in ("m.tar", "m.tar.seseg"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert counts(run(inputs, tmp_path / "elsewhere" / "m.tar")) == (0, 23, 2, 0)


def test_replacing_a_foreign_tar_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 150)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "other.jpg").write_bytes(b"mine")
    make_tar(tmp_path / "m.tar", tmp_path / "foreign")
    stops: list[Any] = []
    observer = RunObserver(started=stops.append, committed=lambda row: stops[0]())
    assert run(inputs, tmp_path / "m.tar", overwrite="redo", observer=observer).left > 0
    with tarfile.open(tmp_path / "m.tar") as tar:
        assert tar.getnames() == ["other.jpg"]  # until the new one is whole
    run(inputs, tmp_path / "m.tar")
    run(inputs, tmp_path / "whole.tar")
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


def test_what_is_noted_of_a_tar_is_noted_again_where_it_is_not_true(inputs: Path, tmp_path: Path) -> None:
    target, whole = tmp_path / "m-%d.tar", tmp_path / "whole-%d.tar"

    def noted() -> list[Any]:
        with contextlib.closing(Journal(tmp_path / "m-%d.tar.seseg" / "journal.sqlite", read_only=True)) as journal:
            return [[journal.tar_stat(number) for number in range(5)], [journal.packed_in(number) for number in range(5)]]

    def true() -> list[Any]:
        tars = [tmp_path / f"m-{number}.tar" for number in range(5)]
        stats = [Stat(path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None for path in tars]
        entries = []
        for path in tars:
            with tarfile.open(path) if path.exists() else contextlib.nullcontext([]) as tar:
                entries.append({info.name: Entry(0, info.offset_data, info.size) for info in tar})
        return [stats, entries]

    run(inputs, whole, tar_entries=10)
    run(inputs, target, tar_entries=10)
    assert noted() == true() and true()[0][3:] == [None, None] and sum(map(len, true()[1])) == 46
    for change, done in ((lambda path: os.utime(path, ns=(1, 1)), 0), (os.unlink, 9)):
        change(tmp_path / "m-1.tar")
        with contextlib.closing(Journal(tmp_path / "m-%d.tar.seseg" / "journal.sqlite")) as journal:
            journal.set_packed(2, Stat(1, 1), [("nothing of the kind", Entry(0, 0, 1))])
            journal.set_packed(4, Stat(1, 1), [("nothing", Entry(0, 0, 1))])
        assert run(inputs, target).done == done  # the tars are read, not made again
        assert noted() == true()
        assert [path.read_bytes() for path in sorted(tmp_path.glob("m-?.tar"))] == [
            path.read_bytes() for path in sorted(tmp_path.glob("whole-?.tar"))
        ]
    nothing_stray(target)


def test_an_output_is_read_where_it_is_staged_or_packed(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "folder")
    run(inputs, tmp_path / "m.tar")
    state = tmp_path / "m.tar.seseg"
    for outputs in (TarOutputs(str(tmp_path / "m.tar"), state, durable=False), OutputFolder(tmp_path / "folder")):
        assert outputs.read("image00000_se.png") == tree(tmp_path / "folder")["image00000_se.png"]
        with pytest.raises(FileNotFoundError):
            outputs.read("nothing_se.png")
    outputs = TarOutputs(str(tmp_path / "m.tar"), state, durable=False)
    outputs.prepare()
    outputs.write("image00000_se.png", b"newer")
    assert outputs.read("image00000_se.png") == b"newer" and outputs.size("image00000_se.png") == 5
    outputs.remove("image00000_se.png")
    assert (
        outputs.size("image00000_se.png") is None and (state / "staged" / "image00000_se.png").read_bytes() == b""
    )  # a tombstone, until the tar is written again


def test_a_foreign_tar_that_cannot_be_read_whole_is_not_kept(inputs: Path, tmp_path: Path) -> None:
    target = make_tar(tmp_path / "m.tar", make_inputs(tmp_path / "foreign", 3))
    damaged = target.read_bytes()[:-11_000]
    target.write_bytes(damaged)
    with pytest.raises(UsageError, match="can't be kept") as caught:
        run(inputs, target, overwrite="skip")
    assert "--overwrite redo" in str(caught.value) and target.read_bytes() == damaged


def row_of(name: str, state: Any, *outputs: str) -> Row:
    made = ("0" * 64, 1) if state == "done" else None
    return Row(name.encode(), name.encode(), 1, 1, "options", "artifact", dict.fromkeys(outputs, made), state)


def test_what_is_pending_is_not_packed_and_a_short_read_leaves_the_tar_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as journal:
        outputs = TarOutputs(str(tmp_path / "m.tar"), tmp_path / "state", durable=False, journal=journal)
        outputs.prepare()
        for name in ("a_se.png", "b_se.png"):
            outputs.write(name, b"data of " + name.encode())
        outputs.pack(0, [row_of("a.png", "done", "a_se.png"), row_of("b.png", "pending", "b_se.png")])
        assert list(extracted(tmp_path / "m.tar")) == ["a_se.png"]
        before = (tmp_path / "m.tar").read_bytes()
        outputs.write("c_se.png", b"more")
        real = outputs._storage.read_range
        monkeypatch.setattr(outputs._storage, "read_range", lambda name, offset, size: real(name, offset, size)[:-1])
        rows = [row_of("a.png", "done", "a_se.png"), row_of("c.png", "done", "c_se.png")]
        with pytest.raises(StoppedError):
            outputs.pack(0, rows)
        assert (tmp_path / "m.tar").read_bytes() == before and outputs.size("c_se.png") == 4
        monkeypatch.undo()
        outputs.pack(0, rows)
    assert extracted(tmp_path / "m.tar") == {"a_se.png": b"data of a_se.png", "c_se.png": b"more"}
