"""Which input becomes which output, decided and checked for collisions before the first image is touched."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..inputs.item import InputItem, RejectedInput
from ..inputs.scan import Scan
from ..inputs.tar_entries import is_numbered, numbered, split_source
from ..outputs.naming import Naming
from ..storage.locations import default_state, is_tar
from ..storage.select import storage_of

COLLISIONS_SHOWN = 5


@dataclasses.dataclass
class WorkPlan:
    """All inputs of a run.

    Attributes:
        items: what is to be masked.
        ignored: how many inputs are skipped for their names (dot files, ``Thumbs.db``, ``desktop.ini``).
        refused: inputs that can't be opened.
        naming: what their outputs are called.
    """

    items: list[InputItem]
    ignored: int
    refused: list[RejectedInput]
    naming: Naming

    @property
    def inputs(self) -> int:
        """How many inputs there are in all."""
        return len(self.items) + self.ignored + len(self.refused)


def make_plan(
    inputs: Sequence[str],
    output_dir: str,
    naming: Naming,
    *,
    listed: Sequence[str] | None = None,
    base: str | None = None,
    state_dir: str | None = None,
    shard: tuple[int, int] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> WorkPlan:
    """Find all inputs and name their outputs.

    Args:
        inputs: files, folders (read recursively) and globs.
        output_dir: where outputs go; never read from.
        naming: what they are called.
        listed: more paths, from a list; they may be files or folders.
        base: see :class:`seseg_trt.inputs.scan.Scan`.
        state_dir: the run's own files, where they are not in the output folder; never read from.
        shard: (i, n): of all inputs, only those of shard i of 1..n: see :func:`in_shard`. Inputs that are skipped for their names
            have no shard; the first one counts them.
        include, exclude: see :class:`seseg_trt.options.RunOptions`. What they leave out counts as skipped for its name.

    Raises:
        UsageError: an argument that names nothing, an output folder that is an input folder, two inputs with one output.
    """
    scan = Scan(output_dir, state_dir or default_state(output_dir), base)
    for argument in inputs:
        scan.add(argument)
    if listed is not None:
        scan.add_group(list(listed))
    _select(scan, include, exclude)
    _refuse_outputs_in_inputs(scan.items, output_dir, naming)
    items, collisions = _distinct(scan.items, naming)
    refused = _distinct_refused(scan.refused + _refuse_collisions(collisions), items)
    ignored = scan.ignored
    if shard is not None:  # only now: two inputs with one output may be of two shards
        items = [item for item in items if in_shard(item.path, shard)]
        refused = [entry for entry in refused if in_shard(entry.item.path, shard)]
        ignored = ignored if shard[0] == 1 else 0
    return WorkPlan(items, ignored, refused, naming)


def _select(scan: Scan, include: Sequence[str], exclude: Sequence[str]) -> None:
    """Leave out the inputs that the patterns don't choose.

    Raises:
        UsageError: nothing is left.
    """
    if not include and not exclude:
        return

    def is_chosen(item: InputItem) -> bool:
        return (not include or _matches(item.path, include)) and not _matches(item.path, exclude)

    items = [item for item in scan.items if is_chosen(item)]
    refused = [entry for entry in scan.refused if is_chosen(entry.item)]
    if not items and not refused and (scan.items or scan.refused):
        raise UsageError(
            f"none of {len(scan.items) + len(scan.refused)} inputs is chosen by include {list(include)} and exclude {list(exclude)}",
            "a pattern with a / is of the whole relative path, one without of the name; * matches any characters, and case counts",
        )
    scan.ignored += len(scan.items) + len(scan.refused) - len(items) - len(refused)
    scan.items, scan.refused = items, refused


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern) for pattern in patterns)


class _Collision(NamedTuple):
    """An input that can't have its output: what is wrong, and the way out."""

    item: InputItem
    message: str
    hint: str


def _refuse_collisions(collisions: Sequence[_Collision]) -> list[RejectedInput]:
    """Raise if files collide; return the entries of tars that do, to be quarantined.

    What a tar holds can't be known before it is read, so one entry must not end a run over a thousand tars.
    """
    fatal = [collision for collision in collisions if split_source(collision.item.source) is None]
    if fatal:
        more = f"\n    and {len(fatal) - COLLISIONS_SHOWN} more such inputs" if len(fatal) > COLLISIONS_SHOWN else ""
        raise UsageError("\n".join(collision.message for collision in fatal[:COLLISIONS_SHOWN]) + more, fatal[0].hint)
    return [RejectedInput(item, "collision", f"{message}; {hint}".replace("\n   ", "")) for item, message, hint in collisions]


