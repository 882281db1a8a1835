"""Tars as outputs: what is in them is what a folder would hold, and their bytes are the same however the run went."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunOptions, StoppedError, Summary, UsageError, Watch, segment_files
from seseg_trt.files import retry_files
from seseg_trt.run import packing, stream
from seseg_trt.run.journal import Journal
from seseg_trt.run.merge import merge_journals
from seseg_trt.run.report_page import Collector, write_page
from seseg_trt.run.tar_outputs import TarOutputs
from tests.runs import make_inputs, make_tar, picture, tree

MASKS = MaskOptions(("se", "mask"), threshold=50)
STATE_FILES = {"journal.sqlite", "lock", "quarantine.jsonl", "runs", "packed"}


def run(source: object, target: object, masks: MaskOptions = MASKS, **options: Any) -> Summary:
    watch = options.pop("watch", None)
    summary = segment_files([str(source)], str(target), masks=masks, options=RunOptions(**options), watch=watch, backend=FakeBackend(16))
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.done, summary.skipped, summary.quarantined, summary.left


def extracted(*tars: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in tars:
        with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
                assert info.isreg() and info.name not in found
                found[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    return found


def nothing_stray(target: Path) -> None:
    state = target.with_name(target.name + ".seseg")
    assert {path.name for path in state.iterdir()} <= STATE_FILES, list(state.iterdir())
    assert not [path for path in target.parent.iterdir() if path.name.endswith(".tmp")]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return make_inputs(tmp_path / "in", 25, bad_every=9)


def test_a_tar_holds_what_the_folder_would_and_is_left_alone_when_it_does(inputs: Path, tmp_path: Path) -> None:
    folder = run(inputs, tmp_path / "folder")
    one = run(inputs, tmp_path / "one.tar")
    run(inputs, tmp_path / "two.tar", workers=4, memory=1 << 20)
    run(inputs, tmp_path / "three.tar", MaskOptions(("mask", "se"), threshold=50), device="cpu,cpu", durable=True)
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
    monkeypatch.setattr(stream, "ROWS_PER_COMMIT", 2)
    inputs = make_inputs(tmp_path / "in", 60)
    seen: list[int] = []

    def committed(row: Any) -> None:
        time.sleep(0.01)
        seen.append(len(list(tmp_path.glob("m-*.tar"))))

    run(inputs, tmp_path / "m-%02d.tar", tar_entries=10, watch=Watch(committed=committed))
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
    monkeypatch.setattr(stream, "ROWS_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 150)
    entries = {"tar_entries": 40} if "%" in pattern else {}
    stops: list[Any] = []
    summary = run(inputs, tmp_path / pattern, **entries, watch=Watch(started=stops.append, committed=lambda row: stops[0]()))
    assert summary.left > 0 and summary.done > 0 and summary.unpacked > 0
    assert any("not written yet" in line for line in summary.lines())
    assert run(inputs, tmp_path / pattern, **entries).unpacked == 0
    run(inputs, tmp_path / "whole" / pattern, **entries)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("m*.tar")} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")
    }
    nothing_stray(tmp_path / pattern)


def test_an_input_that_went_before_it_was_reached_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "ROWS_PER_COMMIT", 1)
    inputs = make_inputs(tmp_path / "in", 150)
    stops: list[Any] = []
    assert run(inputs, tmp_path / "m.tar", watch=Watch(started=stops.append, committed=lambda row: stops[0]())).left > 0
    with contextlib.closing(Journal(tmp_path / "m.tar.seseg" / "journal.sqlite")) as journal:
        row = next(journal.rows("pending"))
    os.unlink(os.fsdecode(row.source))
    assert run(inputs, tmp_path / "m.tar").unpacked == 0
    run(inputs, tmp_path / "folder")
    assert extracted(tmp_path / "m.tar") == tree(tmp_path / "folder")


@pytest.mark.parametrize("where", ["tar", "staged", "record"])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real = os.replace
    calls = iter(range(10**6))

    def replace(source: Any, target: Any) -> None:
        kind = "tar" if str(target).endswith(".tar") else "record" if str(target).endswith(".json") else "staged"
        if kind == where and (where != "staged" or next(calls) > 7):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    summary = run(inputs, tmp_path / "m.tar")
    assert summary.exit_code == 5 and "full" in str(summary.stopped)
    monkeypatch.undo()
    assert run(inputs, tmp_path / "m.tar").exit_code == 2
    run(inputs, tmp_path / "whole.tar")
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    nothing_stray(tmp_path / "m.tar")


def test_two_runs_at_once_share_the_work_and_the_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SECONDS_BETWEEN_LOOKS", 0.05)
    inputs = make_inputs(tmp_path / "in", 200, bad_every=10)
    summaries: list[Summary] = []
    target = tmp_path / "m-%02d.tar"
    threads = [threading.Thread(target=lambda: summaries.append(run(inputs, target, tar_entries=30))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.unpacked for summary in summaries] == [0, 0]
    run(inputs, tmp_path / "whole" / "m-%02d.tar", tar_entries=30)
    for path in (tmp_path / "whole").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    nothing_stray(target)


@pytest.mark.parametrize("pattern", ["m.tar", "m-%02d.tar"])
def test_runs_that_are_killed_at_any_moment_end_in_the_same_tars(tmp_path: Path, pattern: str) -> None:
    make_tar(tmp_path / "in.tar", make_inputs(tmp_path / "in", 120, bad_every=17))
    command = [sys.executable, "-m", "tests.soak.worker", str(tmp_path / "in.tar")]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    assert subprocess.run([*command, str(tmp_path / "whole" / pattern)], stdout=subprocess.DEVNULL).returncode == 2
    chance = random.Random(5)
    # Before or after some rename: there are 226 of outputs in all, and at most 186 of them come before the last kill.
    for what in ("die", "die-after") * 3:
        fault = f"write:{what}:{chance.randint(0, 30)}"
        killed = subprocess.run([*command, str(tmp_path / "killed" / pattern), fault], stdout=subprocess.DEVNULL)
        assert killed.returncode == -signal.SIGKILL
    assert subprocess.run([*command, str(tmp_path / "killed" / pattern)], stdout=subprocess.DEVNULL).returncode == 2
    same = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tar")} for name in ("whole", "killed")]
    assert same[0] == same[1] and same[0]


@pytest.mark.parametrize("place", ["_write_tar", "_add", "rename", "unlink"])
def test_packing_that_is_broken_off_anywhere_is_done_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run(inputs, tmp_path / "whole.tar")
    calls = iter(range(10**6))
    owner, name = {"rename": (os, "replace"), "unlink": (os, "unlink")}.get(place, (TarOutputs, place))
    real = getattr(owner, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        relevant = place[0] == "_" or ("packed" in str(arguments[0]) if place == "rename" else "/staged/" in str(arguments[0]))
        if relevant and next(calls) == (0 if place in ("_write_tar", "rename") else 9):
            raise KeyboardInterrupt  # as death would, it runs no handler of errors
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "m.tar")
    monkeypatch.undo()
    assert counts(run(inputs, tmp_path / "m.tar")) == (0, 23, 2, 0)
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    nothing_stray(tmp_path / "m.tar")


def test_the_report_shows_what_tars_hold(inputs: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in.tar", inputs)
    collector = Collector()
    watch = Watch(planned=lambda plan, todo: collector.begin(plan), started=lambda stop: collector.start(), committed=collector.add)
    summary = run(tmp_path / "in.tar", tmp_path / "m-%d.tar", tar_entries=7, watch=watch)
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
    monkeypatch.setattr(stream, "ROWS_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 150)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "other.jpg").write_bytes(b"mine")
    make_tar(tmp_path / "m.tar", tmp_path / "foreign")
    stops: list[Any] = []
    watch = Watch(started=stops.append, committed=lambda row: stops[0]())
    assert run(inputs, tmp_path / "m.tar", overwrite="redo", watch=watch).left > 0
    with tarfile.open(tmp_path / "m.tar") as tar:
        assert tar.getnames() == ["other.jpg"]  # until the new one is whole
    run(inputs, tmp_path / "m.tar")
    run(inputs, tmp_path / "whole.tar")
    assert (tmp_path / "m.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


def test_what_is_known_of_a_tar_is_written_again_where_it_is_not_true(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "m.tar")
    record = tmp_path / "m.tar.seseg" / "packed" / "0.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:-5])
    record.with_suffix(".tmp").write_bytes(b"of a process that was killed")
    run(inputs, tmp_path / "m.tar")
    assert record.read_bytes() == whole and [path.name for path in record.parent.iterdir()] == ["0.json"]
