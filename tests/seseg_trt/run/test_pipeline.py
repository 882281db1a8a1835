from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from seseg_trt.run.pipeline import ByteBudget, HungError, Pipeline, Stage


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
