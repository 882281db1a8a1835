"""Which tar and which entry a source names, and which indexes are kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import BadImage
from seseg_trt.inputs import tar_entries
from seseg_trt.inputs.item import InputItem
from seseg_trt.inputs.tar_entries import index_of, is_numbered, numbered, read_entry, split_source, stat_entry
from seseg_trt.inputs.tar_index import Index, read_index
from seseg_trt.storage.base import ChangedError, Stat
from seseg_trt.storage.local import LocalStorage
from seseg_trt.storage.objects import STORES, ObjectStorage
from tests.runs import needs_scale
from tests.seseg_trt.inputs.tars import pack


@pytest.fixture(autouse=True)
def _no_index_is_known() -> Iterator[None]:
    tar_entries._indexes.clear()
    tar_entries.forget_stores()
    yield
    tar_entries._indexes.clear()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each tar whose headers are read."""
    found: list[int] = []

    def read(file: Any, size: int) -> Index:
        found.append(size)
        return read_index(file, size)

    monkeypatch.setattr(tar_entries, "read_index", read)
    return found


def tar_of(path: Path, *names: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack([(name, name.encode()) for name in names]))
    os.utime(path, ns=(5, 7))
    return str(path)


def no_check(size: int) -> None:
    pass


def test_a_source_is_split_at_the_first_tar_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tar_of(tmp_path / "one.tar"), tar_of(tmp_path / "folder.tar" / "two.tar")
    assert split_source(f"{one}/a.jpg") == (one, "a.jpg")
    assert split_source(f"{one}/x/b.tar/a.jpg") == (one, "x/b.tar/a.jpg")
    assert split_source(f"{two}/a.jpg") == (two, "a.jpg")
    assert split_source(f"{two}/") == (two, "")
    for none in (one, two, f"{tmp_path}/folder.tar/a.jpg", f"{tmp_path}/none.tar/a.jpg", f"{one}x/a.jpg", f"{tmp_path}/a.jpg"):
        assert split_source(none) is None
    monkeypatch.chdir(tmp_path)
    tar_of(tmp_path / ".tar")
    assert split_source(".tar/a.jpg") == (".tar", "a.jpg")
    assert split_source("one.tar/a.jpg") == ("one.tar", "a.jpg")
    tar_of(tmp_path / "t.tar" / ".tar")
    assert split_source("t.tar/.tar/.tar/a") == ("t.tar/.tar", ".tar/a")


@needs_scale
def test_a_stores_names_are_split_alike_and_each_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tar = "memory://split/folder.tar/a.tar"
    STORES.put(tar, pack([("x.jpg", b"1")]))
    asked: list[str] = []
    real = ObjectStorage.is_file
    monkeypatch.setattr(ObjectStorage, "is_file", lambda self, name: (asked.append(name), real(self, name))[1])
    for name in ("x.jpg", "y/z.jpg"):
        assert split_source(f"{tar}/{name}") == (tar, name)
    assert split_source("memory://split/folder.tar/b.jpg") is None
    assert asked == ["memory://split/folder.tar", tar]


def test_a_number_in_a_source_is_seen() -> None:
    assert is_numbered("/in/a.tar#17/a.jpg") and is_numbered("/in/a.tar#0/b/a.jpg")
    for name in ("/in/a.tar/a.jpg", "/in/a.tar#/a.jpg", "/in/a.tar#1", "/in/a#1/a.jpg", "/in/atar#1/a.jpg"):
        assert not is_numbered(name)


