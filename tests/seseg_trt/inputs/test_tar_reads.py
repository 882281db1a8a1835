"""How the entries of a tar are read: where the scan found them, and never from a tar that has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import BadImage, FakeBackend, RunObserver, RunOptions, segment_files
from seseg_trt.inputs import tar_entries as tars
from seseg_trt.inputs.item import InputItem
from seseg_trt.inputs.read import read_source, stat_source
from seseg_trt.inputs.tar_index import Index, read_index
from seseg_trt.storage.base import Stat
from seseg_trt.storage.local import LocalStorage
from tests.runs import counts, picture, records, tree
from tests.seseg_trt.inputs.tars import ARCHIVE, ENTRIES, MASKS, pack, plan, run


def test_an_archive_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(ARCHIVE)
    assert counts(run(tar, tmp_path / "out")) == (6, 0, 0, 0)
    tar.write_bytes(pack([*ENTRIES[::-1], ("new.png", picture(9))]))
    assert counts(run(tar, tmp_path / "out")) == (7, 0, 0, 0)
    for change in CHANGES:
        monkeypatch.setattr(LocalStorage, "read_range", changing(tar, change))
        out = tmp_path / change
        summary = run(tar, out, workers=1)
        assert summary.quarantined == 7 and set(records(out).values()) == {"changed"}
        monkeypatch.undo()
        tar.write_bytes(pack([*ENTRIES[::-1], ("new.png", picture(9))]))
        assert counts(run(tar, out)) == (7, 0, 0, 0)


CHANGES = ("mtime", "grown", "cut")


def changing(tar: Path, change: str) -> Any:
    """Return a way to read a part of a file in which the tar changes under the reader."""
    real = LocalStorage.read_range
    turn = iter(range(2, 1000))

    def read_range(self: LocalStorage, name: str, offset: int, size: int) -> bytes:
        data = real(self, name, offset, size)
        if change == "mtime":
            os.utime(tar, ns=(1, next(turn)))
        elif change == "grown":
            with open(tar, "ab") as file:
                file.write(bytes(512))
        else:
            data = data[:-1]  # as where the tar ends before
        return data

    return read_range


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list that the size of each tar whose headers are read goes into."""
    sizes: list[int] = []

    def count(file: Any, size: int) -> Index:
        sizes.append(size)
        return read_index(file, size)

    monkeypatch.setattr(tars, "read_index", count)
    tars._indexes.clear()
    return sizes


def test_entries_are_read_where_the_scan_found_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    sizes = counted(monkeypatch)
    found = plan(tmp_path / "a.tar")
    mtime = os.stat(tmp_path / "a.tar").st_mtime_ns
    assert sizes == [len(ARCHIVE)] and [item.path for item in found.items] == [name for name, _ in ENTRIES]
    tars._indexes.clear()  # as in another process
    for item, (_, data) in zip(found.items, ENTRIES, strict=True):
        assert read_source(item, 10**6) == (data, Stat(len(data), mtime)) and stat_source(item) == (len(data), mtime)
    assert sizes == [len(ARCHIVE)]
    assert read_source(InputItem(found.items[2].root, "2.png"), 10**6)[0] == ENTRIES[2][1]  # as the journal knows it
    assert sizes == 2 * [len(ARCHIVE)]
    sizes.clear()
    tars._indexes.clear()
    forget = RunObserver(planned=lambda plan, remaining: tars._indexes.clear())
    assert counts(run(tmp_path / "a.tar", tmp_path / "out", observer=forget)) == (6, 0, 0, 0)
    assert counts(run(tmp_path / "a.tar", tmp_path / "out", observer=forget)) == (0, 6, 0, 0)
    assert sizes == 2 * [len(ARCHIVE)]  # once a run


class Blind(FakeBackend):
    """The fake network in a process in which no tar's headers can be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _blind, ()


def _blind() -> FakeBackend:
    def refuse(*arguments: object) -> Index:
        raise RuntimeError("the headers were to be read again")

    tars.read_index = refuse
    return FakeBackend(16)


def test_worker_processes_read_no_headers(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    options = RunOptions(processes=1)
    summary = segment_files([tmp_path / "a.tar"], tmp_path / "out", masks=MASKS, options=options, backend=Blind(16))
    assert counts(summary) == (6, 0, 0, 0), records(tmp_path / "out")
    run(tmp_path / "a.tar", tmp_path / "here")
    assert tree(tmp_path / "out") == tree(tmp_path / "here")


def test_a_tar_that_was_replaced_after_the_scan_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never what lies at an entry's old place."""
    tar = tmp_path / "a.tar"
    tar.write_bytes(ARCHIVE)
    os.utime(tar, ns=(1, 1))
    replaced = pack([("first.png", picture(8)), *ENTRIES[:0:-1]])

    def replace(*arguments: object) -> None:
        tar.write_bytes(replaced)

    summary = run(tar, tmp_path / "out", observer=RunObserver(planned=replace))
    assert counts(summary) == (5, 0, 1, 0) and records(tmp_path / "out") == {"0.png": "missing"}
    made = tree(tmp_path / "out")
    run(tar, tmp_path / "anew")
    assert made == {name: data for name, data in tree(tmp_path / "anew").items() if not name.startswith("first")}
    item = plan(tar).items[0]
    with pytest.raises(BadImage) as caught:
        read_source(item, 10)
    assert caught.value.reason == "too_large"


def test_few_indexes_are_kept_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "ENTRIES_KEPT", 8)
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(pack([(f"{number}/{name}", data) for name, data in ENTRIES]))
    assert counts(run(tmp_path / "{0..3}.tar", tmp_path / "out")) == (24, 0, 0, 0)
    assert sum(map(len, tars._indexes.values())) <= 8
