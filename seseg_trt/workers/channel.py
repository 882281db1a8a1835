"""Messages between a run's parent and its workers: lines of JSON over a socket.

What a worker says is checked word by word: a decoder that was taken over must not reach the parent. It names a task by its number, so it
can answer for nothing but what it was given, and it can name no file.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..errors import CheckpointError, DeviceError, GateError, ModelError, ReasonCode, SesegError, StoppedError, UsageError
from ..inputs.item import InputItem
from ..options import OutputKind
from ..run.job import Outcome, Task
from ..run.pipeline import StageReport
from ..storage.base import Stat

LONGEST_MESSAGE = 64 << 20
"""Bytes of a line: run lengths of a very large mask take some megabytes."""
LONGEST_TEXT = 4096
BYTES_AT_ONCE = 1 << 16

_ERRORS = {kind.__name__: kind for kind in (SesegError, UsageError, ModelError, CheckpointError, DeviceError, GateError, StoppedError)}


class ProtocolError(Exception):
    """The other end of a channel said what it can't have meant."""


class Channel:
    """One end of a socket. Messages may be sent from several threads, and received in one.

    Args:
        connected: the socket.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        self._received = bytearray()

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, *message: object) -> None:
        """Send one message. Raises OSError where the other end is gone, or takes nothing."""
        self.send_all([message])

    def send_all(self, messages: Sequence[Sequence[object]]) -> None:
        """Send several messages at once. Raises as ``send``."""
        data = b"".join(json.dumps(message).encode("ascii") + b"\n" for message in messages)
        with self._sending:
            self._socket.sendall(data)

    def receive(self) -> list[Any]:
        """Wait for bytes and return the messages that are complete: often one, perhaps none.

        Raises:
            EOFError: the other end is gone.
            ProtocolError: these are no messages.
        """
        try:
            data = self._socket.recv(BYTES_AT_ONCE)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        begin = len(self._received)
        self._received += data
        end = self._received.rfind(b"\n", begin)
        if end < 0:
            if len(self._received) > LONGEST_MESSAGE:
                raise ProtocolError("a message is too long")
            return []
        lines = bytes(self._received[:end]).split(b"\n")
        del self._received[: end + 1]
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise ProtocolError("that is no JSON") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


# What a worker says, checked against these types.

Whole = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Number = Annotated[float, Meta(ge=0, lt=1e18)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
_Pixels = Annotated[int, Meta(ge=0, lt=1 << 31)]
_RunLengths = Annotated[str, Meta(max_length=LONGEST_MESSAGE, pattern=r"^[ -~]*$")]
_Sha256 = Annotated[str, Meta(max_length=64, pattern="^[0-9a-f]{64}$")]


class _Measured(Struct, forbid_unknown_fields=True):
    width: _Pixels | UnsetType = UNSET
    height: _Pixels | UnsetType = UNSET
    share: Number | UnsetType = UNSET
    mean: Number | UnsetType = UNSET
    max: Number | UnsetType = UNSET
    rle: _RunLengths | UnsetType = UNSET
    bbox: list[_Pixels] | UnsetType | None = UNSET


class _Outcome(Struct, forbid_unknown_fields=True):
    number: Count
    reason: ReasonCode | None
    message: Text
    stat: tuple[Count, Whole] | None
    decoded_by: Text | None
    outputs: dict[OutputKind, tuple[_Sha256, Count]]
    measured: _Measured | None
    pixels: Count


class _Report(Struct, forbid_unknown_fields=True):
    name: Text
    workers: Annotated[int, Meta(gt=0, lt=1 << 31)]
    jobs: Count
    busy: Number
    starved: Number
    blocked: Number
    queue_peak: Count


def checked(found: Any, kind: Any) -> Any:
    """Return what came as JSON as the type that it must have. Raises ProtocolError where it is something else."""
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{error!s:.200}") from None


def outcome_to_json(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as JSON has it."""
    return {name: getattr(outcome, name) for name in _Outcome.__struct_fields__} | {"message": outcome.message[:LONGEST_TEXT]}


def outcome_from_json(found: Any) -> Outcome:
    """Return a worker's outcome, checked."""
    said = msgspec.structs.asdict(checked(found, _Outcome))
    said["stat"] = said["stat"] and Stat(*said["stat"])
    return Outcome(**said | {"measured": msgspec.to_builtins(said["measured"])})


def reports_to_json(reports: Sequence[StageReport]) -> list[dict[str, Any]]:
    """Return stages' reports as JSON has them."""
    return [vars(report) for report in reports]


def reports_from_json(found: Any) -> list[StageReport]:
    """Return a worker's reports, checked."""
    return [StageReport(**msgspec.structs.asdict(report)) for report in checked(found, list[_Report])]


def error_to_json(error: SesegError) -> list[str]:
    """Return an error as JSON has it."""
    return [type(error).__name__, error.message[:LONGEST_TEXT], error.hint[:LONGEST_TEXT]]


def error_from_json(found: Any) -> SesegError:
    """Return a worker's error, checked."""
    kind, message, hint = checked(found, tuple[Text, Text, Text])
    if kind not in _ERRORS:
        raise ProtocolError("that is no error of ours")
    return _ERRORS[kind](message, hint)


def task_to_json(task: Task) -> list[object]:
    """Return a task as JSON has it."""
    return [task.number, *task.item]


def task_from_json(found: list[Any]) -> Task:
    """Return the parent's task."""
    number, root, path, listed, offset = found
    return Task(number, InputItem(root, path, None if listed is None else Stat(*listed), offset))
