from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seseg_trt.run import pipeline as module
from seseg_trt.run.pipeline import ByteBudget, HungError, Pipeline, Stage, StageReport


@dataclasses.dataclass
class Job:
    number: int
    seen: list[str] = dataclasses.field(default_factory=list)
    over: bool = False


def jobs(count: int) -> Iterator[Job]:
    return (Job(n) for n in range(count))


def mark(name: str) -> Callable[[list[Job]], None]:
    def work(batch: list[Job]) -> None:
        for job in batch:
            job.seen.append(name)

    return work


def run(source: Iterator[Job], *stages: Stage[Job]) -> tuple[list[Job], Pipeline[Job]]:
    pipeline = Pipeline(source, list(stages), lambda job: job.over)
    return [job for job in pipeline if job is not None], pipeline


def test_every_job_comes_out_once_through_all_stages() -> None:
    done, pipeline = run(
        jobs(500), Stage("a", mark("a"), workers=3), Stage("b", mark("b"), batch=8), Stage("c", mark("c"), workers=2, batch=3)
    )
    assert sorted(job.number for job in done) == list(range(500))
    assert all(job.seen == ["a", "b", "c"] for job in done)
    assert [report.jobs for report in pipeline.reports] == [500, 500, 500]


def test_a_job_that_is_over_skips_the_rest() -> None:
    def judge(batch: list[Job]) -> None:
        for job in batch:
            job.over = job.number % 3 == 0

    done, _ = run(jobs(30), Stage("judge", judge), Stage("b", mark("b")))
    assert all(job.seen == ([] if job.number % 3 == 0 else ["b"]) for job in done) and len(done) == 30


def test_batches_are_never_larger_than_asked() -> None:
    sizes: list[int] = []
    run(jobs(100), Stage("a", lambda batch: sizes.append(len(batch)), batch=7))
    assert sum(sizes) == 100 and max(sizes) <= 7


@pytest.mark.parametrize("where", ["source", "stage"])
def test_what_is_raised_ends_the_pipeline_and_is_raised(where: str) -> None:
    def source() -> Iterator[Job]:
        yield from jobs(1000)
        raise ValueError("source")

    def stage(batch: list[Job]) -> None:
        if batch[0].number == 500:
            raise ValueError("stage")

    before = threading.active_count()
    with pytest.raises(ValueError, match=where):
        run(source() if where == "source" else jobs(1000), Stage("a", mark("a")), Stage("b", stage if where == "stage" else mark("b")))
    assert threading.active_count() == before


def test_one_who_stops_listening_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    pipeline = Pipeline(jobs(100_000), [Stage("a", mark("a"), workers=2), Stage("b", mark("b"))], lambda job: False)
    listening = iter(pipeline)
    next(listening)
    listening.close()
    assert threading.active_count() == before


def test_the_source_is_read_no_further_than_the_queues_allow() -> None:
    read: list[int] = []
    gate = threading.Event()

    def source() -> Iterator[Job]:
        for job in jobs(10_000):
            read.append(job.number)
            yield job

    def hang(batch: list[Job]) -> None:
        gate.wait()

    listening = iter(Pipeline(source(), [Stage[Job]("a", hang, capacity=4)], lambda job: False))
    assert next(listening) is None  # nothing comes
    assert len(read) < 20
    gate.set()
    listening.close()


def test_stages_over_their_limit_end_the_pipeline_and_are_named() -> None:
    release = threading.Event()

    def work(batch: list[Job]) -> None:
        if any(job.number in (3, 20) for job in batch):
            release.wait()

    with pytest.raises(HungError) as caught:
        run(jobs(40), Stage("a", work, workers=2, limit=0.3), Stage("b", mark("b")))
    release.set()
    assert [stage for _, stage in caught.value.batches] == ["a"] * len(caught.value.batches)
    assert {job.number for batch, _ in caught.value.batches for job in batch} <= {3, 20}


def test_the_last_job_may_hang_too_and_what_is_through_comes_out_first() -> None:
    release = threading.Event()

    def work(batch: list[Job]) -> None:
        if batch[0].number == 9:
            release.wait()

    pipeline = Pipeline(jobs(10), [Stage("a", work, limit=0.2)], lambda job: job.over)
    done: list[int] = []
    with pytest.raises(HungError) as caught:
        done.extend(job.number for job in pipeline if job is not None)
    release.set()
    assert done == list(range(9)) and [job.number for job in caught.value.batches[0][0]] == [9]


