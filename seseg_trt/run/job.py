"""One input on its way through a run, and what became of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import BadImage, ReasonCode
from ..inputs.item import InputItem
from ..lanes.base import Frame
from ..options import OutputKind
from ..outputs.base import OutputInfo
from ..storage.base import Stat

In = TypeVar("In")
Out = TypeVar("Out")

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """An input to do. ``number`` is its place in what is left of the plan."""

    number: int
    item: InputItem


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a task.

    Attributes:
        number: of the task.
        reason, message: why the input is quarantined; None and empty where it is done.
        stat: of what was read, where something was.
        decoded_by: the library that decoded it.
        outputs: what was written.
        measured: figures of the mask, if they were asked for.
        pixels: of the image.
    """

    number: int
    reason: ReasonCode | None = None
    message: str = ""
    stat: Stat | None = None
    decoded_by: str | None = None
    outputs: dict[OutputKind, OutputInfo] = dataclasses.field(default_factory=dict)
    measured: dict[str, Any] | None = None
    pixels: int = 0


@dataclasses.dataclass(slots=True)
class Job:
    """A task with what the last stage made of it.

    Attributes:
        task: what is to do.
        outcome: what is known so far.
        data, frame, encoded: the bytes read, the image, the bytes to write; each is given up when the next is there.
        held: bytes in flight that are reserved for it.
        bad: why there is no more to be made of it.
        written: all its outputs have their names.
    """

    task: Task
    outcome: Outcome
    data: bytes = b""
    frame: Frame | None = None
    encoded: Mapping[OutputKind, bytes] = dataclasses.field(default_factory=dict)
    held: int = 0
    bad: BadImage | None = None
    written: bool = False

    def fail(self, bad: BadImage) -> None:
        """Say why there is no more to be made of it. The error's frames go: they would keep the file and the image in memory."""
        chain: list[BaseException | None] = [bad]
        while chain:
            if (error := chain.pop()) is not None and error.__traceback__ is not None:
                error.__traceback__ = None
                chain += [error.__cause__, error.__context__]
        self.bad = bad


def each(work: Callable[[Sequence[In]], Sequence[Out | BadImage]], items: list[In], reason: ReasonCode) -> Sequence[Out | BadImage]:
    """Work on a batch; where the batch as a whole fails, on each item by itself, so that only the guilty one is lost."""
    try:
        return work(items)
    except Exception as error:
        if len(items) > 1:
            return [each(work, [item], reason)[0] for item in items]
        log.exception("an image failed in an unforeseen way")
        return [BadImage(reason, f"an unforeseen failure: {sentence(error)}")]


def sentence(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def frame_of(job: Job) -> Frame:
    """Return the frame of a job that has been decoded."""
    assert job.frame is not None
    return job.frame
