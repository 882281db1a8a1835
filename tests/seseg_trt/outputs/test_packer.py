"""When the tars of a run are written."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import UsageError
from seseg_trt.inputs.item import InputItem
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.row import Row
from seseg_trt.outputs import packer as module
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.packer import Packer, check_target
from seseg_trt.outputs.tar import TarOutputs
from seseg_trt.storage.base import Stat
from tests.runs import needs_scale
from tests.seseg_trt.inputs.tars import ARCHIVE, pack

TIME = 1_000_000_000


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as opened:
        yield opened


class Recorded(TarOutputs):
    """Outputs that only note which tars are written, with which inputs, and whether the staging was cleared."""

    def __init__(self, target: Path, journal: Journal) -> None:
        super().__init__(str(target), journal.path.parent, durable=False, journal=journal)
        self.made: list[tuple[int, list[bytes]]] = []
        self.cleared = 0

    def pack(self, number: int, rows: Iterable[Row]) -> None:
        self.made.append((number, [row.path for row in rows]))

    def clear(self) -> None:
        self.cleared += 1

    @property
    def numbers_made(self) -> list[int]:
        return [number for number, _ in self.made]


def put(journal: Journal, top: Path, **states: Any) -> list[InputItem]:
    """Record inputs by their names; return them."""
    journal.put(Row(name.encode(), f"{top}/{name}".encode(), 1, 1, "o", "a", {}, state) for name, state in states.items())
    return [InputItem(str(top), name) for name in states]


def begun(tmp_path: Path, journal: Journal, entries: int | None, name: str = "m-%d.tar", **states: Any) -> tuple[Packer, Recorded]:
    outputs = Recorded(tmp_path / name, journal)
    packer = Packer(outputs, journal, entries)
    packer.check(None)
    packer.begin(put(journal, tmp_path, **states))
    return packer, outputs


def test_a_tar_needs_something_to_pack() -> None:
    for target in ("m.tar", "m-%d.tar"):
        with pytest.raises(UsageError) as caught:
            check_target(target, [], None)
        assert str(caught.value) == (
            f"there is nothing to pack into {target}: no outputs were asked for\n  name a folder: the run's state will lie in it"
        )
        check_target(target, iter(["se"]), None)
    check_target("out", [], None)


def test_a_number_of_entries_is_for_a_row_of_tars() -> None:
    check_target("m-%d.tar", ["se"], 5)
    for target in ("m.tar", "out", "out-%d"):
        with pytest.raises(UsageError) as caught:
            check_target(target, ["se"], 5)
        assert str(caught.value) == (
            f"{target} is not a row of tars, so --tar-entries means nothing\n  name a pattern with a number, such as masks-%06d.tar"
        )


def test_nothing_is_done_where_outputs_go_into_a_folder(tmp_path: Path, journal: Journal) -> None:
    packer = Packer(OutputFolder(tmp_path / "out"), journal, None)
    packer.check(None)
    packer.begin([InputItem("/in", "a.png")])
    with packer.at_work():
        assert not [thread for thread in threading.enumerate() if thread.name == "seseg-pack"]
    assert packer.finish(whole=True) == 0 and packer.finish(whole=False) == 0
    assert journal.get_meta("tars") is None and journal.placed() == 0


@pytest.mark.parametrize(("name", "chosen", "entries"), [("m.tar", None, None), ("m-%d.tar", None, 10_000), ("m-%d.tar", 7, 7)])
def test_the_journal_knows_how_many_inputs_each_tar_has(
    tmp_path: Path, journal: Journal, name: str, chosen: int | None, entries: int | None
) -> None:
    begun(tmp_path, journal, chosen, name)
    assert json.loads(journal.get_meta("tars") or "") == {"name": name, "entries": entries, "ignored": {}}


def test_tars_go_on_with_the_number_that_they_were_begun_with(tmp_path: Path, journal: Journal) -> None:
    begun(tmp_path, journal, 2)
    for entries in (None, 2):
        packer, _ = begun(tmp_path, journal, entries, a="done", b="done", c="done")
        assert packer._count() == 2
    for entries in (1, 3):
        with pytest.raises(UsageError) as caught:
            begun(tmp_path, journal, entries)
        assert str(caught.value) == (
            f"{tmp_path}/m-%d.tar was begun with 2 inputs for each tar\n  leave --tar-entries as it was, or choose another name"
        )
    packer, _ = begun(tmp_path, journal, 3, "n-%d.tar")  # another name
    assert json.loads(journal.get_meta("tars") or "")["entries"] == 3


def test_a_folder_in_the_tars_place_is_refused(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "m.tar").mkdir()
    with pytest.raises(UsageError) as caught:
        begun(tmp_path, journal, None, "m.tar")
    assert str(caught.value) == (
        f"{tmp_path}/m.tar is a folder, and a tar of that name was asked for\n  choose another name for the output"
    )


def test_foreign_tars_are_refused_kept_or_replaced_as_was_said(tmp_path: Path, journal: Journal) -> None:
    for number in (1, 3):
        (tmp_path / f"m-{number}.tar").write_bytes(ARCHIVE)
        os.utime(tmp_path / f"m-{number}.tar", ns=(TIME, TIME))
    outputs = Recorded(tmp_path / "m-%d.tar", journal)
    with pytest.raises(UsageError) as caught:
        Packer(outputs, journal, None).check(None)
    assert caught.value.message == f"{tmp_path}/m-1.tar is there already, and no journal knows it"
    assert caught.value.hint == "choose another output, or --overwrite skip (keep what it holds) or --overwrite redo (replace it)"
    Packer(outputs, journal, None).check("skip")
    assert outputs.ignored == {} and journal.packed("0.png") is not None and journal.tar_stat(3) == Stat(len(ARCHIVE), TIME)
    outputs = Recorded(tmp_path / "n-%d.tar", journal)
    Packer(outputs, journal, None).check("redo")
    assert outputs.ignored == {} and journal.packed("0.png") is None
    outputs = Recorded(tmp_path / "m-%d.tar", journal)
    packer = Packer(outputs, journal, None)
    packer.check("redo")
    stat = Stat(len(ARCHIVE), TIME)
    assert outputs.ignored == {1: stat, 3: stat} and journal.packed("0.png") is None and journal.tar_stat(1) is None
    packer.begin([])
    again = Recorded(tmp_path / "m-%d.tar", journal)
    Packer(again, journal, None).check(None)
    assert again.ignored == {1: stat, 3: stat} and all(isinstance(found, Stat) for found in again.ignored.values())


def test_a_tar_that_would_lose_something_is_not_kept(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "m-1.tar").write_bytes(ARCHIVE[:1000])
    with pytest.raises(UsageError, match="can't be kept"):
        Packer(Recorded(tmp_path / "m-%d.tar", journal), journal, None).check("skip")


def test_a_tar_is_written_when_its_inputs_are_settled(tmp_path: Path, journal: Journal) -> None:
    states = {"e": "done", "d": "quarantined", "c": "done", "b": "pending", "a": "done"}
    packer, outputs = begun(tmp_path, journal, 2, **states)
    assert packer.finish(whole=False) == 1
    assert outputs.made == [(0, [b"e", b"d"]), (2, [b"a"])] and outputs.cleared == 0
    put(journal, tmp_path, b="done")
    assert packer.finish(whole=False) == 0
    assert outputs.made[2:] == [(0, [b"e", b"d"]), (1, [b"c", b"b"]), (2, [b"a"])] and outputs.cleared == 1


def test_one_tar_waits_for_every_input(tmp_path: Path, journal: Journal) -> None:
    packer, outputs = begun(tmp_path, journal, None, "m.tar", a="done", b="pending", c="pending")
    assert packer.finish(whole=False) == 1 and outputs.made == []
    put(journal, tmp_path, b="done", c="done")
    assert packer.finish(whole=False) == 0 and outputs.made == [(0, [b"a", b"b", b"c"])]


def test_one_tar_takes_any_number_of_inputs(tmp_path: Path, journal: Journal) -> None:
    states = {f"{number:03d}": "done" for number in range(150)}
    packer, outputs = begun(tmp_path, journal, None, "m.tar", **states)
    assert packer.finish(whole=True) == 0 and [len(paths) for _, paths in outputs.made] == [150]


def test_without_inputs_a_row_has_no_tars_and_a_tar_is_empty(tmp_path: Path, journal: Journal) -> None:
    for name, made in (("m.tar", [(0, [])]), ("m-%d.tar", [])):
        packer, outputs = begun(tmp_path, journal, None, name)
        assert packer.finish(whole=True) == 0 and outputs.made == made and outputs.cleared == 1


def test_an_input_that_is_gone_is_not_waited_for_by_a_run_that_did_all_of_its_plan(tmp_path: Path, journal: Journal) -> None:
    packer, outputs = begun(tmp_path, journal, 1, gone="pending", there="pending")
    (tmp_path / "there").write_bytes(b"x")
    assert packer.finish(whole=False) == 2 and outputs.made == []
    assert packer.finish(whole=True) == 1 and outputs.numbers_made == [0] and outputs.cleared == 0
    (tmp_path / "there").unlink()
    assert packer.finish(whole=True) == 0 and outputs.numbers_made == [0, 0, 1] and outputs.cleared == 1


def test_every_input_of_a_tar_must_be_gone(tmp_path: Path, journal: Journal) -> None:
    packer, outputs = begun(tmp_path, journal, 3, gone="pending", there="pending", also="pending")
    (tmp_path / "there").write_bytes(b"x")
    assert packer.finish(whole=True) == 1 and outputs.made == []


def row_at(source: str, path: str) -> Row:
    return Row(path.encode(), source.encode(), 1, 1, "o", "a", {}, "pending")


def test_only_what_is_certainly_not_there_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert module._is_gone(row_at(f"{tmp_path}/a.png", "a.png")) is True
    assert module._is_gone(row_at(f"{tmp_path}/file/a.png", "a.png")) is True  # a file in the folder's place
    assert module._is_gone(row_at(f"{tmp_path}/file", "file")) is False
    (tmp_path / "m.tar").write_bytes(pack([("b.png", b"x")]))
    assert module._is_gone(row_at(f"{tmp_path}/m.tar/a.png", "a.png")) is True
    assert module._is_gone(row_at(f"{tmp_path}/m.tar/b.png", "b.png")) is False

    def refuse(item: InputItem) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "stat_source", refuse)
    assert module._is_gone(row_at(f"{tmp_path}/a.png", "a.png")) is False


@needs_scale
def test_what_a_store_does_not_show_is_not_taken_for_gone() -> None:
    assert module._is_gone(row_at("memory://nowhere/a.png", "a.png")) is False


# The thread that packs while the run goes on.


class Looks(threading.Event):
    """An event that is set when some looks have been taken; it notes how long was to be waited before each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        self.left -= 1
        return self.left < 0 or self.is_set()


