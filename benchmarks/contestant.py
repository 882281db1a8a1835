"""Define the settings of a run, its contestants, and the folders that they write to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .cases import Case
from .images import Prepared
from .models import Model
from .process import Worker

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        suite: ``quick``, ``full`` or ``tiny``.
        cache: the folder of images, models, environments and logs.
        own_images: the user's images, which replace the sets of the cases; None: the sets.
        only: run only cases whose name contains one of these; empty: all.
        tell: takes a line of progress for people.
    """

    suite: str
    cache: Path
    own_images: Prepared | None = None
    only: tuple[str, ...] = ()
    tell: Tell = lambda line: None


@dataclasses.dataclass
class Contestant:
    """A case that can be run on this machine, with what was measured so far.

    Attributes:
        case: the case.
        worker: the process that runs it.
        images: the images that it reads, or None.
        model: the model that it runs.
        loaded: the worker's answer to ``load``.
        samples: one value for each round: seconds an image, or work a second.
        last: the worker's answer in the last round.
        stolen: CPU steal in each round, as a share of the CPU time.
        retaken: how many measurements were repeated because of CPU steal.
        stage_seconds: seconds of each stage in each round.
        failed: why it failed, or None.
    """

    case: Case
    worker: Worker
    images: Prepared | None
    model: Model
    loaded: dict[str, Any]
    samples: list[float] = dataclasses.field(default_factory=list)
    last: dict[str, Any] = dataclasses.field(default_factory=dict)
    stolen: list[float] = dataclasses.field(default_factory=list)
    retaken: int = 0
    stage_seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    failed: str | None = None


def scratch_folder(settings: Settings) -> Path:
    """Return the folder for outputs in the cache; it is created if it is missing."""
    folder = settings.cache / "outputs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def output_folder(settings: Settings) -> Iterator[Path]:
    """Create an empty folder for outputs, and remove it afterwards."""
    folder = scratch_folder(settings) / f"{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
