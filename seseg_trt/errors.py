"""Define every error that seseg_trt raises on purpose, with its exit code and the way out.

::

    SesegError                 exit code
    ├── UsageError             1   the arguments can't be used as they are
    ├── BadImage               2   one image can't be masked; it is quarantined and the run continues
    ├── ModelError             3   a model file is missing, damaged or of the wrong kind
    │   └── CheckpointError    3   a Keras checkpoint is damaged or does not fit the network
    ├── DeviceError            3   a device, a driver or a library is missing or failed
    ├── GateError              4   a measured quality is under the gate that the user set
    └── StoppedError           5   the run ended early (a full disk, too many failures); it can be resumed

A message names what is wrong; ``hint`` is the way out, usually a command. Errors of Pillow, OpenVINO, TensorRT and the operating
system are converted to these where they occur, with the original as ``__cause__``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar, Literal

ReasonCode = Literal[
    "empty",  # the file has 0 bytes
    "truncated",  # the file ends before its image does
    "not_an_image",  # no decoder recognises it
    "unsupported",  # an image of a kind that no decoder here supports
    "several_frames",  # an animation or several pages, of which a mask shows one
    "too_large",  # more pixels than --max-pixels
    "decode_error",  # the image data are damaged
    "unreadable",  # the operating system could not read it
    "missing",  # there is no such file (any more), or a symbolic link is broken
    "link_loop",  # symbolic links form a loop
    "not_a_file",  # a device, a socket or a pipe
    "changed",  # it changed while it was read
    "collision",  # another input has the same output
    "engine_error",  # the network failed on it
    "encode_error",  # the result could not be encoded
    "timeout",  # it took longer than the limit for one image
    "crashed",  # the worker process died of it, more than once
]


class SesegError(Exception):
    """The base class of all errors that seseg_trt raises on purpose.

    Attributes:
        message: what is wrong.
        hint: the way out, or an empty string.
        exit_code: the exit code of the command line.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(SesegError):
    """The arguments can't be used as they are."""

    exit_code = 1


class BadImage(SesegError):
    """One image can't be masked.

    Attributes:
        reason: a code that does not change between versions.
    """

    exit_code = 2

    def __init__(self, reason: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.reason: ReasonCode = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (self.reason, self.message)


class ModelError(SesegError):
    """A model file is missing, damaged or of the wrong kind."""


class CheckpointError(ModelError):
    """A Keras checkpoint is damaged or does not fit the network."""


class DeviceError(SesegError):
    """A device, a driver or a library is missing or failed."""


class GateError(SesegError):
    """A measured quality is under the gate that the user set."""

    exit_code = 4


class StoppedError(SesegError):
    """The run ended before all inputs were done. Finished outputs are kept, and the same command resumes the run."""

    exit_code = 5


def import_late(module: str, failure: str, hint: str) -> Any:
    """Import and return a module; raise DeviceError, with ``failure`` and the reason, if it is not installed or can't be loaded."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f"{failure}: {error}", hint) from error


def install_hint(extra: str) -> str:
    """Return the command that installs one of this package's extras.

    No package index has seseg_trt, so the command names where this installation came from: a checkout, a folder, a wheel or a
    repository. If that is unknown or gone, the hint says in which folder to run the command.

    Args:
        extra: a name from pyproject.toml, such as ``scale``.
    """
    import shlex

    root = Path(__file__).resolve().parent.parent
    if _is_checkout(root):
        return f"pip install -e {shlex.quote(f'{root}[{extra}]')}"
    origin = _origin()
    if isinstance(origin, Path):
        return f"pip install {shlex.quote(f'{origin}[{extra}]')}"
    if origin is not None:
        return f"pip install {shlex.quote(f'seseg_trt[{extra}] @ {origin}')}"
    return f"pip install {shlex.quote(f'.[{extra}]')} in the folder of seseg_trt's source code"


def _is_checkout(folder: Path) -> bool:
    try:
        return 'name = "seseg_trt"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _origin() -> Path | str | None:
    """Return the folder or the address that this package was installed from (PEP 610), or None if that is unknown or gone."""
    import json
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        found = json.loads(metadata.distribution("seseg_trt").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    url = str(found.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
        if not path.exists():
            return None
        if "dir_info" in found:
            return path
    repository = found.get("vcs_info")
    return f"{repository['vcs']}+{url}@{repository['commit_id']}" if repository else url or None
