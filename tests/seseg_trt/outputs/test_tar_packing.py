"""What one packing does: which outputs go into a tar, in which order, what is removed after it, and what is flushed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import StoppedError, UsageError
from seseg_trt.inputs.tar_index import Entry
from seseg_trt.journal.journal import Journal
from seseg_trt.outputs import tar as module
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.tar import TarOutputs
from seseg_trt.storage.base import Stat
from seseg_trt.storage.local import LocalStorage
from tests.runs import needs_scale
from tests.seseg_trt.inputs.tars import index, pack
from tests.seseg_trt.outputs.tars import extracted
from tests.seseg_trt.outputs.test_tar import row_of


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as opened:
        yield opened


def opened(journal: Journal, target: object, **options: Any) -> TarOutputs:
    outputs = TarOutputs(str(target), journal.path.parent, durable=options.pop("durable", False), journal=journal)
    outputs.prepare()
    return outputs


def staged(outputs: TarOutputs) -> list[str]:
    return sorted(str(path.relative_to(outputs.root)) for path in outputs.root.rglob("*") if path.is_file())


def done(name: str) -> Any:
    return row_of(f"{name}.png", "done", f"{name}_se.png")


def test_entries_are_in_the_order_of_the_inputs_and_then_of_their_names(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "new" / "folder" / "m.tar")
    for name in ("b_pred.png", "b_se.png", "a_se.png", "stray_se.png"):
        outputs.write(name, name.encode())
    outputs.pack(0, [row_of("b.png", "done", "b_se.png", "b_pred.png"), row_of("a.png", "done", "a_se.png")])
    target = tmp_path / "new" / "folder" / "m.tar"
    assert list(extracted(target).items()) == [(name, name.encode()) for name in ("b_pred.png", "b_se.png", "a_se.png")]
    assert staged(outputs) == ["stray_se.png"]
    assert journal.tar_stat(0) == Stat(target.stat().st_size, target.stat().st_mtime_ns)
    found = index(target.read_bytes()).entries
    assert journal.packed_in(0) == {name: entry._replace(number=0) for name, entry in found.items()}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024])
def test_the_place_of_an_entry_of_any_size_is_known(journal: Journal, tmp_path: Path, size: int) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    names = ["x" * 120 + "_se.png", "b_se.png"]
    for name in names:
        outputs.write(name, b"d" * max(size, 1))
    outputs.pack(0, [row_of("a.png", "done", *names)])
    assert [outputs.read(name) for name in names] == [b"d" * max(size, 1)] * 2
    assert [outputs.size(name) for name in names] == [max(size, 1)] * 2


def test_a_tar_that_holds_all_that_it_should_is_left_alone(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    outputs.write("a_se.png", b"1")
    outputs.write("b_se.png", b"2")
    outputs.pack(0, [done("a"), done("b")])
    written: list[int] = []
    real = TarOutputs._write_tar
    monkeypatch.setattr(TarOutputs, "_write_tar", lambda self, number, entries: (written.append(number), real(self, number, entries)))
    outputs.pack(0, [done("a"), done("b")])
    outputs.pack(0, [done("a"), done("b"), done("never_made")])
    assert written == []
    outputs.pack(0, [done("b"), done("a")])
    assert written == [0] and list(extracted(tmp_path / "m.tar")) == ["b_se.png", "a_se.png"]
    outputs.write("a_se.png", b"3")
    outputs.pack(0, [done("b"), done("a")])
    assert written == [0, 0] and extracted(tmp_path / "m.tar") == {"b_se.png": b"2", "a_se.png": b"3"}
    outputs.pack(1, [])
    assert written == [0, 0]  # not a row of tars: the same one


def test_what_no_input_of_a_tar_mentions_stays_at_its_end(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(pack([("other.txt", b"mine"), ("a_se.png", b"old"), ("z.json", b"{}"), ("z.jpg", b"z")]))
    outputs = opened(journal, tmp_path / "m.tar")
    outputs.write("b_se.png", b"new")
    outputs.pack(0, [done("b"), done("a")])
    assert list(extracted(tmp_path / "m.tar")) == ["b_se.png", "a_se.png", "other.txt", "z.json", "z.jpg"]
    assert list(extracted(tmp_path / "m.tar").values()) == [b"new", b"old", b"mine", b"{}", b"z"]


def test_a_tombstone_removes_what_an_earlier_tar_holds(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    for name in ("a_se.png", "b_se.png", "c_se.png"):
        outputs.write(name, name.encode())
    outputs.pack(0, [done("a"), done("b"), done("c")])
    outputs = opened(journal, tmp_path / "m.tar")
    outputs.remove("b_se.png")
    assert outputs.size("b_se.png") is None and outputs.size("a_se.png") == 8 and staged(outputs) == ["b_se.png"]
    outputs.pack(0, [done("a"), row_of("b.png", "quarantined", "b_se.png"), done("c")])
    assert list(extracted(tmp_path / "m.tar")) == ["a_se.png", "c_se.png"] and staged(outputs) == []


def test_a_pending_input_keeps_its_staged_output_out_and_takes_the_old_one_away(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    for name in ("a_se.png", "b_se.png"):
        outputs.write(name, b"1")
    outputs.pack(0, [done("a"), done("b")])
    outputs.pack(0, [done("a"), row_of("b.png", "pending", "b_se.png")])
    assert list(extracted(tmp_path / "m.tar")) == ["a_se.png"]


def test_an_output_that_two_rows_mention_is_packed_once(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    for name in ("a_pred.png", "a_se.png", "b_se.png"):
        outputs.write(name, name.encode())
    outputs.pack(0, [done("a"), row_of("a.jpg", "quarantined", "a_pred.png", "a_se.png", "b_se.png"), done("c")])
    assert list(extracted(tmp_path / "m.tar")) == ["a_se.png", "a_pred.png", "b_se.png"] and staged(outputs) == []


def test_without_a_tar_nothing_is_remembered_of_what_was_removed(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = opened(journal, tmp_path / "m-%d.tar")
    looked: list[str] = []
    real = LocalStorage.names
    monkeypatch.setattr(LocalStorage, "names", lambda self, folder: (looked.append(folder), real(self, folder))[1])
    outputs.write("a_se.png", b"1")
    outputs.remove("a_se.png")
    outputs.remove("b_se.png")
    assert staged(outputs) == [] and looked == [str(tmp_path)]
    (tmp_path / "m-3.tar").write_bytes(pack([]))
    outputs = opened(journal, tmp_path / "m-%d.tar")
    outputs.remove("c_se.png")
    outputs.remove("d_se.png")
    outputs.remove("x" * 300)  # which never was a file's name
    assert staged(outputs) == ["c_se.png", "d_se.png"] and looked == [str(tmp_path)] * 2


def test_the_numbers_of_the_tars_that_are_there(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(journal, tmp_path / "nowhere" / "m-%02d.tar").numbers() == []
    assert opened(journal, tmp_path / "m.tar").numbers() == []
    for name in ("m-10.tar", "m-02.tar", "m-00.tar", "m-2.tar", "n-01.tar", "m.tar"):
        (tmp_path / name).write_bytes(b"x")
    outputs = opened(journal, tmp_path / "m-%02d.tar")
    assert outputs.numbers() == [0, 2, 10] and outputs.name(2) == f"{tmp_path}/m-02.tar"
    assert opened(journal, tmp_path / "m.tar").numbers() == [0]

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalStorage, "names", refuse)
    with pytest.raises(StoppedError, match=r"m-%02d\.tar can't be written: Permission denied"):
        outputs.numbers()


def test_a_tar_is_read_again_only_where_it_changed(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.tar"
    target.write_bytes(pack([("a.jpg", b"1"), ("a.json", b"2")]))
    os.utime(target, ns=(5, 7))
    read: list[str] = []
    real = module.index_of
    monkeypatch.setattr(module, "index_of", lambda name, stat: (read.append(name), real(name, stat))[1])
    outputs = opened(journal, target)
    outputs.refresh()
    outputs.refresh()
    assert read == [str(target)] and journal.packed_in(0) == {"a.jpg": Entry(0, 512, 1), "a.json": Entry(0, 1536, 1)}
    os.utime(target, ns=(5, 8))
    outputs.ignored = {0: Stat(target.stat().st_size, 8)}
    assert outputs._stat_known(0) is None and read == [str(target)]
    outputs.ignored = {0: Stat(target.stat().st_size, 7), 1: Stat(target.stat().st_size, 8)}
    assert outputs._stat_known(0) == Stat(target.stat().st_size, 8) and len(read) == 2
    target.unlink()
    assert outputs._stat_known(0) is None
    outputs.refresh()
    assert journal.packed_in(0) == {} and journal.tar_stat(0) is None


def test_a_tar_that_cannot_be_read_stops_the_run(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tar").write_bytes(pack([]))

    def refuse(name: str, stat: Stat) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "index_of", refuse)
    with pytest.raises(StoppedError, match=r"m\.tar can't be written: Input/output error"):
        opened(journal, tmp_path / "m.tar").refresh()


def test_a_tar_is_kept_only_where_all_of_it_can_be_read(journal: Journal, tmp_path: Path) -> None:
    whole, target = pack([("a.jpg", b"1"), ("b.jpg", b"2")]), tmp_path / "m.tar"
    outputs = opened(journal, target)
    target.write_bytes(whole)
    outputs.refuse_lossy(0)
    for data, why in (
        (whole[:1024], "the tar ends without its end mark, after entry 1; entries after it, if there were any, are lost"),
        (pack([("a.jpg", b"1"), ("a.jpg", b"2"), ("../b.jpg", b"3")]), "entry 1 of the same tar has the same name; rename one of the two"),
    ):
        target.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            outputs.refuse_lossy(0)
        assert caught.value.message == f"{target} can't be kept, since not all of it can be read: {why}"
        assert caught.value.hint == "--overwrite redo replaces it"


def test_a_replaced_tar_is_no_longer_ignored(journal: Journal, tmp_path: Path) -> None:
    target = tmp_path / "m.tar"
    target.write_bytes(pack([("foreign.jpg", b"1")]))
    outputs = opened(journal, target)
    outputs.ignored = {0: LocalStorage().stat(str(target)), 1: Stat(1, 1)}
    outputs.write("a_se.png", b"2")
    outputs.pack(0, [done("a")])
    assert extracted(target) == {"a_se.png": b"2"} and outputs.ignored == {1: Stat(1, 1)}


@pytest.mark.parametrize("durable", [False, True])
def test_durable_tars_are_flushed_before_they_get_their_name(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    outputs = opened(journal, tmp_path / "m.tar", durable=durable)
    outputs.write("a_se.png", b"1")
    calls: list[str] = []
    sync, replace, unlink = os.fsync, os.replace, os.unlink
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("name"), replace(a, b))[1])
    monkeypatch.setattr(os, "unlink", lambda path: (calls.append("staged"), unlink(path))[1] if "a_se" in path else unlink(path))
    outputs.pack(0, [done("a")])
    assert calls == (["sync", "name", "sync", "staged"] if durable else ["name", "staged"])


def test_an_output_is_read_without_a_journal_in_hand_and_no_descriptor_stays(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    outputs.write("a_se.png", b"1")
    outputs.pack(0, [done("a")])
    journal.close()  # SQLite keeps a closed file's descriptor while another connection of the process has a lock on it
    reader = TarOutputs(str(tmp_path / "m.tar"), journal.path.parent, durable=False)
    before = len(os.listdir("/proc/self/fd"))
    assert reader.read("a_se.png") == b"1" and reader.size("a_se.png") is None
    with pytest.raises(FileNotFoundError) as caught:
        reader.read("b_se.png")
    assert str(caught.value) == f"{tmp_path}/m.tar has no b_se.png"
    assert len(os.listdir("/proc/self/fd")) == before


def test_empty_folders_of_the_staging_go_and_others_stay(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    outputs.write("x/y/a_se.png", b"1")
    (outputs.root / "e" / "f").mkdir(parents=True)
    outputs.clear()
    assert sorted(os.listdir(outputs.root)) == ["x"]
    os.unlink(outputs.root / "x" / "y" / "a_se.png")
    outputs.clear()
    assert not outputs.root.exists()
    outputs.clear()


@needs_scale
def test_a_tar_of_a_store_is_written_whole_and_read_by_parts(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = opened(journal, "memory://packing/out/m-%d.tar")
    for name in ("a_se.png", "b_se.png"):
        outputs.write(name, name.encode())
    outputs.pack(1, [done("a"), done("b")])
    assert outputs.numbers() == [1] and outputs.read("b_se.png") == b"b_se.png" and staged(outputs) == []
    outputs.write("b_se.png", b"new")
    outputs.pack(1, [done("a"), done("b")])
    assert outputs.read("a_se.png") == b"a_se.png" and outputs.read("b_se.png") == b"new"
    assert sorted(os.listdir(tmp_path)) == ["state"]  # no folder of the store's name
    assert [name for name in os.listdir(journal.path.parent) if name.endswith(".tmp")] == []


def test_a_tar_beside_the_working_folder_needs_no_folder(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = opened(journal, "m.tar")
    outputs.write("a_se.png", b"1")
    outputs.pack(0, [done("a")])
    assert extracted(tmp_path / "m.tar") == {"a_se.png": b"1"}


def test_a_staging_folder_is_an_output_folder(journal: Journal, tmp_path: Path) -> None:
    outputs = opened(journal, tmp_path / "m.tar")
    assert isinstance(outputs, OutputFolder) and outputs.root == tmp_path / "state" / "staged"
    outputs.write("a_se.png", b"12")
    assert (outputs.size("a_se.png"), outputs.read("a_se.png"), outputs.size("b_se.png")) == (2, b"12", None)


def test_a_reader_makes_no_journal(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    reader = TarOutputs(target=str(tmp_path / "m.tar"), state=tmp_path / "state", durable=False)
    with pytest.raises(StoppedError):
        reader.read("a_se.png")
    assert os.listdir(tmp_path / "state") == []