def test_it_looks_once_a_second(tmp_path: Path, journal: Journal) -> None:
    packer, _ = begun(tmp_path, journal, 1, a="pending")
    packer._ended = looks = Looks(2)
    packer._look()
    assert looks.waited == [1.0, 1.0, 1.0]


def test_it_packs_in_their_order_what_is_ready_and_stops_at_what_is_not(tmp_path: Path, journal: Journal) -> None:
    packer, outputs = begun(tmp_path, journal, 1, a="done", b="done", c="pending", d="done")
    packer._ended = Looks(2)
    packer._look()
    assert outputs.made == [(0, [b"a"]), (1, [b"b"])]
    put(journal, tmp_path, c="done")
    packer._ended = Looks(1)
    packer._look()
    assert outputs.numbers_made == [0, 1, 2, 3]
    assert packer.finish(whole=True) == 0 and outputs.numbers_made == [0, 1, 2, 3] and outputs.cleared == 1


def test_it_packs_hundreds_of_tars_and_no_more_than_there_are(tmp_path: Path, journal: Journal) -> None:
    packer, outputs = begun(tmp_path, journal, 1, **{f"{number:03d}": "done" for number in range(300)})
    packer._ended = Looks(1)
    packer._look()
    assert outputs.numbers_made == list(range(300))


