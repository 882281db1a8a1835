from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from seseg_trt.errors import DeviceError, StoppedError
from seseg_trt.run import ledger as module
from seseg_trt.run.job import Outcome, Task
from seseg_trt.storage.base import Stat

from .ledgers import Begun

Begin = Callable[..., Begun]


def test_tasks_are_handed_out_in_order_until_there_are_no_more(begin: Begin) -> None:
    begun = begin(5)
    assert len(begun.ledger) == 5
    assert begun.ledger.take(2) == [Task(0, begun.items[0]), Task(1, begun.items[1])]
    assert len(begun.ledger) == 3
    assert begun.take(0) == []
    assert begun.take(9) == [2, 3, 4]
    assert len(begun.ledger) == 0 and begun.take(1) == []


def test_what_is_given_back_is_handed_out_first_in_the_order_of_its_return(begin: Begin) -> None:
    begun = begin(6)
    assert begun.take(4) == [0, 1, 2, 3]
    begun.ledger.give_back([3, 0, 2])
    assert len(begun.ledger) == 5
    assert begun.take(2) == [3, 0]
    assert begun.take(2) == [2, 4]
    assert begun.take(2) == [5]


def test_what_nobody_has_is_not_taken_back(begin: Begin) -> None:
    begun = begin(4)
    begun.take(2)
    begun.ledger.settle([Outcome(0)])
    begun.ledger.give_back([0, 3, 99, 1])
    begun.ledger.give_back([1])
    assert len(begun.ledger) == 3
    assert begun.take(9) == [1, 2, 3]


def test_a_task_is_told_by_its_number(begin: Begin) -> None:
    begun = begin(3)
    assert begun.ledger.task(2) == Task(2, begun.items[2])
    assert [begun.ledger.source(number) for number in (-1, 0, 2, 3)] == [None, begun.items[0].source, begun.items[2].source, None]


def test_what_is_done_is_committed_with_all_that_is_known_of_it(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begin(2, None, {"0_nse.png": ("old", 1)})
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 1234.5))
    begun.take(2)
    begun.ledger.settle(
        [
            Outcome(
                0, stat=Stat(10, 20), decoded_by="pillow", outputs={"se": ("aa", 5), "mask": ("bb", 6)}, measured={"share": 0.5}, pixels=70
            )
        ]
    )
    row = begun.row(0)
    assert (row.state, row.reason, row.message) == ("done", None, None)
    assert (row.size, row.mtime_ns, row.decoded_by, row.attempt, row.finished) == (10, 20, "pillow", 1, 1234.5)
    assert row.outputs == {"0_nse.png": ("old", 1), "0_se.png": ("aa", 5), "0_pred.png": ("bb", 6)}
    assert row.measured == {"share": 0.5}
    assert begun.committed == [row]
    assert (begun.ledger.tally.done, begun.ledger.tally.pixels, begun.ledger.tally.settled) == (1, 70, 1)
    assert begun.row(1).state == "pending" and begun.row(1).attempt == 0


def test_what_is_quarantined_is_committed_without_outputs(begin: Begin) -> None:
    begun = begin(1, None, {"0_nse.png": ("old", 1)})
    begun.take(1)
    before = time.time()
    begun.ledger.settle([Outcome(0, "empty", "the file has 0 bytes", outputs={"se": ("aa", 5)}, measured={"share": 1.0}, pixels=3)])
    row = begun.row(0)
    assert (row.state, row.reason, row.message, row.measured) == ("quarantined", "empty", "the file has 0 bytes", None)
    assert (row.size, row.mtime_ns, row.decoded_by, row.attempt) == (None, None, None, 1)
    assert row.finished is not None and before <= row.finished <= time.time()
    assert row.outputs == {"0_nse.png": ("old", 1), "0_se.png": None, "0_pred.png": None}
    assert (begun.ledger.tally.quarantined, begun.ledger.tally.pixels) == (1, 0)


