from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seseg_trt import FakeBackend
from seseg_trt.errors import BadImage, DeviceError, SesegError, StoppedError
from seseg_trt.inputs import read
from seseg_trt.inputs.item import InputItem
from seseg_trt.lanes.base import Frame
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import LaneOptions, MaskOptions, StreamOptions
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.naming import Naming
from seseg_trt.run import stream as module
from seseg_trt.run.job import Job, Outcome, Task
from seseg_trt.run.pipeline import HungError
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


class Keeping(ListedWork):
    """Work that keeps all that it is told, in order, and what the stream does may be made to fail."""

    def __init__(self, items: list[InputItem]) -> None:
        super().__init__(items)
        self.told: list[Any] = []
        self.fault: BaseException | None = None

    def add(self, outcome: Outcome) -> None:
        super().add(outcome)
        if self.fault is not None:
            raise self.fault

    def look(self, *, last: bool = False) -> None:
        if last:
            self.told.append("last look")

    def hung(self, error: HungError) -> None:
        self.told.append([[job.task.number for job in jobs] for jobs, _ in error.batches])

    def stop(self, error: SesegError | None) -> None:
        self.told.append(error)


class Place:
    """Three pictures, a lane whose steps may be replaced, and a stream over them whose stages may be called one by one."""

    def __init__(self, folder: Path, *names: str, kinds: tuple[Any, ...] = ("se", "mask"), batch: int = 1, **options: Any) -> None:
        self.folder = folder
        for number in range(3):
            (folder / f"{number}.png").write_bytes(picture(number))
        self.items = [InputItem(str(folder), name) for name in names or ("0.png", "1.png", "2.png")]
        self.work = Keeping(self.items)
        self.outputs = OutputFolder(folder / "out")
        self.outputs.prepare()
        self.lane = CPULane(FakeBackend(16), LaneOptions(MaskOptions(kinds, threshold=50)))
        self.lane.batch_size = batch
        self.stream = Stream(self.lane, self.outputs, Naming(kinds), StreamOptions(**{"workers": 1, **options}), self.work)

    def jobs(self, *steps: str) -> list[Job]:
        """Return a job for each picture, which have been through some stages."""
        made = [Job(Task(number, item), Outcome(number)) for number, item in enumerate(self.items)]
        for step in steps:
            getattr(self.stream, f"_{step}")(made)
        return made

    def run(self) -> list[Outcome]:
        """Run the stream; return the outcomes in the order of the pictures."""
        self.stream.run()
        return sorted(self.work.outcomes, key=lambda outcome: outcome.number)

    def written(self) -> list[str]:
        """Return the names of all outputs."""
        return sorted(path.name for path in (self.folder / "out").iterdir())


def failing_for(number: int, real: Callable[..., Any], error: Exception) -> Callable[[Any], Any]:
    """Return a step of a lane that fails for batches with one of the pictures."""

    def step(batch: list[Frame]) -> Any:
        if any(frame.identity == b"%d.png" % number for frame in batch):
            raise error
        return real(batch)

    return step


def test_all_that_is_known_of_a_picture_is_answered(tmp_path: Path) -> None:
    place = Place(tmp_path)
    outcomes = place.run()
    assert [outcome.number for outcome in outcomes] == [0, 1, 2]
    for number, outcome in enumerate(outcomes):
        status = (tmp_path / f"{number}.png").stat()
        assert (outcome.reason, outcome.message, outcome.decoded_by) == (None, "", "pillow")
        assert outcome.stat == (status.st_size, status.st_mtime_ns)
        assert outcome.pixels == 24 * 18 and outcome.measured is None
        assert {kind: size for kind, (_, size) in outcome.outputs.items()} == {
            "se": (tmp_path / "out" / f"{number}_se.png").stat().st_size,
            "mask": (tmp_path / "out" / f"{number}_pred.png").stat().st_size,
        }
    assert place.work.told == ["last look"]