def _distinct(items: list[InputItem], naming: Naming) -> tuple[list[InputItem], list[_Collision]]:
    """Return the items, each once, and those that would write another one's output, or a file where another's folder is.

    Ten million names would fill gigabytes, so their hashes are compared first and only the few that meet are looked at.
    """
    name = naming.stem if naming.outputs else str  # without outputs nothing but the journal's key can collide
    hashes = array("q", (hash(name(item.path)) for item in items))
    in_order = np.sort(np.frombuffer(hashes, np.int64))
    met = set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())
    first: dict[str, InputItem] = {}
    kept, collided = [], []
    for item, value in zip(items, hashes, strict=True):
        other = first.setdefault(name(item.path), item) if value in met else item
        if other is item:
            kept.append(item)
        elif other.path != item.path or os.path.realpath(other.source) != os.path.realpath(item.source):  # else it is named twice
            collided.append(_collision(other, item, naming))
    in_the_way = _folders_in_the_way(kept, naming)
    gone = {collision.item for collision in in_the_way}
    return [item for item in kept if item not in gone] if gone else kept, collided + in_the_way


def _distinct_refused(refused: list[RejectedInput], items: list[InputItem]) -> list[RejectedInput]:
    """Return what was refused, each once and by a name of its own; raise if an item has the name of a refused file."""
    wanted = {entry.item.path for entry in refused}
    taken = {item.path: item for item in items if item.path in wanted}
    by_path: dict[str, RejectedInput] = {}
    for entry in refused:
        item = entry.item
        if not _is_of_archive(item):
            if item.path in taken:
                _refuse_collisions([_collision(item, taken[item.path], Naming(()))])
            by_path.setdefault(item.path, entry)
            continue
        if (item.path in taken or item.path in by_path) and split_source(item.source) is not None:
            item = _by_number(item)
        if item.path in taken or item.path in by_path:
            item = _in_full(item)
        by_path.setdefault(item.path, entry._replace(item=item))
    return list(by_path.values())


def _is_of_archive(item: InputItem) -> bool:
    return is_tar(item.source) or is_numbered(item.source) or split_source(item.source) is not None


def _by_number(item: InputItem) -> InputItem:
    """Return an entry by its number in its tar: it needs a name that is not another's."""
    source = numbered(item.source)
    found = split_source(item.source)
    root = item.root if found is None or item.root != found[0] else os.path.dirname(item.root)
    return InputItem(root, source[len(root) + 1 :])


def _in_full(item: InputItem) -> InputItem:
    """Return an input by its whole path."""
    protocol, mark, rest = item.source.rpartition("://")
    bucket, _, path = rest.partition("/")
    return InputItem(f"{protocol}{mark}{bucket}", path)


def _refuse_outputs_in_inputs(items: list[InputItem], output_dir: str, naming: Naming) -> None:
    """Raise if an output would land in an input folder that lies inside the output folder: the next run would mask it."""
    if storage_of(output_dir).remote:
        return
    real_output = os.path.realpath(output_dir)
    for root in {item.root for item in items if not storage_of(item.root).remote}:
        prefix = os.path.relpath(os.path.realpath(root or "/"), real_output)
        if prefix.startswith(".."):
            continue
        for item in items:
            for name in naming.names(item.path).values():
                if name.startswith(prefix + "/"):
                    raise UsageError(
                        f"the output {name} of {item.source} would lie in the input folder {root}", "choose another output folder"
                    )


def _collision(one: InputItem, other: InputItem, naming: Naming) -> _Collision:
    output = next(iter(naming.names(one.path).values()), one.path)
    if one.path == other.path:
        hint = "give --base a folder that holds both inputs, so that their folders become part of the names"
    else:
        hint = "--keep_suffix keeps the suffix in the output's name and so tells them apart"
    what = "output" if naming.outputs else "name"
    return _Collision(other, f"two inputs have one {what}, {output}:\n    {one.source}\n    {other.source}", hint)


def _folders_in_the_way(items: list[InputItem], naming: Naming) -> list[_Collision]:
    """Return the items whose output's name is also the name of a folder that outputs go to."""
    folders: dict[str, InputItem] = {}
    for item in items:
        folder = item.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = item
            folder = folder.rpartition("/")[0]
    if not any(folder.rpartition("/")[2].endswith((".png", f".{naming.format}")) for folder in folders):
        return []
    found = []
    for item in items:
        name = next((name for name in naming.names(item.path).values() if name in folders), None)
        if name is not None:
            inside = folders[name].source
            message = f"two inputs have one output, {name}:\n    {item.source}, whose output it is\n    {inside}, whose outputs go into it"
            found.append(_Collision(item, message, "mask them into two output folders"))
    return found


def in_shard(path: str, shard: tuple[int, int]) -> bool:
    """Tell whether an input belongs to shard (i, n), i of 1..n: by a hash of its relative path alone, the same on every machine."""
    index, count = shard
    value = int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")
    return value % count == index - 1