def test_a_further_attempt_counts_on_and_forgets_the_reason(begin: Begin) -> None:
    begun = begin(1)
    for attempt, reason in ((1, "changed"), (2, None)):
        begun.take(1)
        begun.ledger.settle([Outcome(0, reason)])  # type: ignore[arg-type]
        assert begun.row(0).attempt == attempt and begun.row(0).reason == reason
        begun.ledger._returned.append(0)
    assert begun.row(0).message is None and begun.row(0).state == "done"


def test_rows_are_told_of_in_their_order_and_only_when_they_are_committed(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begin(3)
    begun.take(3)
    monkeypatch.setattr(begun.journal, "put", lambda rows: [*rows] and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begun.ledger.settle([Outcome(0)])
    assert begun.committed == [] and begun.ledger.tally.settled == 0
    monkeypatch.undo()
    begun.ledger.settle([Outcome(2), Outcome(1)])
    assert [row.path for row in begun.committed] == [b"2.png", b"1.png"]


def test_fewer_failures_than_are_allowed_stop_nothing(begin: Begin) -> None:
    begun = begin(5, 2)
    begun.take(2)
    begun.ledger.settle([Outcome(0, "empty"), Outcome(1)])
    assert begun.ledger.stopped is None and len(begun.ledger) == 3


def test_as_many_failures_as_are_allowed_stop_nothing_and_one_more_does(begin: Begin) -> None:
    begun = begin(5, 1)
    begun.take(3)
    begun.ledger.settle([Outcome(0, "empty"), Outcome(1)])
    assert begun.ledger.stopped is None and len(begun.ledger) == 2
    begun.ledger.settle([Outcome(2, "empty")])
    assert isinstance(begun.ledger.stopped, StoppedError)
    assert begun.ledger.stopped.message == "2 inputs failed, more than --max-failures allows (1)"
    assert begun.ledger.stopped.hint == "quarantine.jsonl has the reasons; the same command goes on"
    assert len(begun.ledger) == 0 and begun.take(1) == []


def test_no_failure_is_allowed_where_none_is(begin: Begin) -> None:
    begun = begin(3, 0)
    begun.take(2)
    begun.ledger.settle([Outcome(0)])
    assert begun.ledger.stopped is None
    begun.ledger.settle([Outcome(1, "empty")])
    assert begun.ledger.stopped is not None


def test_any_number_may_fail_where_nothing_else_is_said(begin: Begin) -> None:
    begun = begin(4)
    begun.take(4)
    begun.ledger.settle([Outcome(number, "empty") for number in range(4)])
    assert begun.ledger.stopped is None and begun.ledger.tally.quarantined == 4


def test_the_first_reason_to_stop_stays(begin: Begin) -> None:
    begun = begin(2)
    first, second = StoppedError("the disk is full"), DeviceError("the GPU is gone")
    begun.ledger.stop(first)
    begun.ledger.stop(second)
    assert begun.ledger.stopped is first


def test_what_is_handed_out_may_be_settled_after_the_stop(begin: Begin) -> None:
    begun = begin(2)
    begun.take(1)
    begun.ledger.stop(StoppedError("enough"))
    begun.ledger.settle([Outcome(0)])
    assert begun.row(0).state == "done" and begun.row(1).state == "pending"


def test_a_task_whose_worker_died_loses_its_outputs_and_is_quarantined(begin: Begin) -> None:
    begun = begin(2)
    begun.take(2)
    for name in ("0_se.png", "0_pred.png", "1_se.png"):
        begun.outputs.write(name, b"x")
    begun.ledger.fail(0, "crashed", "its worker process died of it again")
    assert [begun.outputs.size(name) for name in ("0_se.png", "0_pred.png", "1_se.png")] == [None, None, 1]
    row = begun.row(0)
    assert (row.state, row.reason, row.message) == ("quarantined", "crashed", "its worker process died of it again")
    assert begun.ledger.tally.quarantined == 1 and begun.row(1).state == "pending"


def test_each_task_is_handed_out_once_to_several_threads(begin: Begin) -> None:
    begun = begin(200)
    taken: list[int] = []

    def work() -> None:
        while some := begun.take(3):
            taken.extend(some)
            begun.ledger.settle([Outcome(number) for number in some])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(taken) == list(range(200)) and len(begun.committed) == 200
