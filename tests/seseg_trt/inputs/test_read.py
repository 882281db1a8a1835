"""Reading inputs: their bounds, and what is asked before a byte is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seseg_trt.errors import BadImage
from seseg_trt.inputs.item import InputItem
from seseg_trt.inputs.read import read_source, stat_source
from seseg_trt.storage.base import ChangedError, Stat
from seseg_trt.storage.local import LocalStorage
from tests.runs import needs_scale
from tests.seseg_trt.inputs.tars import pack


@pytest.fixture
def item(tmp_path: Path) -> InputItem:
    (tmp_path / "a.jpg").write_bytes(b"123")
    os.utime(tmp_path / "a.jpg", ns=(5, 7))
    return InputItem(str(tmp_path), "a.jpg")


@pytest.fixture
def entry(tmp_path: Path) -> InputItem:
    (tmp_path / "a.tar").write_bytes(pack([("x.jpg", b"123"), ("empty.jpg", b"")]))
    os.utime(tmp_path / "a.tar", ns=(5, 7))
    return InputItem(f"{tmp_path}/a.tar", "x.jpg")


def test_a_file_and_an_entry_have_their_size_and_a_file_s_time(item: InputItem, entry: InputItem) -> None:
    assert stat_source(item) == stat_source(entry) == Stat(3, 7)
    assert read_source(item, 10) == read_source(entry, 10) == (b"123", Stat(3, 7))


def test_what_a_listing_said_is_not_asked_again() -> None:
    assert stat_source(InputItem("/nowhere", "a.jpg", Stat(8, 9))) == Stat(8, 9)


def test_what_is_not_there_is_the_systems_error(item: InputItem, entry: InputItem) -> None:
    for there in (item, entry):
        with pytest.raises(FileNotFoundError):
            stat_source(there._replace(path="b.jpg"))
    with pytest.raises(FileNotFoundError):
        read_source(item._replace(path="b.jpg"), 10)
    with pytest.raises(BadImage, match="no such entry") as caught:
        read_source(entry._replace(path="b.jpg"), 10)
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("kind", ["item", "entry"])
def test_the_largest_size_is_admitted_and_a_byte_more_is_not(kind: str, request: pytest.FixtureRequest) -> None:
    there = request.getfixturevalue(kind)
    sizes: list[int] = []
    assert read_source(there, 3, sizes.append)[0] == b"123" and sizes == [3]
    with pytest.raises(BadImage) as caught:
        read_source(there, 2, sizes.append)
    assert (caught.value.reason, caught.value.message) == ("too_large", "the file has 3 bytes, and --max-pixels admits none over 2")
    assert sizes == [3]


def test_a_file_of_one_byte_is_not_empty_and_one_of_none_is(item: InputItem, entry: InputItem) -> None:
    Path(item.source).write_bytes(b"1")
    assert read_source(item, 1)[0] == b"1"
    Path(item.source).write_bytes(b"")
    for there in (item, entry._replace(path="empty.jpg")):
        with pytest.raises(BadImage) as caught:
            read_source(there, 10, lambda size: pytest.fail("no room is needed"))
        assert (caught.value.reason, caught.value.message) == ("empty", "the file has 0 bytes")


def test_nothing_is_read_before_there_is_room(item: InputItem, entry: InputItem) -> None:
    class Full(Exception):
        pass

    def admit(size: int) -> None:
        Path(item.source).write_bytes(b"456")
        raise Full

    for there in (item, entry):
        with pytest.raises(Full):
            read_source(there, 10, admit)


def test_a_file_that_changes_is_a_bad_image(item: InputItem, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ChangedError("the file changed while it was read")

    def read(self: object, name: str, check_size: Callable[[int], None], listed: Stat | None = None) -> None:
        raise error

    monkeypatch.setattr(LocalStorage, "read", read)
    with pytest.raises(BadImage) as caught:
        read_source(item, 10)
    assert (caught.value.reason, caught.value.message) == ("changed", "the file changed while it was read")
    assert caught.value.__cause__ is error


def test_another_error_of_the_system_stays_one(item: InputItem, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: object, name: str, check_size: Callable[[int], None], listed: Stat | None = None) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStorage, "read", read)
    with pytest.raises(PermissionError):
        read_source(item, 10)


@needs_scale
def test_an_object_is_read_as_it_was_listed() -> None:
    from seseg_trt.storage.objects import STORES

    STORES.put("memory://read-photos/in/a.jpg", b"123")
    there = InputItem("memory://read-photos/in", "a.jpg")
    stat = stat_source(there)
    assert stat.size == 3 and read_source(there, 10) == (b"123", stat)
    assert read_source(there._replace(listed=Stat(3, 1)), 10) == (b"123", Stat(3, 1))
    for size in (2, 4):
        with pytest.raises(BadImage) as caught:
            read_source(there._replace(listed=Stat(size, 1)), 10)
        assert caught.value.reason == "changed"