def test_a_batch_has_its_limit_for_each_of_its_jobs() -> None:
    def work(batch: list[Job]) -> None:
        time.sleep(0.1 * len(batch))

    done, _ = run(jobs(8), Stage("a", work, batch=8, limit=0.4))
    assert len(done) == 8


def test_the_oldest_job_in_hand_is_told() -> None:
    release = threading.Event()
    pipeline = Pipeline(jobs(1), [Stage[Job]("a", lambda batch: release.wait() and None)], lambda job: job.over)
    assert pipeline.oldest() is None
    listening = iter(pipeline)
    assert next(listening) is None
    found = pipeline.oldest()
    assert found is not None and found[0].number == 0 and found[1] == "a" and found[2] > 0
    release.set()
    listening.close()


def test_a_budget_admits_no_more_than_its_bytes_and_one_larger_alone() -> None:
    budget = ByteBudget(10)
    budget.take(6)
    admitted: list[int] = []

    def take(amount: int) -> None:
        budget.take(amount)
        admitted.append(amount)

    large = threading.Thread(target=take, args=(50,))
    large.start()
    while not budget._line.locked():
        time.sleep(0.001)
    small = threading.Thread(target=take, args=(1,))  # it would fit in, but the large one was first
    small.start()
    assert admitted == []
    budget.give(6)
    large.join()
    assert admitted == [50]
    budget.give(50)
    small.join()
    assert admitted == [50, 1]


def test_a_closed_budget_keeps_nobody_waiting() -> None:
    budget = ByteBudget(10)
    budget.take(10)
    waiting = threading.Thread(target=budget.take, args=(5,))
    waiting.start()
    budget.close()
    waiting.join(10)
    assert not waiting.is_alive()


