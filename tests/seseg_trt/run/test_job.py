from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from seseg_trt.errors import BadImage
from seseg_trt.inputs.item import InputItem
from seseg_trt.lanes.base import Frame
from seseg_trt.run.job import Job, Outcome, Task, each, frame_of, sentence


def job() -> Job:
    return Job(Task(3, InputItem("in", "a.png")), Outcome(3))


def raised(error: BaseException) -> BaseException:
    """Return an error that has been raised and so has a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_task_begins_with_nothing_known_of_it() -> None:
    begun = job()
    assert (begun.data, begun.frame, begun.encoded, begun.held, begun.bad, begun.written) == (b"", None, {}, 0, None, False)
    outcome = begun.outcome
    assert (outcome.number, outcome.reason, outcome.message, outcome.stat, outcome.decoded_by) == (3, None, "", None, None)
    assert (outcome.outputs, outcome.measured, outcome.pixels) == ({}, None, 0)


def test_millions_of_them_take_little_memory() -> None:
    assert not hasattr(job(), "__dict__") and not hasattr(Outcome(0), "__dict__")


def test_a_failure_keeps_no_frames_of_any_error_that_led_to_it() -> None:
    first, second, third, bad = (raised(error) for error in (ValueError(), KeyError(), OSError(), BadImage("empty", "no bytes")))
    bad.__cause__, bad.__context__ = first, second
    second.__context__ = third
    failed = job()
    assert isinstance(bad, BadImage)
    failed.fail(bad)
    assert failed.bad is bad
    assert [error.__traceback__ for error in (first, second, third, bad)] == [None] * 4


def test_errors_that_led_to_each_other_end_the_search() -> None:
    one, other = BadImage("empty", "no bytes"), ValueError()
    raised(one)
    raised(other)
    one.__context__, other.__context__ = other, one
    failed = job()
    failed.fail(one)
    assert one.__traceback__ is None and other.__traceback__ is None


def test_an_error_that_was_never_raised_is_taken_as_well() -> None:
    failed = job()
    failed.fail(bad := BadImage("empty", "no bytes"))
    assert failed.bad is bad


def double(items: Sequence[int]) -> list[int | BadImage]:
    if 13 in items:
        raise ValueError("13 is bad luck\nand this is too long to tell")
    return [2 * item for item in items]


def test_a_batch_is_worked_on_as_a_whole() -> None:
    calls: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int | BadImage]:
        calls.append(list(items))
        return double(items)

    assert each(work, [1, 2, 3], "decode_error") == [2, 4, 6]
    assert calls == [[1, 2, 3]]


@pytest.mark.parametrize("batch", [[13, 2], [1, 13, 3]])
def test_only_the_guilty_one_of_a_batch_is_lost(batch: list[int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        found = each(double, batch, "encode_error")
    assert [one for one in found if not isinstance(one, BadImage)] == [2 * item for item in batch if item != 13]
    bad = found[batch.index(13)]
    assert isinstance(bad, BadImage) and bad.reason == "encode_error"
    assert bad.message == "an unforeseen failure: ValueError: 13 is bad luck"
    assert [record.getMessage() for record in caplog.records] == ["an image failed in an unforeseen way"]
    assert caplog.records[0].exc_info


def test_an_item_alone_is_tried_once() -> None:
    calls: list[int] = []

    def work(items: Sequence[int]) -> list[int | BadImage]:
        calls.append(len(items))
        raise MemoryError

    (bad,) = each(work, [1], "decode_error")
    assert isinstance(bad, BadImage) and bad.message == "an unforeseen failure: MemoryError: no message"
    assert calls == [1]


def test_what_asks_for_the_end_is_no_failure_of_an_image() -> None:
    def work(items: Sequence[int]) -> list[int | BadImage]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each(work, [1, 2], "decode_error")


def test_an_error_is_told_in_one_line() -> None:
    assert sentence(ValueError("first\nsecond")) == "ValueError: first"
    assert sentence(ValueError()) == "ValueError: no message"


def test_the_frame_of_a_job_is_there_once_it_is_decoded() -> None:
    decoded = job()
    with pytest.raises(AssertionError):
        frame_of(decoded)
    decoded.frame = Frame(b"a.png", 1, 1, "pillow", None, None)
    assert frame_of(decoded) is decoded.frame
