from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend
from seseg_trt.errors import BadImage
from seseg_trt.inputs import read
from seseg_trt.inputs.item import InputItem
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import LaneOptions, StreamOptions
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.naming import Naming
from seseg_trt.run.job import Job, Outcome, Task
from seseg_trt.run.stream import Stream
from seseg_trt.run.work import Work
from tests.runs import picture


class ListedWork(Work):
    """Tasks of a list; the outcomes are kept."""

    def __init__(self, items: list[InputItem]) -> None:
        self.items = items
        self.outcomes: list[Outcome] = []

    def __iter__(self) -> Iterator[Task]:
        return iter([Task(number, item) for number, item in enumerate(self.items)])

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def look(self, *, last: bool = False) -> None:
        pass

    def hung(self, error: Any) -> None:
        raise error

    def stop(self, error: Any) -> None:
        if error is not None:
            raise error


def stream_over(folder: Path, names: list[str], memory: int) -> tuple[Stream, ListedWork]:
    work = ListedWork([InputItem(str(folder), name) for name in names])
    outputs = OutputFolder(folder / "out")
    outputs.prepare()
    options = LaneOptions()
    lane = CPULane(FakeBackend(16), options)
    return Stream(lane, outputs, Naming(), StreamOptions(workers=1, memory=memory), work), work


def test_bytes_are_asked_of_the_budget_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "b.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(5_000))
    stream, work = stream_over(tmp_path, ["a.png", "b.mp4"], 1 << 20)
    events: list[str] = []
    take, disk = stream._budget.take, read.storage_of(str(tmp_path))

    def watched(amount: int) -> None:
        events.append(f"ask {amount}")
        take(amount)

    class Disk:
        def __getattr__(self, name: str) -> Any:
            return getattr(disk, name)

        def read(self, name: str, check_size: Any, listed: Any) -> Any:
            found = disk.read(name, check_size, listed)
            events.append(f"read {len(found[0])}")
            return found

    monkeypatch.setattr(stream._budget, "take", watched)
    monkeypatch.setattr(read, "storage_of", lambda root: Disk())
    stream.run()
    sizes = [(tmp_path / name).stat().st_size for name in ("a.png", "b.mp4")]
    assert events == [f"ask {sizes[0]}", f"read {sizes[0]}", f"ask {sizes[1]}", f"read {sizes[1]}"]
    assert [outcome.reason for outcome in sorted(work.outcomes, key=lambda one: one.number)] == [None, "unsupported"]
    assert stream._budget._used == 0


def test_files_larger_than_the_budget_go_through_one_by_one(tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}.png").write_bytes(picture(index))
    stream, work = stream_over(tmp_path, [f"{index}.png" for index in range(6)], 1)
    stream.run()
    assert [outcome.reason for outcome in work.outcomes] == [None] * 6


def test_a_failure_keeps_no_frames() -> None:
    def fail() -> None:
        data = bytes(1_000)
        try:
            raise ValueError(len(data))
        except ValueError as error:
            raise BadImage("decode_error", "it is damaged") from error

    job = Job(Task(0, InputItem("a", "b")), Outcome(0))
    try:
        fail()
    except BadImage as bad:
        job.fail(bad)
    assert job.bad is not None and job.bad.__traceback__ is None
    assert job.bad.__cause__ is not None and job.bad.__cause__.__traceback__ is None


@pytest.mark.timeout(30)
def test_what_a_stage_raises_ends_the_stream_though_another_waits_for_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        (tmp_path / f"{index}.png").write_bytes(picture(index))
    stream, _ = stream_over(tmp_path, [f"{index}.png" for index in range(6)], 1)

    def fail(path: str) -> None:
        raise ZeroDivisionError(path)

    monkeypatch.setattr(Naming, "names", lambda self, path: fail(path))
    with pytest.raises(ZeroDivisionError):
        stream.run()
