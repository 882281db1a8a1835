"""What the names of inputs and outputs mean: a store's address, a tar or a row of tars; and where a run's state lies."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from ..errors import UsageError

STATE_NAME = ".seseg"
TAR = ".tar"
LARGEST_RANGE = 1_000_000

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"%0?(\d*)d")
_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|zstd|lz4|lzma|z|lz)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)


def is_remote(name: str) -> bool:
    """Tell whether a name is an address of an object store (``s3://bucket/folder``), not a local path."""
    return "://" in name


def text_to_fs(name: str) -> str:
    """Return a name that a tar or a store gave (UTF-8) as the functions of the file system take it, whatever the locale."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def fs_to_text(name: str) -> str:
    """Return a path as a tar or a store takes it: UTF-8, with surrogates for other bytes."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def may_be_path(name: str) -> bool:
    """Tell whether a name that a store gave may be a path: ``a//b`` would be the same file as ``a/b``, and ``/a`` lies elsewhere."""
    return all(name.split("/"))


def is_tar(name: str) -> bool:
    """Tell whether a name means a tar: as an input where it is a file and named itself, as an output always."""
    return name.endswith(TAR)


def is_compressed_tar(name: str) -> bool:
    """Tell whether a name is of a tar that has to be decompressed first."""
    return _COMPRESSED.search(name) is not None


def expand_range(name: str) -> list[str]:
    """Return the tars of a range such as ``data-{000000..000009}.tar``, or nothing if it is none.

    Raises:
        UsageError: the range runs backwards, or is far too long.
    """
    begin, *ranges = _RANGE.split(name)
    if not is_tar(name) or not ranges:
        return []
    parts, count = [[begin]], 1
    for first, last, after in zip(*(ranges[which::3] for which in range(3)), strict=True):
        if int(first) > int(last):
            raise UsageError(f"the range {{{first}..{last}}} of {name} runs backwards", f"write {{{last}..{first}}}")
        count *= int(last) - int(first) + 1
        if count > LARGEST_RANGE:
            raise UsageError(f"{name} names more than {LARGEST_RANGE} tars", "check the range")
        width = max(len(first), len(last)) if first.startswith("0") else 0
        parts.append([f"{value:0{width}d}{after}" for value in range(int(first), int(last) + 1)])
    return list(map("".join, itertools.product(*parts)))


def is_pattern(target: str) -> bool:
    """Tell whether an output names a row of tars (``masks-%06d.tar``), not one."""
    return is_tar(target) and _NUMBER.search(os.path.basename(target)) is not None


def tar_name(target: str, number: int) -> str:
    """Return the name of one tar of a row, counted from 0; the name itself where it is no pattern."""
    folder, name = os.path.split(target)
    return os.path.join(folder, _NUMBER.sub(lambda match: f"{number:0{match[1] or 0}d}", name, count=1))


def tar_number(target: str, name: str) -> int | None:
    """Return which tar of an output a file name (without its folder) is, or None if it is none of them."""
    own = os.path.basename(target)
    match = _NUMBER.search(own)
    if match is None:
        return 0 if name == own else None
    number = name[match.start() : len(name) - len(own) + match.end()]
    if not number.isascii() or not number.isdigit():
        return None
    return int(number) if os.path.basename(tar_name(target, int(number))) == name else None


def default_state(target: str) -> str:
    """Return where an output's state lies if nothing else is said: in a folder's ``.seseg``, beside a tar with ``.seseg`` after its name."""
    return target + STATE_NAME if is_tar(target) else f"{target}/{STATE_NAME}"


def state_folder(target: str, chosen: str | None) -> Path:
    """Return where an output's state lies.

    Raises:
        UsageError: it would lie in a store.
    """
    if chosen is not None:
        return Path(chosen)
    if is_remote(target):
        raise UsageError(f"the journal of a run can't be kept in {target}", "add --state DIR, a local folder; one for each machine")
    return Path(default_state(target))
