"""Which input becomes which output, decided and checked for collisions before the first image is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from array import array
from collections.abc import Sequence

import numpy as np

from ..errors import UsageError
from ..options import OUTPUT_SUFFIX, ImageFormat, OutputKind
from .names import default_state, is_remote, is_tar
from .scan import Refused, Scan, WorkItem
from .shards import is_numbered, numbered, split_source


@dataclasses.dataclass(frozen=True)
class Naming:
    """How an output is called.

    Attributes:
        outputs: the kinds to write.
        format: of ``se`` and ``nse``; a mask is always PNG.
        keep_suffix: the input's suffix stays in the name (``a.jpg_se.png``), so that ``a.jpg`` and ``a.png`` don't collide.
    """

    outputs: tuple[OutputKind, ...] = ("se",)
    format: ImageFormat = "png"
    keep_suffix: bool = False

    def stem(self, path: str) -> str:
        """Return what the outputs of the input ``path`` have in common: its path without the last suffix."""
        if self.keep_suffix:
            return path
        folder, slash, name = path.rpartition("/")
        stem, _, _ = name.rpartition(".")
        return f"{folder}{slash}{stem}" if stem else path

    def names(self, path: str) -> dict[OutputKind, str]:
        """Return the outputs of the input ``path``, relative to the output folder."""
        stem = self.stem(path)
        return {kind: f"{stem}_{OUTPUT_SUFFIX[kind]}.{'png' if kind == 'mask' else self.format}" for kind in self.outputs}


@dataclasses.dataclass
class WorkPlan:
    """All inputs of a run.

    Attributes:
        items: what is to be masked.
        ignored: how many inputs are skipped for their names (dot files, ``Thumbs.db``, ``desktop.ini``).
        refused: inputs that can't be opened.
        naming: what their outputs are called.
    """

    items: list[WorkItem]
    ignored: int
    refused: list[Refused]
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
) -> WorkPlan:
    """Find all inputs and name their outputs.

    Args:
        inputs: files, folders (read recursively) and globs.
        output_dir: where outputs go; never read from.
        naming: what they are called.
        listed: more paths, from a list; they may be files or folders.
        base: see :class:`seseg_trt.run.scan.Scan`.
        state_dir: the run's own files, where they are not in the output folder; never read from.
        shard: (i, n): of all inputs, only those of shard i of 1..n: see :func:`in_shard`. Inputs that are skipped for their names
            have no shard; the first one counts them.

    Raises:
        UsageError: an argument that names nothing, an output folder that is an input folder, two inputs with one output.
    """
    scan = Scan(output_dir, state_dir or default_state(output_dir), base)
    for argument in inputs:
        scan.add(argument)
    if listed is not None:
        scan.add_group(list(listed))
    _refuse_outputs_in_inputs(scan.items, output_dir, naming)
    items, collided = _distinct(scan.items, naming)
    refused, ignored = _distinct_refused(scan.refused + collided, items), scan.ignored
    if shard is not None:  # only now: two inputs with one output may be of two shards
        items = [item for item in items if in_shard(item.path, shard)]
        refused = [entry for entry in refused if in_shard(entry.item.path, shard)]
        ignored = ignored if shard[0] == 1 else 0
    return WorkPlan(items, ignored, refused, naming)


def _distinct(items: list[WorkItem], naming: Naming) -> tuple[list[WorkItem], list[Refused]]:
    """Return the items, each once; raise if two different ones would write one output, but only quarantine the entry of an archive.

    What an archive holds can't be known before it is read, so one entry must not end a run over a thousand archives.

    Ten million names would fill gigabytes, so their hashes are compared first and only the few that meet are looked at.
    """
    name = naming.stem if naming.outputs else str  # without outputs nothing but the journal's key can collide
    hashes = array("q", (hash(name(item.path)) for item in items))
    in_order = np.sort(np.frombuffer(hashes, np.int64))
    met = set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())
    first: dict[str, WorkItem] = {}
    kept = []
    collided = []
    for item, value in zip(items, hashes, strict=True):
        if value in met:
            other = first.setdefault(name(item.path), item)
            if other is not item:
                if other.path == item.path and os.path.realpath(other.source) == os.path.realpath(item.source):
                    continue  # one file, named twice
                if split_source(item.source) is None:
                    _refuse_collision(other, item, naming)
                collided.append(Refused(item, "collision", _one_line(*_collision(other, item, naming))))
                continue
        kept.append(item)
    in_the_way = _refuse_folders_in_the_way(kept, naming)
    if in_the_way:
        collided += in_the_way
        gone = {entry.item for entry in in_the_way}
        kept = [item for item in kept if item not in gone]
    return kept, collided


def _distinct_refused(refused: list[Refused], items: list[WorkItem]) -> list[Refused]:
    """Return what was refused, each once and by a name of its own; raise if an item has the name of a refused file."""
    wanted = {entry.item.path for entry in refused}
    taken = {item.path: item for item in items if item.path in wanted}
    by_path: dict[str, Refused] = {}
    for entry in refused:
        item = entry.item
        if not _is_of_archive(item):
            if item.path in taken:
                _refuse_collision(item, taken[item.path], Naming(()))
            by_path.setdefault(item.path, entry)
            continue
        if (item.path in taken or item.path in by_path) and split_source(item.source) is not None:
            item = _by_number(item)
        if item.path in taken or item.path in by_path:
            item = _in_full(item)
        by_path.setdefault(item.path, entry._replace(item=item))
    return list(by_path.values())


def _is_of_archive(item: WorkItem) -> bool:
    return is_tar(item.source) or is_numbered(item.source) or split_source(item.source) is not None


def _by_number(item: WorkItem) -> WorkItem:
    """Return an entry by its number in its archive: it needs a name that is not another's."""
    source = numbered(item.source)
    found = split_source(item.source)
    root = item.root if found is None or item.root != found[0] else os.path.dirname(item.root)
    return WorkItem(root, source[len(root) + 1 :])