def test_an_entry_whose_name_another_has_goes_by_its_number(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg", "b.jpg", "b.jpg", "../c.jpg")
    assert numbered(f"{tar}/a.jpg") == f"{tar}#1/a.jpg"
    assert numbered(f"{tar}/b.jpg") == f"{tar}#2/b.jpg"
    assert numbered(f"{tar}/c.jpg") == f"{tar}#4/c.jpg"
    assert numbered(f"{tar}/gone.jpg") == f"{tar}#0/gone.jpg"


def test_an_entry_has_its_size_and_its_tars_time(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg", "abc.jpg")
    assert (stat_entry(tar, "a.jpg"), stat_entry(tar, "abc.jpg")) == (Stat(5, 7), Stat(7, 7))
    with pytest.raises(FileNotFoundError) as caught:
        stat_entry(tar, "b.jpg")
    assert str(caught.value) == f"{tar} has no entry b.jpg"


def test_an_entry_is_read_by_its_name_where_its_place_is_not_known(tmp_path: Path, sizes: list[int]) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg", "b.jpg")
    good, stat = Stat(5, 7), Stat(10_240, 7)
    wrong = 1536 - 2  # two bytes before the second entry's
    for item in (
        InputItem(tar, "b.jpg"),
        InputItem(tar, "b.jpg", None, wrong),
        InputItem(tar, "b.jpg", good, None),
        InputItem(tar, "b.jpg", good._replace(mtime_ns=6), wrong),
        InputItem(tar, "b.jpg", good._replace(mtime_ns=8), wrong),
    ):
        assert read_entry(tar, "b.jpg", no_check, item) == (b"b.jpg", good)
    assert sizes == [stat.size]
    assert read_entry(tar, "b.jpg", no_check, InputItem(tar, "b.jpg", good, wrong))[0] == b"\0\0b.j"  # the scan's word is taken


def test_an_entry_that_was_refused_keeps_its_reason(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(pack([("a.jpg", b"1"), ("a.jpg", b"2"), ("c.jpg", b"3" * 600)]))
    os.truncate(tar, 5 * 512 + 100)
    with pytest.raises(BadImage) as caught:
        read_entry(str(tar), "c.jpg", no_check, InputItem(str(tar), "c.jpg"))
    assert (caught.value.reason, caught.value.message) == ("truncated", "the tar ends within it: 100 of its 600 bytes are there")
    with pytest.raises(BadImage) as caught:
        read_entry(str(tar), "d.jpg", no_check, InputItem(str(tar), "d.jpg"))
    assert (caught.value.reason, caught.value.message) == ("missing", "the tar has no such entry (any more)")
    tar_of(tar, "../x.jpg")
    with pytest.raises(BadImage) as caught:
        read_entry(str(tar), "x.jpg", no_check, InputItem(str(tar), "x.jpg"))
    assert caught.value.reason == "missing"  # that name is not safe


def test_the_size_is_asked_for_before_the_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg")
    monkeypatch.setattr(LocalStorage, "read_range", lambda *arguments: pytest.fail("it was read"))

    def check(size: int) -> None:
        raise BadImage("too_large", str(size))

    with pytest.raises(BadImage, match="5"):
        read_entry(tar, "a.jpg", check, InputItem(tar, "a.jpg"))


@needs_scale
def test_an_object_that_was_cut_is_noticed_without_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    tar = "memory://cut/a.tar"
    STORES.put(tar, pack([("a.jpg", b"12345")]))
    item = InputItem(tar, "a.jpg")
    questions: list[str] = []
    real = ObjectStorage.stat
    monkeypatch.setattr(ObjectStorage, "stat", lambda self, name: (questions.append(name), real(self, name))[1])
    assert read_entry(tar, "a.jpg", no_check, item)[0] == b"12345"
    questions.clear()
    assert read_entry(tar, "a.jpg", no_check, item)[0] == b"12345" and questions == [tar]
    monkeypatch.setattr(ObjectStorage, "read_range", lambda *arguments: b"1234")
    with pytest.raises(ChangedError, match="the tar changed while it was read"):
        read_entry(tar, "a.jpg", no_check, item)


def test_a_tar_is_read_again_where_it_is_another(tmp_path: Path, sizes: list[int]) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg")
    assert list(index_of(tar).entries) == list(index_of(tar, Stat(10_240, 7)).entries) == ["a.jpg"] and len(sizes) == 1
    tar_of(tmp_path / "a.tar", "b.jpg")
    os.utime(tar, ns=(5, 8))
    assert list(index_of(tar).entries) == ["b.jpg"] and len(sizes) == 2


def test_a_tar_that_changes_while_its_headers_are_read_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg")

    def read(file: Any, size: int) -> Index:
        os.utime(tar, ns=(5, 9))
        return read_index(file, size)

    monkeypatch.setattr(tar_entries, "read_index", read)
    with pytest.raises(ChangedError) as caught:
        index_of(tar)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, tar)
    assert caught.value.strerror == "the tar changed while its headers were read"
    assert tar_entries._indexes == {}


def test_the_indexes_that_were_used_last_are_kept_up_to_a_number_of_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(tar_entries, "ENTRIES_KEPT", 4)
    tars = [tar_of(tmp_path / f"{number}.tar", "a.jpg", "b.jpg") for number in range(3)]
    large = tar_of(tmp_path / "large.tar", *(f"{number}.jpg" for number in range(6)))

    def known() -> list[str]:
        return [os.path.basename(name) for name, _ in tar_entries._indexes]

    index_of(tars[0])
    index_of(tars[1])
    assert known() == ["0.tar", "1.tar"]  # four entries, and no more
    index_of(tars[0])
    assert known() == ["1.tar", "0.tar"]
    index_of(tars[2])
    assert known() == ["0.tar", "2.tar"]
    index_of(large)
    assert known() == ["large.tar"]
    index_of(large)
    assert len(sizes) == 4
    index_of(tars[1])
    assert known() == ["1.tar"] and len(sizes) == 5


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", "a.jpg")
    before = len(os.listdir("/proc/self/fd"))
    read_entry(tar, "a.jpg", no_check, InputItem(tar, "a.jpg"))
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    assert index_of(str(tmp_path / "b.tar")).damage is not None
    assert len(os.listdir("/proc/self/fd")) == before
