"""Wrap the Python APIs of the two runtimes, TensorRT (10.13 to 11) and TensorRT for RTX: their differences, logging and progress."""

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

from ..errors import DeviceError, install_hint
from ..models.plan_identity import Runtime

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""A callback for a build's progress: the phase's name, the steps done, the total steps."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """The properties of a TensorRT runtime.

    Attributes:
        title: the runtime's name in messages.
        modules: names of the Python module, the preferred one first.
        min_version: the oldest supported version, (major, minor).
        extra: the extra of this package that installs it.
        timing_cache: whether it supports a timing cache.
        targets: whether it builds plans for GPUs that this machine does not have.
        own_graphs: whether it captures CUDA graphs by itself.
    """

    title: str
    modules: tuple[str, ...]
    min_version: tuple[int, int]
    extra: str
    timing_cache: bool = False
    targets: bool = False
    own_graphs: bool = False


FLAVOURS: dict[Runtime, Flavour] = {
    "tensorrt": Flavour("TensorRT", ("tensorrt", "tensorrt_bindings"), (10, 13), "gpu", timing_cache=True),
    "rtx": Flavour("TensorRT for RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings"), (1, 7), "rtx", targets=True, own_graphs=True),
}


def load(runtime: Runtime) -> Any:
    """Import a runtime's Python module.

    Raises:
        DeviceError: the runtime is not installed, can't be loaded, or is too old.
    """
    flavour = FLAVOURS[runtime]
    hint = install_hint(flavour.extra)
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
            raise DeviceError(f"{flavour.title} {trt.__version__} is too old: {least} or later is needed", hint)
        return trt
    raise DeviceError(f"{flavour.title} is not installed", hint)


class Messages:
    """A collector of TensorRT's messages. All are logged; warnings and errors can also be collected for an exception's text."""

    def __init__(self) -> None:
        self._kept: list[str] | None = None
        self._turn = threading.Lock()

    def add(self, severe: bool, text: str) -> None:
        """Log a message, and collect it if it is a warning or an error."""
        _log.log(logging.WARNING if severe else logging.DEBUG, "%s", text)
        if severe and self._kept is not None:
            self._kept.append(text)

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """Collect the warnings and errors inside the block. One thread does so at a time."""
        with self._turn:
            messages: list[str] = []
            self._kept = messages
            try:
                yield messages
            finally:
                self._kept = None


@functools.cache
def logger(runtime: Runtime) -> tuple[Any, Messages]:
    """Return the runtime's ``ILogger`` and the collector of its messages.

    There is one logger for the lifetime of the process: TensorRT keeps the first one that it gets, ignores others with a warning, and
    calls it for as long as any object made with it exists.
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

    An exception must not propagate through TensorRT's C++ code. It cancels the build and is stored in ``failure``, for the caller to
    raise. This includes KeyboardInterrupt: during a build, Python handles Ctrl-C in these callbacks.
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