def _in_full(item: WorkItem) -> WorkItem:
    """Return an input by its whole path."""
    protocol, mark, rest = item.source.rpartition("://")
    bucket, _, path = rest.partition("/")
    return WorkItem(f"{protocol}{mark}{bucket}", path)


def _refuse_outputs_in_inputs(items: list[WorkItem], output_dir: str, naming: Naming) -> None:
    """Raise if an output would land in an input folder that lies inside the output folder: the next run would mask it."""
    if is_remote(output_dir):
        return
    real_output = os.path.realpath(output_dir)
    for root in {item.root for item in items if not is_remote(item.root)}:
        prefix = os.path.relpath(os.path.realpath(root or "/"), real_output)
        if prefix.startswith(".."):
            continue
        for item in items:
            for name in naming.names(item.path).values():
                if name.startswith(prefix + "/"):
                    raise UsageError(
                        f"the output {name} of {item.source} would lie in the input folder {root}", "choose another output folder"
                    )


def _refuse_collision(one: WorkItem, other: WorkItem, naming: Naming) -> None:
    raise UsageError(*_collision(one, other, naming))


def _collision(one: WorkItem, other: WorkItem, naming: Naming) -> tuple[str, str]:
    """Return what is wrong, and the way out."""
    output = next(iter(naming.names(one.path).values()), one.path)
    if one.path == other.path:
        hint = "give --base a folder that holds both inputs, so that their folders become part of the names"
    else:
        hint = "--keep_suffix keeps the suffix in the output's name and so tells them apart"
    return f"two inputs have one {'output' if naming.outputs else 'name'}, {output}:\n    {one.source}\n    {other.source}", hint


def _one_line(message: str, hint: str) -> str:
    return f"{message}; {hint}".replace("\n   ", "")


def _refuse_folders_in_the_way(items: list[WorkItem], naming: Naming) -> list[Refused]:
    """Raise if an output's name is also the name of a folder that outputs go to; return the entries of archives of which this is so."""
    refused: list[Refused] = []
    folders: dict[str, WorkItem] = {}
    for item in items:
        folder = item.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = item
            folder = folder.rpartition("/")[0]
    if not any(folder.rpartition("/")[2].endswith((".png", f".{naming.format}")) for folder in folders):
        return refused
    for item in items:
        name = next((name for name in naming.names(item.path).values() if name in folders), None)
        if name is not None:
            message = f"two inputs have one output, {name}:\n    {item.source}, whose output it is\n    {folders[name].source}, whose outputs go into it"
            hint = "mask them into two output folders"
            if split_source(item.source) is None:
                raise UsageError(message, hint)
            refused.append(Refused(item, "collision", _one_line(message, hint)))
    return refused


def in_shard(path: str, shard: tuple[int, int]) -> bool:
    """Tell whether an input belongs to shard (i, n), i of 1..n: by a hash of its relative path alone, the same on every machine."""
    index, count = shard
    value = int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")
    return value % count == index - 1
