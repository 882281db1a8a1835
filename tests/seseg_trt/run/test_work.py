from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from seseg_trt.errors import DeviceError, StoppedError
from seseg_trt.inputs.item import InputItem
from seseg_trt.run import work as module
from seseg_trt.run.job import Job, Outcome, Task
from seseg_trt.run.pipeline import HungError
from seseg_trt.run.work import LocalWork

from .ledgers import Begun

Begin = Callable[..., Begun]


def test_all_tasks_come_and_64_of_them_at_once(begin: Begin) -> None:
    begun = begin(130)
    tasks = iter(LocalWork(begun.ledger, None))
    assert next(tasks).number == 0 and len(begun.ledger) == 130 - 64
    assert [task.number for task in tasks] == list(range(1, 130))


@pytest.mark.parametrize("error", [None, StoppedError("the disk is full")])
def test_no_task_comes_after_a_stop(begin: Begin, error: StoppedError | None) -> None:
    begun = begin(5)
    work = LocalWork(begun.ledger, None)
    tasks = iter(work)
    assert next(tasks).number == 0
    work.stop(error)
    assert list(tasks) == [] and list(work) == []
    assert begun.ledger.stopped is error
    assert begun.take(1) == []  # all had been handed out


def test_a_stop_before_the_first_task_takes_none(begin: Begin) -> None:
    begun = begin(5)
    work = LocalWork(begun.ledger, None)
    work.stop(None)
    assert list(work) == [] and len(begun.ledger) == 5 and begun.ledger.stopped is None


def test_no_task_comes_when_the_ledger_is_stopped(begin: Begin) -> None:
    begun = begin(5)
    tasks = iter(LocalWork(begun.ledger, None))
    next(tasks)
    begun.ledger.stop(DeviceError("the GPU is gone"))
    assert list(tasks) == []


def test_outcomes_are_committed_when_there_are_256(begin: Begin) -> None:
    begun = begin(300)
    work = LocalWork(begun.ledger, None)
    numbers = [task.number for task in work]
    for number in numbers[:255]:
        work.add(Outcome(number))
    assert begun.committed == []
    work.add(Outcome(numbers[255]))
    assert len(begun.committed) == 256
    work.add(Outcome(numbers[256]))
    assert len(begun.committed) == 256
    work.look(last=True)
    assert len(begun.committed) == 257


def test_outcomes_are_committed_every_half_second(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    begun = begin(5)
    work = LocalWork(begun.ledger, None)
    assert len(list(work)) == 5
    seen: list[int] = []
    for moment in (100.25, 100.5, 100.75, 101.25, 101.5):
        now = moment
        work.add(Outcome(len(seen)))
        work.look()
        seen.append(len(begun.committed))
    assert seen == [0, 0, 3, 3, 5]


def test_to_look_without_outcomes_begins_the_half_second_anew(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    begun = begin(1)
    work = LocalWork(begun.ledger, None)
    assert len(list(work)) == 1
    now = 200.0
    work.look()
    work.add(Outcome(0))
    now = 200.5
    work.look()
    assert begun.committed == []
    work.look(last=True)
    assert len(begun.committed) == 1
    work.look(last=True)
    assert len(begun.committed) == 1


def test_a_stage_over_its_limit_stops_the_run_and_names_the_image(begin: Begin) -> None:
    begun = begin(2)
    jobs = [Job(Task(number, InputItem("/in", f"{number}.png")), Outcome(number)) for number in range(3)]
    LocalWork(begun.ledger, 2.50).hung(HungError([(jobs[1:], "decode"), (jobs[:1], "encode")]))
    error = begun.ledger.stopped
    assert isinstance(error, StoppedError)
    assert error.message == "/in/1.png took longer than the limit of 2.5 seconds to decode (timeout)"
    assert error.hint == "processes=1 runs in a worker process, which can be ended: the image is then quarantined and the run goes on"
