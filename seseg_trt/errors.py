"""Every error that seseg_trt raises on purpose, with its exit code and the way out.

::

    SesegError                 exit code
    ├── UsageError             1   what was asked for can't be done as asked
    ├── BadImage               2   one image can't be masked; it is quarantined and the run goes on
    ├── ModelError             3   a model file is missing, foreign, damaged or not what it must be
    │   └── CheckpointError    3   the same of a Keras checkpoint
    ├── DeviceError            3   a device, a driver or a library that a lane needs is missing or failed
    ├── GateError              4   a measured quality is under the gate that the user set
    └── StoppedError           5   the run ended early (disk, too many failures); it can be resumed

A message names the thing that is wrong; ``hint`` is the way out, usually a command. Low-level errors (of Pillow, OpenVINO,
TensorRT, the operating system) are mapped to these where they are met, with the original as ``__cause__``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

ReasonCode = Literal[
    "empty",  # a file of 0 bytes
    "truncated",  # an image that ends too early
    "not_an_image",  # no decoder knows it
    "unsupported",  # an image of a kind that is not decoded
    "too_large",  # more pixels than --max-pixels
    "decode_error",  # a decoder found the data damaged
    "unreadable",  # the operating system refused to read it
    "missing",  # it is not there (any more), or the link leads nowhere
    "link_loop",  # symbolic links in a circle
    "not_a_file",  # a device, a socket, a pipe
    "changed",  # it changed while it was read
    "collision",  # another input has the same output
    "engine_error",  # the network failed on it
    "encode_error",  # the result could not be encoded
    "timeout",  # it took longer than the limit for one image
]


class SesegError(Exception):
    """The root of all errors that seseg_trt raises on purpose.

    Attributes:
        hint: the way out, or an empty string.
        exit_code: what the command line ends with.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(SesegError):
    """What was asked for can't be done as asked."""

    exit_code = 1


class BadImage(SesegError):
    """One image can't be masked: ``reason`` is a stable code, the message a sentence."""

    exit_code = 2

    def __init__(self, reason: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.reason: ReasonCode = reason


class ModelError(SesegError):
    """A model file is missing, foreign, damaged or not what it must be."""


class CheckpointError(ModelError):
    """A Keras checkpoint is foreign, damaged, or does not fit the network."""


class DeviceError(SesegError):
    """A device, a driver or a library that a lane needs is missing or failed."""


class GateError(SesegError):
    """A measured quality is under the gate that the user set."""

    exit_code = 4


class StoppedError(SesegError):
    """The run ended before all inputs were seen; what is done is committed, and the same command resumes it."""

    exit_code = 5
