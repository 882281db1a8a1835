from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from seseg_trt.errors import BadImage, StoppedError
from seseg_trt.run.output import OutputFolder
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
    folder.close()
    assert tree(folder.root) == {"sub/deep/a_se.png": b"other"}
    assert not (folder.root / ".seseg").exists()


def test_what_a_dead_process_left_is_cleared_and_a_living_ones_is_not(folder: OutputFolder) -> None:
    dead = folder.root / ".seseg" / "tmp" / "999999-dead"
    dead.mkdir()
    (dead / "0").write_bytes(b"half")
    (living,) = (p for p in dead.parent.iterdir() if p != dead)
    other = OutputFolder(folder.root)
    other.prepare()
    assert not dead.exists() and living.exists()
    other.write("b.png", b"b")
    other.close()
    folder.write("a.png", b"a")
    folder.close()
    assert tree(folder.root) == {"a.png": b"a", "b.png": b"b"}


@pytest.mark.parametrize("name", ["x" * 300, "file/a.png", "folder"])
def test_a_name_that_cannot_be_a_file_costs_one_image(folder: OutputFolder, name: str) -> None:
    folder.write("file", b"x")
    (folder.root / "folder").mkdir()
    with pytest.raises(BadImage) as caught:
        folder.write(name, b"data")
    assert caught.value.reason == "encode_error"
    folder.write("a.png", b"fine")
    folder.close()
    assert set(tree(folder.root)) == {"file", "a.png"}


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "Input/output")])
def test_a_disk_that_refuses_stops_the_run(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def replace(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoppedError, match=words):
        folder.write("a.png", b"data")
    monkeypatch.undo()
    folder.close()
    assert tree(folder.root) == {}


def test_an_output_folder_that_disappears_stops_the_run_and_is_not_made_again(folder: OutputFolder) -> None:
    folder.write("a.png", b"data")
    shutil.rmtree(folder.root)
    with pytest.raises(StoppedError, match="No such file"):
        folder.write("sub/b.png", b"data")
    assert not folder.root.exists()
    folder.close()


def test_a_subfolder_that_disappears_is_made_again(folder: OutputFolder) -> None:
    folder.write("sub/a.png", b"data")
    shutil.rmtree(folder.root / "sub")
    folder.write("sub/b.png", b"data")
    assert tree(folder.root) == {"sub/b.png": b"data"}
    folder.close()


def test_a_folder_that_cannot_be_made_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoppedError, match="can't be written"):
        OutputFolder(tmp_path / "file" / "out").prepare()


def test_durable_outputs_are_flushed_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("name"), replace(a, b))[1])
    folder = OutputFolder(tmp_path / "out", durable=True)
    folder.prepare()
    folder.write("a.png", b"data")
    folder.close()
    assert calls == ["sync", "name", "sync"]


def test_what_a_killed_run_left_is_swept_when_nothing_is_left_to_write(tmp_path: Path) -> None:
    leftover = tmp_path / ".seseg" / "tmp" / "1-dead"
    leftover.mkdir(parents=True)
    (leftover / "0").write_bytes(b"half")
    OutputFolder(tmp_path).sweep()
    assert not (tmp_path / ".seseg").exists()
