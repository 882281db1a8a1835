"""Who is at work in a folder."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from seseg_trt import FakeBackend, Watch, segment_files
from seseg_trt.run.output import OutputFolder
from seseg_trt.run.presence import Presence
from tests.runs import make_inputs


def dead(folder: Path, name: str) -> Path:
    """Return the sign of a process that died: nobody holds its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"{}")
    return folder / name


def test_signs_of_the_dead_are_cleared_and_those_of_the_living_stay(tmp_path: Path) -> None:
    gone = dead(tmp_path, "1-dead")
    with Presence(tmp_path, {}) as one, Presence(tmp_path, {"work": "x"}) as other:
        one.clear_dead()
        assert not gone.exists()
        assert {path.name for path in tmp_path.iterdir()} == {one.name, other.name}
        assert one.others() == {other.name: {"work": "x"}}
        assert not one.is_alive("1-dead") and one.is_alive(other.name) and one.is_alive(one.name)
    assert not list(tmp_path.iterdir())


def test_there_is_nothing_to_clear_in_a_folder_that_has_gone(tmp_path: Path) -> None:
    with Presence(tmp_path / "runs", {}) as presence:
        shutil.rmtree(tmp_path / "runs")
        presence.clear_dead()
    make_inputs(tmp_path / "in", 6)
    watch = Watch(committed=lambda row: shutil.rmtree(tmp_path / "out", ignore_errors=True))
    summary = segment_files([tmp_path / "in"], tmp_path / "out", watch=watch, backend=FakeBackend(16))
    assert summary.exit_code == 5 and str(tmp_path / "out") in str(summary.stopped)


def test_a_sign_that_is_not_locked_yet_goes_while_nobody_can_lock_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its maker could lock it and believe in it, just before it goes."""
    made = dead(tmp_path, "1-made")
    real, locked = os.unlink, []

    def unlink(path: Path) -> None:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(str(path))
        real(path)

    with Presence(tmp_path, {}) as presence:
        monkeypatch.setattr(os, "unlink", unlink)
        assert not presence.is_alive("1-made")
        monkeypatch.undo()
    assert locked == [str(made)] and not made.exists()


def test_an_output_folder_is_cleared_of_who_died_since_it_was_prepared(tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path)
    outputs.prepare()
    dead(tmp_path / ".seseg" / "writers", "1-dead")
    half = tmp_path / ".seseg" / "tmp" / "1-dead" / "0"
    half.parent.mkdir()
    half.write_bytes(b"half an image")
    dead(tmp_path / ".seseg" / "writers", "2-dead")
    outputs.write("a.png", b"x")
    outputs.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["a.png"]