def in_a_thread(work: Callable[[], None]) -> threading.Thread:
    """Run ``work`` in a thread that dies with the test."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_jobs_that_grow_wait_for_room_and_never_for_each_other() -> None:
    budget, grown = ByteBudget(10), []
    budget.take(5)
    budget.take(5)

    def grow(held: int, amount: int) -> None:
        budget.grow(held, amount)
        grown.append(amount)

    first = in_a_thread(lambda: grow(5, 40))
    for _ in range(1000):
        if budget._growing:
            break
        time.sleep(0.001)
    assert grown == []  # the other job may still end and give its bytes back
    second = in_a_thread(lambda: grow(5, 30))  # now both wait, and nobody else holds anything: one of them goes alone
    first.join(10)
    assert grown == [40] and second.is_alive()
    budget.give(40)
    second.join(10)
    assert grown == [40, 30]
    budget.give(30)
    assert budget._used == budget._growing == 0


def test_a_job_that_grows_is_let_in_where_there_is_room() -> None:
    budget = ByteBudget(10)
    budget.take(2)
    budget.take(3)
    budget.grow(2, 7)
    waiting = in_a_thread(lambda: budget.grow(3, 4))
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.give(7)
    waiting.join(10)
    assert not waiting.is_alive() and budget._used == 4


def ends(work: Callable[[], object]) -> bool:
    """Tell whether ``work`` returns, and does not wait for what never comes."""
    thread = in_a_thread(lambda: (work(), None)[1])
    thread.join(5)
    return not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as other threads have made a condition true."""
    for _ in range(5000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it never comes true")


LOOK = 2**-6


class Clock:
    """The pipeline's clocks: one is set by hand, the other advances by a step from a list at each reading, round and round."""

    def __init__(self, *steps: float) -> None:
        self.now = 1000.0
        self._steps = itertools.cycle(steps)
        self._ticks = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        self._ticks += next(self._steps)
        return self._ticks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock set by hand, and a pipeline that looks often."""
    clock = Clock(1.0)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "SECONDS_PER_LOOK", LOOK)
    return clock


class Hanging:
    """A pipeline of one stage that hangs on some jobs until it is let go."""

    def __init__(self, source: Iterator[Job], *hanging: int, **options: Any) -> None:
        self.gate = threading.Event()
        self.seen: list[int] = []
        self.pipeline = Pipeline(source, [Stage("a", self._work, **options)], lambda job: job.over)
        self._hanging = hanging

    def _work(self, batch: list[Job]) -> None:
        self.seen += [job.number for job in batch]
        if any(job.number in self._hanging for job in batch):
            self.gate.wait(20)


def test_the_rate_is_of_all_workers_together_and_none_before_the_first_job() -> None:
    assert StageReport("a", 3, 10, 4.0).rate == 7.5
    assert StageReport("a", 3).rate == 0.0


def test_a_report_begins_with_nothing() -> None:
    report = StageReport("a", 3)
    assert (report.jobs, report.busy, report.starved, report.blocked, report.queue_peak) == (0, 0.0, 0.0, 0.0, 0)


def test_a_stage_has_one_worker_without_a_limit_that_takes_one_job_at_a_time() -> None:
    stage = Stage[Job]("a", mark("a"))
    assert (stage.workers, stage.batch, stage.capacity, stage.limit) == (1, 1, 4, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.workers = 2  # type: ignore[misc]


def test_a_hung_pipeline_names_the_first_stage_that_hangs() -> None:
    error = HungError([([1], "decode"), ([2], "encode")])
    assert str(error) == "decode takes longer than its limit" and error.batches == [([1], "decode"), ([2], "encode")]


def test_signals_are_seen_several_times_a_second_and_a_failure_is_told_soon() -> None:
    assert 0 < module.SECONDS_PER_LOOK <= 0.5 and 0 < module.SECONDS_TO_END <= 1


def test_without_stages_jobs_only_pass() -> None:
    done, pipeline = run(jobs(10))
    assert [job.number for job in done] == list(range(10)) and pipeline.reports == []


def test_without_jobs_a_pipeline_ends() -> None:
    done, pipeline = run(jobs(0), Stage("a", mark("a"), workers=2), Stage("b", mark("b")))
    assert done == [] and [report.jobs for report in pipeline.reports] == [0, 0]


def test_a_job_that_is_over_at_the_source_sees_no_stage() -> None:
    done, _ = run(iter([Job(0, over=True), Job(1)]), Stage("a", mark("a")))
    assert sorted((job.number, *job.seen) for job in done) == [(0,), (1, "a")]


def test_one_worker_keeps_the_order() -> None:
    done, _ = run(jobs(300), Stage("a", mark("a")), Stage("b", mark("b"), batch=5))
    assert [job.number for job in done] == list(range(300))


def test_threads_are_named_and_never_keep_the_process_alive() -> None:
    hanging = Hanging(jobs(1), 0, workers=2)
    before = set(threading.enumerate())
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    own = set(threading.enumerate()) - before
    assert {thread.name for thread in own} >= {"seseg-a"} and all(thread.name in ("seseg-a", "seseg-source") for thread in own)
    assert all(thread.daemon for thread in own)
    hanging.gate.set()
    listening.close()


def test_the_source_is_read_in_a_daemon_thread() -> None:
    seen: list[threading.Thread] = []

    def source() -> Iterator[Job]:
        seen.append(threading.current_thread())
        yield Job(0)

    run(source(), Stage("a", mark("a")))
    assert [(thread.name, thread.daemon) for thread in seen] == [("seseg-source", True)]


def test_nothing_is_lost_to_a_listener_who_is_slow(clock: Clock) -> None:
    pipeline = Pipeline(jobs(400), [Stage("a", mark("a"), workers=2), Stage("b", mark("b"))], lambda job: False)
    numbers: list[int] = []
    for job in pipeline:
        if not numbers:
            time.sleep(5 * LOOK)  # all queues are full meanwhile
        if job is not None:
            numbers.append(job.number)
    assert sorted(numbers) == list(range(400))


def test_a_stage_that_waits_for_jobs_loses_none(clock: Clock) -> None:
    def source() -> Iterator[Job]:
        for job in jobs(3):
            time.sleep(3 * LOOK)
            yield job

    done, pipeline = run(source(), Stage("a", mark("a")))
    assert [job.number for job in done] == [0, 1, 2] and pipeline.reports[0].jobs == 3


def test_a_queue_holds_what_each_worker_may_have_waiting_and_a_batch() -> None:
    read: list[int] = []

    def source() -> Iterator[Job]:
        for job in jobs(100):
            read.append(job.number)
            yield job

    hanging = Hanging(source(), *range(100), workers=2, capacity=3)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    expected = 2 + (2 * 3 + 1) + 1  # in hand, in the queue, and in the reader's
    wait_for(lambda: len(read) >= expected)
    assert next(listening) is None and len(read) == expected
    hanging.gate.set()
    listening.close()


def test_a_stage_never_waits_until_a_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_LOOK", 20.0)
    seen = threading.Event()

    def source() -> Iterator[Job]:
        yield Job(0)
        assert seen.wait(5)
        yield from (Job(1), Job(2))

    def work(batch: list[Job]) -> None:
        seen.set()

    done, _ = run(source(), Stage("a", work, batch=8))
    assert [job.number for job in done] == [0, 1, 2]


def test_a_batch_is_as_large_as_what_waits_allows() -> None:
    sizes: list[int] = []
    queued = threading.Event()

    def source() -> Iterator[Job]:
        yield from jobs(20)
        queued.set()

    def work(batch: list[Job]) -> None:
        assert queued.wait(5)
        sizes.append(len(batch))

    run(source(), Stage("a", work, batch=7, capacity=30))
    assert sum(sizes) == 20 and max(sizes) == 7


def test_what_a_stage_did_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock(1000.0, 1.0, 10.0, 100.0))  # between the rounds; taking, working, handing on
    numbers: Iterator[Job] = jobs(3)
    _, pipeline = run(numbers, Stage("a", lambda batch: 4.0))
    (report,) = pipeline.reports
    rounds = 4  # the last one takes the end
    assert report.jobs == 3
    assert report.starved == 1.0 * rounds
    assert report.busy == 10.0 * rounds - 4.0 * 3
    assert report.blocked == 100.0 * rounds + 4.0 * 3


def test_the_most_jobs_that_waited_are_told() -> None:
    queued, all_done = threading.Event(), threading.Event()

    def source() -> Iterator[Job]:
        yield from jobs(5)
        queued.set()
        assert all_done.wait(5)
        yield Job(5)

    def work(batch: list[Job]) -> None:
        assert queued.wait(5)
        if batch[0].number == 4:
            all_done.set()

    _, pipeline = run(source(), Stage("a", work, capacity=8))
    assert pipeline.reports[0].queue_peak == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_abandoning_the_iterator_ends_an_endless_source_and_every_stage(clock: Clock, workers: int) -> None:
    before = threading.active_count()
    released: list[bool] = []
    source = (Job(number) for number in itertools.count())
    stages = [Stage("a", mark("a"), workers=workers), Stage("b", mark("b"), batch=3, capacity=1)]
    pipeline = Pipeline(source, stages, lambda job: False, lambda: released.append(True))
    listening = iter(pipeline)
    while next(listening) is None:
        pass
    assert not released
    assert ends(listening.close)
    assert released == [True] and threading.active_count() == before


def test_abandoning_the_iterator_lets_go_who_waits_inside_a_stage(clock: Clock) -> None:
    before = threading.active_count()
    gate = threading.Event()
    pipeline = Pipeline(jobs(9), [Stage[Job]("a", lambda batch: gate.wait(20) and None)], lambda job: False, gate.set)
    listening = iter(pipeline)
    assert next(listening) is None
    assert ends(listening.close) and threading.active_count() == before


def test_abandoning_the_iterator_does_not_wait_for_a_stage_that_is_over_its_limit(clock: Clock) -> None:
    hanging = Hanging(jobs(1), 0, limit=4 * LOOK)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    wait_for(lambda: hanging.seen == [0])
    clock.now += 5 * LOOK
    assert ends(listening.close)
    hanging.gate.set()


def test_a_source_that_waits_for_ever_does_not_hold_up_a_failure(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_END", LOOK)
    gate = threading.Event()

    def source() -> Iterator[Job]:
        yield Job(0)
        gate.wait(20)

    def stage(batch: list[Job]) -> None:
        raise ValueError("stage")

    raised: list[str] = []

    def listen() -> None:
        try:
            run(source(), Stage("a", stage))
        except ValueError as error:
            raised.append(str(error))

    assert ends(listen) and raised == ["stage"]
    gate.set()


def test_a_stage_may_take_its_limit_and_no_longer(clock: Clock) -> None:
    hanging = Hanging(jobs(1), 0, limit=4 * LOOK)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    wait_for(lambda: hanging.seen == [0])
    clock.now += 2 * LOOK
    assert next(listening) is None
    clock.now += 2 * LOOK
    assert next(listening) is None
    clock.now += 2 * LOOK
    with pytest.raises(HungError) as caught:
        next(listening)
    hanging.gate.set()
    assert [(job.number, stage) for batch, stage in caught.value.batches for job in batch] == [(0, "a")]


def test_a_stage_without_a_limit_may_take_for_ever(clock: Clock) -> None:
    hanging = Hanging(jobs(1), 0)
    listening = iter(hanging.pipeline)
    for _ in range(4):
        assert next(listening) is None
        clock.now += 4 * LOOK
    hanging.gate.set()
    assert [job.number for job in listening if job is not None] == [0]


@pytest.mark.parametrize(("gap", "hangs"), [(5, True), (6, False), (600, False)])
def test_a_process_that_stood_still_blames_no_stage(clock: Clock, gap: int, hangs: bool) -> None:
    hanging = Hanging(jobs(1), 0, limit=4 * LOOK)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    wait_for(lambda: hanging.seen == [0])
    assert next(listening) is None
    clock.now += gap * LOOK
    if not hangs:
        assert next(listening) is None
        found = hanging.pipeline.oldest()
        assert found is not None and found[2] == 0.0
        clock.now += 4.5 * LOOK
    with pytest.raises(HungError):
        next(listening)
    hanging.gate.set()


def test_time_at_work_before_the_process_stood_still_counts(clock: Clock) -> None:
    hanging = Hanging(jobs(1), 0, limit=100.0)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    wait_for(lambda: hanging.seen == [0])
    clock.now += 3 * LOOK
    assert next(listening) is None
    clock.now += 10 * LOOK
    assert next(listening) is None
    found = hanging.pipeline.oldest()
    assert found is not None and found[2] == 3 * LOOK
    hanging.gate.set()
    listening.close()


def test_a_job_that_is_over_its_limit_and_then_done_comes_out_once(clock: Clock) -> None:
    hanging = Hanging(jobs(3), 1, limit=4 * LOOK, workers=2)
    listening = iter(hanging.pipeline)
    wait_for(lambda: next(listening) is None and hanging.pipeline.reports[0].jobs == 2)
    clock.now += 2 * LOOK
    assert next(listening) is None
    finished = hanging.pipeline._finished
    over = Job(7, over=True)
    finished.put(over)  # another job that is through when the limit is passed
    clock.now += 3 * LOOK
    assert next(listening) is over
    finished.put(Job(8))
    hanging.gate.set()
    wait_for(lambda: finished.qsize() >= 2)
    came: list[int] = []
    with pytest.raises(HungError) as caught:
        came.extend(job.number for job in listening if job is not None)
    assert came == [8, 1]
    assert [job.number for batch, _ in caught.value.batches for job in batch] == [1]


def test_the_first_failure_is_the_one_that_is_raised(clock: Clock) -> None:
    failed = threading.Event()

    def first(batch: list[Job]) -> None:
        try:
            raise ValueError("first")
        finally:
            failed.set()

    def source() -> Iterator[Job]:
        yield Job(0)
        assert failed.wait(5)
        time.sleep(2 * LOOK)
        raise ValueError("second")

    with pytest.raises(ValueError, match="first"):
        run(source(), Stage("a", first))


def test_the_oldest_job_is_of_the_worker_that_has_worked_for_longest(clock: Clock) -> None:
    clock.now = 0.0
    later = threading.Event()

    def source() -> Iterator[Job]:
        yield Job(0)
        assert later.wait(5)
        yield Job(1)

    hanging = Hanging(source(), 0, 1, workers=2)
    listening = iter(hanging.pipeline)
    assert next(listening) is None
    wait_for(lambda: hanging.seen == [0])
    clock.now = LOOK
    later.set()
    wait_for(lambda: hanging.seen == [0, 1])
    clock.now = 2.5
    assert hanging.pipeline.oldest() == (Job(0), "a", 2.5)
    hanging.gate.set()
    assert sorted(job.number for job in listening if job is not None) == [0, 1]
    assert hanging.pipeline.oldest() is None


def test_a_budget_admits_what_just_fits() -> None:
    budget = ByteBudget(10)
    assert ends(lambda: budget.take(6)) and ends(lambda: budget.take(4))
    waiting = in_a_thread(lambda: budget.take(1))
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.give(1)
    waiting.join(5)
    assert not waiting.is_alive() and budget._used == 10


def test_a_job_may_grow_to_what_just_fits_and_shrink() -> None:
    budget = ByteBudget(10)
    budget.take(3)
    budget.take(2)
    assert ends(lambda: budget.grow(2, 7))
    assert budget._used == 10
    waiting = in_a_thread(lambda: budget.grow(3, 4))
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.give(1)
    waiting.join(5)
    assert not waiting.is_alive() and budget._used == 10 and budget._growing == 0
    assert ends(lambda: budget.grow(4, 1)) and budget._used == 7


def test_a_job_that_is_alone_may_grow_over_the_budget() -> None:
    budget = ByteBudget(10)
    budget.take(3)
    assert ends(lambda: budget.grow(3, 100)) and budget._used == 100
    assert ends(lambda: budget.grow(100, 20)) and budget._used == 20


def test_a_closed_budget_lets_jobs_grow() -> None:
    budget = ByteBudget(10)
    budget.take(5)
    budget.take(5)
    waiting = in_a_thread(lambda: budget.grow(5, 50))
    wait_for(lambda: budget._growing == 5)
    assert waiting.is_alive()
    budget.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert ends(lambda: budget.take(1000)) and ends(lambda: budget.grow(5, 1000))