def test_it_packs_nothing_more_when_the_run_has_ended(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    packer, outputs = begun(tmp_path, journal, 1, a="done", b="done")
    packer._ended = Looks(1)
    real = packer._pack

    def pack_and_end(number: int) -> None:
        real(number)
        packer._ended.set()

    monkeypatch.setattr(packer, "_pack", pack_and_end)
    packer._look()
    assert outputs.numbers_made == [0]


def test_a_failure_is_logged_and_left_to_the_end(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    packer, _ = begun(tmp_path, journal, 1, a="done", b="done")
    tried: list[int] = []

    def fail(number: int) -> None:
        tried.append(number)
        raise RuntimeError("no room")

    monkeypatch.setattr(packer, "_pack", fail)
    packer._ended = Looks(5)
    with caplog.at_level(logging.ERROR):
        packer._look()
    assert tried == [0] and "packing failed; it is tried again when the run ends" in caplog.text and "no room" in caplog.text
    with pytest.raises(RuntimeError, match="no room"):
        packer.finish(whole=True)
    assert tried == [0, 0]


def test_the_thread_ends_with_the_run_also_after_an_error_and_keeps_no_process_alive(tmp_path: Path, journal: Journal) -> None:
    for broken in (False, True):
        packer, _ = begun(tmp_path, journal, 1, a="pending")
        with contextlib.suppress(KeyboardInterrupt), packer.at_work():
            (thread,) = [thread for thread in threading.enumerate() if thread.name == "seseg-pack"]
            assert thread.daemon
            if broken:
                raise KeyboardInterrupt
        assert not thread.is_alive()


def test_one_tar_needs_no_thread(tmp_path: Path, journal: Journal) -> None:
    packer, _ = begun(tmp_path, journal, None, "m.tar", a="done")
    with packer.at_work():
        assert not [thread for thread in threading.enumerate() if thread.name == "seseg-pack"]
