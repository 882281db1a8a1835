"""One input on its way through a run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..errors import BadImage, ReasonCode
from ..lanes.base import Frame
from ..options import OutputKind
from .journal import Row
from .scan import WorkItem

In = TypeVar("In")
Out = TypeVar("Out")

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class Job:
    """An input with its row, and what the last stage made of it. ``bad`` says why there is no more to be made."""

    item: WorkItem
    row: Row
    data: bytes = b""
    held: int = 0
    pixels: int = 0
    frame: Frame | None = None
    encoded: Mapping[OutputKind, bytes] = dataclasses.field(default_factory=dict)
    bad: BadImage | None = None


def copy_job(job: Job) -> Job:
    """Return a job that another thread may work on while the old one still belongs to a thread that hangs."""
    row = dataclasses.replace(job.row, outputs=dict(job.row.outputs))
    frame = None if job.frame is None else dataclasses.replace(job.frame, rendered=dict(job.frame.rendered))
    return dataclasses.replace(job, row=row, frame=frame)


def each(work: Callable[[Sequence[In]], Sequence[Out | BadImage]], items: list[In], reason: ReasonCode) -> Sequence[Out | BadImage]:
    """Work on a batch; where the batch as a whole fails, on each item alone, so that only the guilty one is lost."""
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
