"""TensorRT's two flavours, 10.13 to 11 and TensorRT for RTX: one table of how they differ, and what both need from us."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import DeviceError
from ..plan_identity import Runtime

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the steps done and the steps in all."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """How one flavour differs from the other.

    Attributes:
        runtime: the name by which users choose it.
        title: its name for people.
        modules: where its Python API may lie, best first.
        min_version: the oldest that has all that we use.
        extra: what to install.
        timing_cache: whether layer timings can be kept.
        targets: whether it builds for GPUs that are not there.
        own_graphs: whether its runtime makes CUDA graphs by itself.
    """

    runtime: Runtime
    title: str
    modules: tuple[str, ...]
    min_version: tuple[int, int]
    extra: str
    timing_cache: bool
    targets: bool
    own_graphs: bool


FLAVOURS: dict[Runtime, Flavour] = {
    "tensorrt": Flavour(
        runtime="tensorrt",
        title="TensorRT",
        modules=("tensorrt", "tensorrt_bindings"),
        min_version=(10, 13),
        extra="gpu",
        timing_cache=True,
        targets=False,
        own_graphs=False,
    ),
    "rtx": Flavour(
        runtime="rtx",
        title="TensorRT for RTX",
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        min_version=(1, 7),
        extra="rtx",
        timing_cache=False,
        targets=True,
        own_graphs=True,
    ),
}


def load(runtime: Runtime) -> Any:
    """Import a flavour's Python module.

    Raises:
        DeviceError: it is not installed, its libraries don't load, or it is too old.
    """
    flavour = FLAVOURS[runtime]
    hint = f"pip install 'seseg_trt[{flavour.extra}]'"
    for name in flavour.modules:
        try:
            trt = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise DeviceError(f"{flavour.title} is installed but can't be loaded: {error}", hint) from error
        version = tuple(int(n) for n in re.findall(r"\d+", trt.__version__)[:2])
        if version < flavour.min_version:
            least = ".".join(map(str, flavour.min_version))
            raise DeviceError(f"{flavour.title} {trt.__version__} is too old: {least} is the least", hint)
        return trt
    raise DeviceError(f"{flavour.title} is not installed", hint)


def version(runtime: Runtime) -> str:
    """Return the installed version, all its parts; raise DeviceError as :func:`load` does."""
    return str(load(runtime).__version__)


class Messages:
    """TensorRT's messages: all go to the log, and warnings and errors are also kept for the error that we raise."""

    def __init__(self) -> None:
        self._kept: list[str] | None = None
        self.turn = threading.Lock()

    def add(self, severe: bool, text: str) -> None:
        """Take one message."""
        _log.log(logging.WARNING if severe else logging.DEBUG, "%s", text)
        if severe and self._kept is not None:
            self._kept.append(text)

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """Collect the warnings and errors of the block."""
        messages: list[str] = []
        self._kept = messages
        try:
            yield messages
        finally:
            self._kept = None


@functools.cache
def logger(runtime: Runtime) -> tuple[Any, Messages]:
    """Return the flavour's ``ILogger`` and what collects its messages.

    There is one for the life of the process: TensorRT keeps the first that it is given, ignores any other with a warning,
    and calls it as long as anything made with it lives.
    """
    trt = load(runtime)
    messages = Messages()

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(severity not in (trt.ILogger.Severity.INFO, trt.ILogger.Severity.VERBOSE), text)

    return Logger(), messages


def progress_monitor(trt: Any, progress: Progress | None) -> Any:
    """Return an ``IProgressMonitor`` that calls ``progress``.

    An exception must not pass through TensorRT's own code: it ends the build, and lies in ``failure`` until the caller
    raises it. That goes for Ctrl-C too, which Python notices here, in the midst of a long build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            if progress is None or self.failure is not None:
                return
            try:
                progress(phase, done, self._steps.get(phase, done))
            except BaseException as error:
                self.failure = error

    return Monitor()