def test_each_stage_has_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    def threads(workers: int, readers: int) -> dict[str, int]:
        place = Place(tmp_path, workers=workers, readers=readers)
        return {report.name: report.workers for report in place.stream.reports}

    assert threads(2, 5) == {"read": 5, "decode": 2, "infer": 1, "composite": 2, "encode": 2, "write": 5}
    assert threads(3, 1) == {"read": 1, "decode": 3, "infer": 1, "composite": 3, "encode": 3, "write": 3}


def test_what_can_not_be_read_is_answered_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "large.png").write_bytes(bytes(2000))
    place = Place(tmp_path, "gone.png", "empty.png", "large.png", "folder", "0.png", max_file_bytes=1999)
    (tmp_path / "folder").mkdir()
    gone, empty, large, folder, good = place.run()
    assert (gone.reason, gone.stat) == ("missing", None)
    assert (empty.reason, empty.stat and empty.stat.size) == ("empty", 0)
    assert (large.reason, large.stat and large.stat.size) == ("too_large", 2000)
    assert folder.reason == "not_a_file" and folder.pixels == 0
    assert good.reason is None
    assert place.stream._budget._used == 0 and place.written() == ["0_pred.png", "0_se.png"]


def test_a_file_of_just_the_size_that_is_allowed_is_read(tmp_path: Path) -> None:
    size = len(picture(0))
    assert Place(tmp_path, "0.png", max_file_bytes=size).run()[0].reason is None
    assert Place(tmp_path, "0.png", max_file_bytes=size - 1).run()[0].reason == "too_large"


def test_a_file_that_is_gone_when_its_reason_is_told_has_no_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(item: InputItem, *arguments: Any) -> Any:
        Path(item.source).unlink()
        raise BadImage("changed", "it changed while it was read")

    monkeypatch.setattr(module, "read_source", refuse)
    outcomes = Place(tmp_path).run()
    assert [(outcome.reason, outcome.message, outcome.stat) for outcome in outcomes] == [
        ("changed", "it changed while it was read", None)
    ] * 3


def test_what_nobody_foresaw_in_reading_costs_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.read_source

    def fail(item: InputItem, *arguments: Any) -> Any:
        if item.path == "1.png":
            raise ValueError("odd\nvery odd")
        return real(item, *arguments)

    monkeypatch.setattr(module, "read_source", fail)
    outcomes = Place(tmp_path).run()
    assert [outcome.reason for outcome in outcomes] == [None, "unreadable", None]
    assert outcomes[1].message == "an unforeseen failure: ValueError: odd" and "reading failed" in caplog.text


def test_a_job_holds_its_file_and_20_bytes_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, "0.png")
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(place.stream._budget, "take", lambda *amounts: asked.append(amounts))
    monkeypatch.setattr(place.stream._budget, "grow", lambda *amounts: asked.append(amounts))
    (job,) = place.jobs("read")
    size = len(picture(0))
    assert asked == [(size,), (size, size + 20 * 24 * 18)]
    assert job.held == size + 20 * 24 * 18 and job.data == picture(0)


def test_reading_tells_how_long_it_waited_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0, 30.0, 38.0, 40.0, 56.0, 60.0, 92.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    batch = [Job(Task(number, item), Outcome(number)) for number, item in enumerate(place.items)]
    assert place.stream._read(batch) == 1 + 2 + 4 + 8 + 16 + 32


