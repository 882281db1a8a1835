"""seseg_trt: exact masks of sexually explicit content, at the speed of the hardware.

>>> from seseg_trt import Segmenter                            # doctest: +SKIP
>>> masks = Segmenter("demo").masks([image], threshold=50)     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.base import Backend, FakeBackend
    from .errors import BadImage, CheckpointError, DeviceError, GateError, ModelError, SesegError, StoppedError, UsageError
    from .files import Watch, segment_files
    from .options import DecodeOptions, EncodeOptions, MaskOptions
    from .run.report import Summary
    from .run_options import RunOptions
    from .segmenter import Segmenter

__version__ = "0.1.0"

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
    "RunOptions": "run_options",
    "Segmenter": "segmenter",
    "SesegError": "errors",
    "StoppedError": "errors",
    "Summary": "run.report",
    "UsageError": "errors",
    "Watch": "files",
    "segment_files": "files",
}

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "Segmenter",
    "segment_files",
    "MaskOptions",
    "DecodeOptions",
    "EncodeOptions",
    "RunOptions",
    "Watch",
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
