"""Reading local files: what changes under the reader is never taken for whole."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seseg_trt.errors import BadImage
from seseg_trt.inputs.item import InputItem
from seseg_trt.inputs.read import read_source, stat_source
from seseg_trt.storage import local
from seseg_trt.storage.base import ChangedError, Stat
from seseg_trt.storage.local import LocalStorage
from seseg_trt.storage.select import storage_of

DISK = LocalStorage()


def any_size(size: int) -> None:
    pass


def meddle(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> list[int]:
    """Let something happen around each read of a file; return the list that the sizes asked for go into."""
    asked: list[int] = []

    class Meddled(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            asked.append(size)
            before()
            data = super().read(size)
            after()
            return data

    monkeypatch.setattr(local, "_opened", lambda name: Meddled(name, "rb"))
    return asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(range(200)))
    os.utime(path, ns=(5, 1_000_000_007))
    return path


def test_bytes_come_with_the_size_and_the_mtime_that_they_belong_to(file: Path) -> None:
    assert DISK.read(str(file), any_size) == (bytes(range(200)), Stat(200, 1_000_000_007))
    assert DISK.stat(str(file)) == Stat(200, 1_000_000_007) == stat_source(InputItem(str(file.parent), "a.jpg"))
    assert storage_of(str(file)).remote is False


def test_a_size_that_is_refused_is_refused_before_a_byte_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = meddle(monkeypatch)
    item = InputItem(str(file.parent), "a.jpg")
    with pytest.raises(BadImage) as caught:
        read_source(item, 199)
    assert caught.value.reason == "too_large" and "200 bytes" in str(caught.value)
    file.write_bytes(b"")
    with pytest.raises(BadImage) as caught:
        read_source(item, 199)
    assert caught.value.reason == "empty" and asked == []
    file.write_bytes(b"x" * 199)
    assert read_source(item, 199)[0] == b"x" * 199 and asked


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[Path], None]] = {
    "grows": grow,
    "shrinks": lambda path: os.truncate(path, 100),
    "is emptied": lambda path: os.truncate(path, 0),
    "gets other bytes": lambda path: path.write_bytes(b"y" * 200),
    "gets another mtime": lambda path: os.utime(path, ns=(5, 1_000_000_008)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_changes_while_it_is_read_is_noticed(file: Path, monkeypatch: pytest.MonkeyPatch, change: str, when: str) -> None:
    meddle(monkeypatch, **{when: lambda: CHANGES[change](file)})  # type: ignore[arg-type]
    with pytest.raises(ChangedError):
        DISK.read(str(file), any_size)
    file.write_bytes(bytes(200))
    with pytest.raises(BadImage) as caught:
        read_source(InputItem(str(file.parent), "a.jpg"), 1000)
    assert caught.value.reason == "changed"


def test_a_read_that_gives_less_than_was_asked_for_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            return super().read(min(size, 7))

    monkeypatch.setattr(local, "_opened", lambda name: Slow(name, "rb"))
    assert DISK.read(str(file), any_size)[0] == bytes(range(200))


@pytest.mark.parametrize("written", [None, b"", b"data"])
def test_a_pipe_in_the_files_place_does_not_block(tmp_path: Path, written: bytes | None) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    writer = None if written is None else os.open(tmp_path / "a.jpg", os.O_RDWR)
    if writer is not None and written:
        os.write(writer, written)
    found: list[object] = []

    def read() -> None:
        for work in (lambda: DISK.read(str(tmp_path / "a.jpg"), any_size), lambda: read_source(InputItem(str(tmp_path), "a.jpg"), 1000)):
            try:
                found.append(work())
            except (BadImage, OSError) as error:
                found.append(type(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if writer is not None:
        os.close(writer)
    whole, refused = found
    assert refused is BadImage and (whole is ChangedError if written else whole[0] == b"")  # type: ignore[index]


def test_a_range_ends_where_the_file_does(file: Path) -> None:
    assert DISK.read_range(str(file), 10, 3) == bytes([10, 11, 12])
    assert DISK.read_range(str(file), 198, 50) == bytes([198, 199])
    assert DISK.read_range(str(file), 200, 50) == DISK.read_range(str(file), 999, 1) == DISK.read_range(str(file), 0, 0) == b""
    with DISK.open(str(file)) as opened:
        opened.seek(100)
        assert opened.read(2) == bytes([100, 101])


def test_names_of_a_folder_that_is_not_there_are_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DISK.names(str(file.parent)) == ["a.jpg"] and DISK.names(str(file.parent / "nowhere" / "deep")) == []
    monkeypatch.chdir(file.parent)
    assert DISK.names("") == ["a.jpg"]
    with pytest.raises(NotADirectoryError):
        DISK.names(str(file))


def test_is_file_follows_links_and_nothing_else_is_a_file(file: Path) -> None:
    (file.parent / "link").symlink_to("a.jpg")
    (file.parent / "gone").symlink_to("nowhere")
    os.mkfifo(file.parent / "pipe")
    kinds = {name: DISK.is_file(str(file.parent / name)) for name in ("a.jpg", "link", "gone", "pipe", ".", "nowhere")}
    assert kinds == {"a.jpg": True, "link": True, "gone": False, "pipe": False, ".": False, "nowhere": False}


def test_a_file_is_written_whole(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), DISK.write(str(file), file.parent / "scratch", durable=True) as out:
        out.write(b"half")
        raise ZeroDivisionError
    assert len(file.read_bytes()) == 200
    with DISK.write(str(file), file.parent / "scratch") as out:
        out.write(b"new")
    assert file.read_bytes() == b"new" and os.listdir(file.parent) == ["a.jpg"]


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    for work in (DISK.stat, lambda name: DISK.read(name, any_size), lambda name: DISK.read_range(name, 0, 1)):
        with pytest.raises(OSError) as caught:
            work(str(tmp_path / "nowhere"))  # type: ignore[operator]
        assert caught.value.errno == errno.ENOENT