def test_a_damaged_picture_fails_alone_and_the_files_are_given_up(tmp_path: Path) -> None:
    place = Place(tmp_path, "0.png", "bad.png", "2.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    batch = place.jobs("read", "decode")
    assert [job.bad and job.bad.reason for job in batch] == [None, "not_an_image", None]
    assert [job.data for job in batch] == [b""] * 3
    assert [job.outcome.decoded_by for job in batch] == ["pillow", None, "pillow"]
    assert [job.frame is not None for job in batch] == [True, False, True]


def test_a_decoder_that_fails_on_a_batch_costs_the_guilty_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    monkeypatch.setattr(place.lane, "decode", failing_for(1, place.lane.decode, ValueError("odd")))
    batch = place.jobs("read", "decode")
    assert [job.bad and (job.bad.reason, job.bad.message) for job in batch] == [
        None,
        ("decode_error", "an unforeseen failure: ValueError: odd"),
        None,
    ]


def test_a_network_that_fails_on_a_batch_costs_the_guilty_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    batch = place.jobs("read", "decode")
    monkeypatch.setattr(place.lane, "infer", failing_for(1, place.lane.infer, ValueError("odd")))
    place.stream._infer(batch)
    assert [job.bad and (job.bad.reason, job.bad.message) for job in batch] == [
        None,
        ("engine_error", "the network failed on it: ValueError: odd"),
        None,
    ]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == ["inference failed"]
    assert all(job.frame is not None and job.frame.confidence is not None for job in (batch[0], batch[2]))
    assert place.work.told == []


@pytest.mark.parametrize("error", [ValueError("odd"), DeviceError("the GPU is gone")])
def test_a_network_that_fails_three_times_in_a_row_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    place = Place(tmp_path)
    real = place.lane.infer
    batch = place.jobs("read", "decode")
    for fails in (True, True, False, True, True):
        monkeypatch.setattr(place.lane, "infer", failing_for(0, real, error) if fails else lambda frames: None)
        place.stream._infer(batch[:1])
    assert place.work.told == []
    place.stream._infer(batch[:1])
    (told,) = place.work.told
    if isinstance(error, SesegError):
        assert told is error
    else:
        assert type(told) is DeviceError
        assert told.message == "the network failed 3 times in a row: ValueError: odd"
        assert told.hint == "the log in the state folder has more"
    place.stream._infer(batch[:1])
    assert len(place.work.told) == 2


def test_a_composition_or_an_encoding_that_fails_costs_the_guilty_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    monkeypatch.setattr(place.lane, "composite", failing_for(2, place.lane.composite, ValueError("odd")))
    batch = place.jobs("read", "decode", "infer", "composite")
    failed = ("encode_error", "an unforeseen failure: ValueError: odd")
    assert [job.bad and (job.bad.reason, job.bad.message) for job in batch] == [None, None, failed]
    monkeypatch.setattr(place.lane, "encode", failing_for(0, place.lane.encode, ValueError("odd")))
    place.stream._encode(batch[:2])
    assert [job.bad and (job.bad.reason, job.bad.message) for job in batch] == [failed, None, failed]
    assert [sorted(job.encoded) for job in batch] == [[], ["mask", "se"], []]


def test_an_encoder_that_refuses_a_picture_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    refused = BadImage("encode_error", "too wide")
    monkeypatch.setattr(place.lane, "encode", lambda batch: [refused if frame.identity == b"1.png" else {"se": b"x"} for frame in batch])
    outcomes = place.run()
    assert [(outcome.reason, outcome.message) for outcome in outcomes] == [(None, ""), ("encode_error", "too wide"), (None, "")]
    assert place.written() == ["0_se.png", "2_se.png"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BadImage("encode_error", "that name is refused"), "that name is refused"),
        (ValueError("odd"), "an unforeseen failure: ValueError: odd"),
    ],
)
def test_a_picture_whose_second_output_is_refused_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    place = Place(tmp_path)
    real = place.outputs.write
    begun: list[str] = []

    def write(name: str, data: bytes) -> Any:
        if name.startswith("1_"):
            begun.append(name)
            if len(begun) == 2:
                raise error
        return real(name, data)

    monkeypatch.setattr(place.outputs, "write", write)
    outcomes = place.run()
    assert [outcome.reason for outcome in outcomes] == [None, "encode_error", None]
    assert outcomes[1].message == message and outcomes[1].outputs == {} and outcomes[1].pixels == 0
    assert outcomes[1].decoded_by == "pillow" and outcomes[1].stat is not None
    assert place.written() == ["0_pred.png", "0_se.png", "2_pred.png", "2_se.png"]


