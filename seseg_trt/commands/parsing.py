"""What the texts of the command line mean."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError


def both(name: str) -> tuple[str, ...]:
    """Return an option's names with underscores, as the original program has them, and with hyphens."""
    names = {f"--{name}", f"--{name.replace('_', '-')}"}
    return (*sorted(names), name)


class Threshold(click.ParamType[Any]):
    """0 to 100, or ``none``."""

    name = "0..100"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for ``none`` (and for the original program's ``False``)."""
        if isinstance(value, str) and value.lower() in ("none", "false"):
            return None
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number from 0 to 100, nor 'none'", param, ctx)
        if not 0 <= number <= 100:
            self.fail(f"{number} is not within 0 to 100: it is a percentage", param, ctx)
        return number


def inputs_and_output(paths: list[str], input_dir: str | None, output_dir: str | None, files_from: str | None) -> tuple[list[str], str]:
    """Return the inputs and the output folder, however they were named."""
    if output_dir is None:
        if not paths:
            raise UsageError("no output folder was named", "seseg-trt segment INPUT... OUTPUT_DIR, or --input_dir DIR --output_dir DIR")
        output_dir = paths.pop()
    if input_dir is not None:
        paths.insert(0, input_dir)
    if not paths and files_from is None:
        raise UsageError("no input was named", "seseg-trt segment INPUT... OUTPUT_DIR: files, folders, globs, or --files-from FILE")
    return paths, output_dir


def read_list(name: str, null: bool) -> list[str]:
    """Return the paths of a list, from a file or (``-``) from standard input."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"the list {name} can't be read: {error.strerror}") from error
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def kinds(text: str) -> tuple[Any, ...]:
    """Return the output kinds of a text such as ``se,mask``, or none of them for ``none``."""
    if text == "none":
        return ()
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def color(text: str) -> Any:
    """Return the colour of a text such as ``127,127,127`` or ``random``."""
    if text == "random":
        return "random"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no colour", "give R,G,B with each of 0 to 255, or 'random'") from None


def failures(text: str | None) -> int | float | None:
    """Return a number, or a share as a float, of a text such as ``100`` or ``5%``."""
    if text is None:
        return None
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


def shard(text: str | None) -> tuple[int, int] | None:
    """Return (i, n) of a text such as ``1/8``."""
    if text is None:
        return None
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise UsageError(f"--shard {text!r} is no shard", "give i/n: 1/8 is the first of eight") from None
    return index, count
