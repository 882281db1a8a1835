"""What several journals hold together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import UsageError
from seseg_trt.journal.journal import WORKERS, Journal
from seseg_trt.journal.merge import Merged, find_journal, merge_journals
from seseg_trt.journal.row import Row
from seseg_trt.storage.locks import sole_owner


def write(state: Path, rows: Sequence[tuple[str, Any, Any]]) -> Path:
    """Write a journal of inputs (path, state, reason); return its folder."""
    with contextlib.closing(Journal(state / "journal.sqlite")) as journal:
        journal.put(Row(path.encode(), b"/in/", 1, 1, "o", "a", {}, kind, reason) for path, kind, reason in rows)
    return state


def merged(*states: Path) -> Merged:
    return merge_journals(states)


def test_an_input_in_several_journals_counts_once_by_the_best_that_became_of_it(tmp_path: Path) -> None:
    order: list[Any] = ["done", "skipped", "quarantined", "pending"]
    names = [f"{one}{other}" for one in range(4) for other in range(4)]
    first = write(tmp_path / "1", [(name, order[int(name[0])], "empty") for name in names])
    second = write(tmp_path / "2", [(name, order[int(name[1])], "empty") for name in reversed(names)])
    found = merged(first, second)
    assert (found.journals, found.inputs, found.done, found.skipped, found.quarantined, found.left) == (2, 16, 7, 5, 3, 1)
    assert found.reasons == {"empty": 3}


def test_journals_with_inputs_of_their_own_are_added_up(tmp_path: Path) -> None:
    first = write(tmp_path / "1", [("a", "done", None), ("c", "quarantined", "truncated"), ("e", "quarantined", "empty")])
    second = write(tmp_path / "2", [("b", "done", None), ("d", "quarantined", "truncated"), ("f", "pending", None)])
    found = merged(first, second)
    assert (found.inputs, found.done, found.quarantined, found.left) == (6, 2, 3, 1)
    assert list(found.reasons.items()) == [("truncated", 2), ("empty", 1)]
    third = write(tmp_path / "3", [])
    assert merged(third).as_dict() | {"journals": 0} == dict.fromkeys(found.as_dict(), 0) | {"reasons": {}, "workers": []}


def test_only_the_reasons_of_quarantined_inputs_are_counted(tmp_path: Path) -> None:
    rows = [("a", "done", "of an earlier try"), ("b", "quarantined", None), ("c", "pending", "empty"), ("d", "quarantined", "empty")]
    found = merged(write(tmp_path / "1", rows))
    assert found.reasons == {"empty": 1} and found.quarantined == 2


def test_a_journal_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "out" / ".seseg", [("a", "done", None)])
    (tmp_path / "link").symlink_to("out")
    found = merged(tmp_path / "out", tmp_path / "out" / ".seseg", tmp_path / "link")
    assert (found.journals, found.inputs) == (1, 1)


def test_a_journal_is_found_by_its_output_or_by_its_state(tmp_path: Path) -> None:
    inner = write(tmp_path / "out" / ".seseg", []) / "journal.sqlite"
    beside = write(tmp_path / "m.tar.seseg", []) / "journal.sqlite"
    assert find_journal(tmp_path / "out") == find_journal(tmp_path / "out" / ".seseg") == inner
    assert find_journal(tmp_path / "m.tar") == find_journal(tmp_path / "m.tar.seseg") == beside
    write(tmp_path / "out", [])
    assert find_journal(tmp_path / "out") == inner  # the outputs' own


def test_a_folder_without_a_journal_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(UsageError) as caught:
        merged(tmp_path)
    assert str(caught.value) == f"there is no journal in {tmp_path}\n  name an output folder, or what --state named"


WORKER = {"pid": 7, "device": "cpu", "done": 3, "memory": (5 << 20) + 1, "stage": "decoding", "in_hand": "a\n.jpg", "seconds": 2.06}
IDLE = WORKER | {"pid": 8, "in_hand": None}


def test_what_workers_do_is_told_while_their_run_is_at_work(tmp_path: Path) -> None:
    state = write(tmp_path / "1", [("a", "pending", None)])
    other = write(tmp_path / "2", [("b", "pending", None)])
    (state / WORKERS).write_text(json.dumps([WORKER, IDLE]))
    (other / WORKERS).write_text(json.dumps([IDLE]))
    assert (merged(state).running, merged(state).workers) == (0, [])  # of a run that was killed
    with sole_owner(state):
        found = merged(state, other)
        assert (found.running, found.workers) == (1, [WORKER, IDLE])
        assert found.lines() == [
            "2 inputs = 0 done + 0 skipped + 0 quarantined + 2 left",
            "1 run is at work",
            "  worker 7 on cpu: 3 images, 5 MiB; decoding 'a\\n.jpg' for 2.1 s",
            "  worker 8 on cpu: 3 images, 5 MiB",
        ]
        with sole_owner(other):
            assert merged(state, other).workers == [WORKER, IDLE, IDLE]
            assert merged(state, other).lines()[1] == "2 runs are at work"


@pytest.mark.parametrize("content", [None, b"", b"[{", b"\xff\xfe"])
def test_workers_that_have_not_said_anything_are_left_out(tmp_path: Path, content: bytes | None) -> None:
    state = write(tmp_path / "1", [("a", "done", None)])
    if content is not None:
        (state / WORKERS).write_bytes(content)
    other = write(tmp_path / "2", [])
    (other / WORKERS).write_text(json.dumps([WORKER]))
    with sole_owner(state), sole_owner(other):
        found = merged(state, other)
        assert (found.running, found.workers, found.done) == (2, [WORKER], 1)


def test_counts_for_people_name_the_reasons_and_what_is_left() -> None:
    done = Merged(1, 7, 4, 1, 2, 0, {"truncated": 12, "empty": 1}, 0, [])
    assert done.lines() == ["7 inputs = 4 done + 1 skipped + 2 quarantined", "        12 truncated", "         1 empty"]
    left = dataclasses.replace(done, left=1, reasons={})
    assert left.lines() == [
        "7 inputs = 4 done + 1 skipped + 2 quarantined + 1 left",
        "nobody is at work: the command that was run goes on where it stopped",
    ]
    at_work = dataclasses.replace(left, running=1)
    assert at_work.lines()[1:] == ["1 run is at work"]
    assert list(done.as_dict()) == ["journals", "inputs", "done", "skipped", "quarantined", "left", "reasons", "running", "workers"]


def test_counts_cannot_be_changed_and_no_journal_stays_open(tmp_path: Path) -> None:
    states = [write(tmp_path / str(number), [("a", "done", None)]) for number in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    found = merge_journals(states)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.done = 2  # type: ignore[misc]
