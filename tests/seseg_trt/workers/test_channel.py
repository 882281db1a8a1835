"""What a worker says is checked word by word."""

from __future__ import annotations

import json
import random
import socket
import threading
from typing import Any

import pytest

from seseg_trt import DeviceError, StoppedError
from seseg_trt.inputs.item import InputItem
from seseg_trt.run.job import Outcome, Task
from seseg_trt.run.pipeline import StageReport
from seseg_trt.storage.base import Stat
from seseg_trt.workers import channel
from seseg_trt.workers.channel import (
    Channel,
    ProtocolError,
    error_from_json,
    error_to_json,
    outcome_from_json,
    outcome_to_json,
    reports_from_json,
    reports_to_json,
    task_from_json,
    task_to_json,
)

DONE = Outcome(3, None, "", Stat(10, 5), "pillow", {"se": ("a" * 64, 7), "mask": ("0" * 64, 0)}, {"share": 0.5, "bbox": [1, 2, 3, 4]}, 99)
BAD = Outcome(4, "truncated", "it ends too early: \udcff\n\x1b[0m", None)


def through_json(found: object) -> Any:
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("outcome", [DONE, BAD])
def test_an_outcome_comes_through(outcome: Outcome) -> None:
    assert outcome_from_json(through_json(outcome_to_json(outcome))) == outcome


@pytest.mark.parametrize(
    "item", [InputItem("/in", "a\udcff\n.png"), InputItem("s3://b/in", "a", Stat(1, 2)), InputItem("/x.tar", "a", Stat(1, 2), 512)]
)
def test_a_task_comes_through(item: InputItem) -> None:
    assert task_from_json(through_json(task_to_json(Task(7, item)))) == Task(7, item)


def test_reports_and_errors_come_through() -> None:
    reports = [StageReport("read", 1, 2, 0.5, 0.25, 0.125, 3)]
    assert reports_from_json(through_json(reports_to_json(reports))) == reports
    for error in (DeviceError("no GPU", "take another"), StoppedError("the disk is full")):
        found = error_from_json(through_json(error_to_json(error)))
        assert (type(found), found.message, found.hint) == (type(error), error.message, error.hint)


@pytest.mark.parametrize(
    "change",
    [
        {"number": -1},
        {"number": True},
        {"number": "3"},
        {"number": 1 << 70},
        {"reason": "done"},
        {"reason": []},
        {"message": 3},
        {"message": "x" * 5000},
        {"stat": [1]},
        {"stat": [-1, 0]},
        {"stat": "ab"},
        {"decoded_by": {}},
        {"outputs": {"../../etc/passwd": ["a" * 64, 1]}},
        {"outputs": {"se": ["../x", 1]}},
        {"outputs": {"se": ["a" * 64, -1]}},
        {"outputs": {"se": None}},
        {"outputs": []},
        {"measured": {"share": "high"}},
        {"measured": {"other": 1}},
        {"measured": {"bbox": [1, "2"]}},
        {"measured": {"width": 1.5}},
        {"pixels": None},
        {"more": 1},
    ],
)
def test_what_a_worker_cannot_have_meant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        outcome_from_json({**through_json(outcome_to_json(DONE)), **change})


@pytest.mark.parametrize(
    "found", [None, [], ["KeyboardInterrupt", "a", "b"], ["BadImage", "a", "b"], ["DeviceError", "a"], ["DeviceError", 1, "b"]]
)
def test_no_error_but_ours_comes_of_a_message(found: Any) -> None:
    with pytest.raises(ProtocolError):
        error_from_json(found)


def test_random_values_in_random_places_are_refused_or_are_outcomes() -> None:
    draw = random.Random(1)
    values: list[Any] = [None, True, -1, 0, 1 << 80, 1.5, float("inf"), "", "x" * 9999, [], [1, 2], {}, {"se": ["a" * 64, 1]}, [[[[]]]]]
    for _ in range(3000):
        found = through_json(outcome_to_json(draw.choice([DONE, BAD])))
        for _ in range(draw.randint(1, 3)):
            found[draw.choice([*found, "odd"])] = draw.choice(values)
        try:
            outcome = outcome_from_json(found)
        except ProtocolError:
            continue
        assert isinstance(outcome.number, int) and outcome.number >= 0 and isinstance(outcome.message, str)


def test_messages_come_in_pieces_and_several_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        here = Channel(ours)
        theirs.sendall(b'["a", 1]\n["b"')
        assert here.receive() == [["a", 1]]
        theirs.sendall(b"]\n")
        assert here.receive() == [["b"]]
        theirs.close()
        with pytest.raises(EOFError):
            here.receive()


@pytest.mark.parametrize("line", [b"{\n", b"\xff\n", b"[" * 200_000 + b"\n"])
def test_what_is_no_json_is_refused(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(line,))
        sender.start()
        with pytest.raises(ProtocolError):
            here = Channel(ours)
            while not here.receive():
                pass
        sender.join()


def test_a_message_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_MESSAGE", 1000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 2000)
        with pytest.raises(ProtocolError, match="too long"):
            here = Channel(ours)
            while not here.receive():
                pass
