"""Read the texts of the command line: each function takes one, and returns its value or raises UsageError."""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError


def read_list(name: str, null: bool) -> list[str]:
    """Read a list of paths from a file, or from standard input if its name is ``-``."""
    if name == "-" and sys.stdin is None:
        raise UsageError("standard input is closed, and --files-from - reads it", "give --files-from a file with a path a line")
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        hint = "give --files-from a file with a path a line, or - for standard input"
        raise UsageError(f"the list {name} can't be read: {error.strerror}", hint) from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's redirection
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def kinds(text: str) -> tuple[Any, ...]:
    """Read output kinds: ``se,mask``, or ``none``."""
    return () if text == "none" else tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def color(text: str) -> Any:
    """Read a colour: ``127,127,127`` or ``random``."""
    try:
        return text if text == "random" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no colour", "give R,G,B with each of 0 to 255, or 'random'") from None


def threshold(text: str) -> int | None:
    """Read a percentage, or ``none`` (``False`` in the original program)."""
    if text.lower() in ("none", "false"):
        return None
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"--threshold {text!r} is not a whole number", "give a percentage from 0 to 100, or 'none'") from None
    if not 0 <= number <= 100:
        raise UsageError(f"--threshold {number} is not within 0 to 100", "it is a percentage")
    return number


def failures(text: str) -> int | float:
    """Read a number of failures: ``100`` as an int, ``5%`` as a float, the share 0.05."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return share
        elif int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise UsageError(f"--max-failures {text!r} is neither a number nor a percentage", "give 100, or 5%")


def shard(text: str) -> tuple[int, int]:
    """Read a shard: ``1/8`` as (1, 8)."""
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise UsageError(f"--shard {text!r} is no shard", "give i/n: 1/8 is the first of eight") from None
    return index, count
