from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from seseg_trt.errors import BadImage, StoppedError
from seseg_trt.inputs.scan import Scan
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.storage.atomic import temporary_name
from tests.runs import tree


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    made = OutputFolder(tmp_path / "out")
    made.prepare()
    return made


def test_an_output_is_there_whole_with_its_hash_and_nothing_else_stays(folder: OutputFolder) -> None:
    assert folder.write("sub/deep/a_se.png", b"data") == (hashlib.sha256(b"data").hexdigest(), 4)
    folder.write("sub/deep/a_se.png", b"other")
    assert folder.size("sub/deep/a_se.png") == 5 and folder.size("b") is None
    assert tree(folder.root) == {"sub/deep/a_se.png": b"other"}


def test_what_a_killed_writer_left_goes_with_the_next_write_or_the_removal(folder: OutputFolder) -> None:
    for name in ("sub/a.png", "sub/b.png", "sub/c.png"):
        folder.write(name, b"whole")
        Path(temporary_name(folder.root / name)).write_bytes(b"half, and longer than what is written next")
    folder.write("sub/a.png", b"new")
    folder.remove("sub/b.png")
    (folder.root / "sub" / "c.png").unlink()
    folder.remove("sub/c.png")
    folder.remove("nothing/d.png")
    assert tree(folder.root) == {"sub/a.png": b"new"}


def test_what_is_half_written_is_no_output_and_no_input(folder: OutputFolder) -> None:
    Path(temporary_name(folder.root / "a.png")).write_bytes(b"half")
    assert folder.size("a.png") is None
    found = Scan("/nowhere/out", "/nowhere/out/.seseg", None)
    found.add(str(folder.root))
    assert (found.items, found.ignored) == ([], 1)


@pytest.mark.parametrize("name", ["x" * 300, "file/a.png", "folder"])
def test_a_name_that_cannot_be_a_file_costs_one_image(folder: OutputFolder, name: str) -> None:
    folder.write("file", b"x")
    (folder.root / "folder").mkdir()
    with pytest.raises(BadImage) as caught:
        folder.write(name, b"data")
    assert caught.value.reason == "encode_error"
    folder.write("a.png", b"fine")
    assert set(tree(folder.root)) == {"file", "a.png"}


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "Input/output")])
def test_a_disk_that_refuses_stops_the_run(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def replace(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoppedError, match=words):
        folder.write("a.png", b"data")
    monkeypatch.undo()
    assert tree(folder.root) == {}


def test_an_output_folder_that_disappears_stops_the_run_and_is_not_made_again(folder: OutputFolder) -> None:
    folder.write("a.png", b"data")
    shutil.rmtree(folder.root)
    with pytest.raises(StoppedError, match="No such file"):
        folder.write("sub/b.png", b"data")
    assert not folder.root.exists()


def test_a_subfolder_that_disappears_is_made_again(folder: OutputFolder) -> None:
    folder.write("sub/a.png", b"data")
    shutil.rmtree(folder.root / "sub")
    folder.write("sub/b.png", b"data")
    assert tree(folder.root) == {"sub/b.png": b"data"}


def test_a_folder_that_cannot_be_made_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoppedError, match="can't be written"):
        OutputFolder(tmp_path / "file" / "out").prepare()


def test_durable_outputs_are_flushed_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("name"), replace(a, b))[1])
    folder = OutputFolder(root=tmp_path / "out", durable=True)
    folder.prepare()
    folder.write("a.png", b"data")
    assert calls == ["sync", "name", "sync"]


@pytest.mark.parametrize("name", ["2024-01-01 10:00.png", "a\0b.png"])
def test_a_name_that_the_disk_refuses_costs_one_image(folder: OutputFolder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: str, target: str) -> None:
        if ":" in os.path.basename(target):  # as FAT, NTFS and SMB do
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BadImage, match="rename the input") as caught:
        folder.write(name, b"data")
    assert caught.value.reason == "encode_error"
    folder.write("a.png", b"fine")
    assert set(tree(folder.root)) == {"a.png"}


def test_a_folder_that_is_there_is_taken_as_it_is(folder: OutputFolder) -> None:
    (folder.root / "sub").mkdir()
    (folder.root / "sub" / "mine.txt").write_bytes(b"mine")
    folder.prepare()
    folder.write("sub/a.png", b"data")
    assert tree(folder.root) == {"sub/mine.txt": b"mine", "sub/a.png": b"data"}
    assert folder.read("sub/a.png") == b"data"


def test_outputs_are_neither_flushed_nor_locked_where_it_was_not_asked_for(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a call that each output would pay for")

    for module, name in ((os, "fsync"), (os, "fdatasync"), (fcntl, "flock")):
        monkeypatch.setattr(module, name, refuse)
    folder.write("a.png", b"data")
    assert tree(folder.root) == {"a.png": b"data"}


def test_a_folder_is_made_once(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = os.makedirs
    monkeypatch.setattr(os, "makedirs", lambda path, exist_ok: (made.append(path), real(path, exist_ok=exist_ok)))
    for name in ("sub/a.png", "sub/b.png", "c.png"):
        folder.write(name, b"data")
    assert made == [str(folder.root / "sub"), str(folder.root)]


def test_a_name_that_the_locale_lacks_costs_one_image(folder: OutputFolder) -> None:
    with pytest.raises(BadImage) as caught:
        folder.write("a\ud800.png", b"data")
    assert caught.value.reason == "encode_error" and isinstance(caught.value.__cause__, ValueError)
    assert "can't be written under that name: " in caught.value.message


def test_what_is_removed_need_not_be_there(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.remove("nothing.png")

    def interrupt(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", interrupt)
    with pytest.raises(KeyboardInterrupt):
        folder.remove("a.png")


def test_no_descriptor_stays_open(folder: OutputFolder) -> None:
    (folder.root / "sub").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    folder.write("a.png", b"data")
    with pytest.raises(BadImage):
        folder.write("sub", b"data")
    assert len(os.listdir("/proc/self/fd")) == before