def test_a_spoilt_picture_loses_what_an_earlier_run_made_of_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for name in ("1_se.png", "1_pred.png", "1_nse.png"):
        place.outputs.write(name, b"old")
    (tmp_path / "1.png").write_bytes(b"no picture")
    assert [outcome.reason for outcome in place.run()] == [None, "not_an_image", None]
    assert place.written() == ["0_pred.png", "0_se.png", "1_nse.png", "2_pred.png", "2_se.png"]


def test_a_disk_that_refuses_stops_the_run_once_and_what_it_refused_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    batch = place.jobs("read", "decode", "infer", "composite", "encode")
    full, calls = StoppedError("the disk is full"), []
    real = place.outputs.write

    def write(name: str, data: bytes) -> Any:
        calls.append(name)
        if name.startswith("1_"):
            raise full
        return real(name, data)

    monkeypatch.setattr(place.outputs, "write", write)
    place.stream._write(batch)
    assert [job.written for job in batch] == [True, False, False] and [job.bad for job in batch] == [None] * 3
    assert place.work.told == [full] and len(calls) == 3
    place.stream._write(batch[2:])
    assert len(calls) == 3 and not batch[2].written


def test_a_disk_that_refuses_everything_answers_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    full = StoppedError("the disk is full")

    def write(name: str, data: bytes) -> Any:
        raise full

    monkeypatch.setattr(place.outputs, "write", write)
    assert place.run() == []
    assert place.work.told == [full, "last look"] and place.stream._budget._used == 0


def test_encoded_bytes_and_frames_are_given_up(tmp_path: Path) -> None:
    place = Place(tmp_path)
    batch = place.jobs("read", "decode", "infer", "composite", "encode", "write")
    assert [dict(job.encoded) for job in batch] == [{}] * 3
    for job in batch:
        place.stream._settle(job)
    assert [job.frame for job in batch] == [None] * 3


def test_what_stops_the_work_stops_the_stream_quietly(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.work.fault = StoppedError("the journal can't be written")
    place.stream.run()
    assert place.work.told == [place.work.fault] and len(place.work.outcomes) == 1


def test_what_nobody_foresaw_in_the_work_is_raised_and_no_more_is_read(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.work.fault = KeyError("odd")
    before = threading.active_count()
    with pytest.raises(KeyError):
        place.stream.run()
    assert place.work.told == [None] and threading.active_count() == before


def test_what_hangs_is_told_after_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, timeout=0.3)
    gate = threading.Event()
    real = place.lane.decode

    def decode(batch: Any) -> Any:
        if batch[0].identity == b"2.png":
            gate.wait(20)
        return real(batch)

    monkeypatch.setattr(place.lane, "decode", decode)
    outcomes = place.run()
    gate.set()
    assert [outcome.number for outcome in outcomes] == [0, 1]
    assert place.work.told == ["last look", [[2]]]


def test_the_task_that_has_been_in_hand_for_longest_is_told_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    assert place.stream.oldest() is None
    seen: list[Any] = []
    real = place.lane.infer

    def infer(batch: Any) -> None:
        if batch[0].identity == b"2.png":
            for _ in range(5000):  # until the others are through, and nothing else is in hand
                if len(place.work.outcomes) == 2:
                    break
                time.sleep(0.001)
            seen.append(place.stream.oldest())
        real(batch)

    monkeypatch.setattr(place.lane, "infer", infer)
    place.run()
    ((number, stage, seconds),) = seen
    assert (number, stage) == (2, "infer") and seconds >= 0


def test_measurements_are_answered_as_the_lane_made_them(tmp_path: Path) -> None:
    place = Place(tmp_path, "0.png")
    place.lane._measure = "stats"
    (outcome,) = place.run()
    assert outcome.measured is not None and outcome.measured["width"] == 24
