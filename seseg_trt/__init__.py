"""seseg_trt: exact masks of sexually explicit content, at the speed of the hardware.

>>> from seseg_trt import Segmenter                            # doctest: +SKIP
>>> masks = Segmenter("demo").masks([image], threshold=50)     # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.base import Backend, FakeBackend
    from .errors import BadImage, CheckpointError, DeviceError, GateError, ModelError, SesegError, StoppedError, UsageError
    from .files import segment_files
    from .options import DecodeOptions, EncodeOptions, MaskOptions, RunOptions
    from .run.session import RunObserver
    from .run.summary import Summary
    from .segmenter import Segmenter

# Two libraries report to their makers, and write an id into the home folder, when they are imported. Both know a way to be told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO takes its stub where this can't be imported

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # without a handler, Python writes a library's warnings to standard error

_HOMES = {
    "Backend": "backends.base",
    "BadImage": "errors",
    "CheckpointError": "errors",
    "DecodeOptions": "options",
    "DeviceError": "errors",
    "EncodeOptions": "options",
    "FakeBackend": "backends.base",
    "GateError": "errors",
    "MaskOptions": "options",
    "ModelError": "errors",
    "RunOptions": "options",
    "Segmenter": "segmenter",
    "SesegError": "errors",
    "StoppedError": "errors",
    "Summary": "run.summary",
    "UsageError": "errors",
    "RunObserver": "run.session",
    "segment_files": "files",
}

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "Segmenter",
    "segment_files",
    "MaskOptions",
    "DecodeOptions",
    "EncodeOptions",
    "RunOptions",
    "RunObserver",
    "Summary",
    "Backend",
    "FakeBackend",
    "SesegError",
    "UsageError",
    "BadImage",
    "ModelError",
    "CheckpointError",
    "DeviceError",
    "GateError",
    "StoppedError",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing the package itself loads next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
