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
from .scan import Refused, Scan, WorkItem, is_remote


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
    scan = Scan(output_dir, state_dir or output_dir + "/.seseg", base)
    for argument in inputs:
        scan.add(argument)
    if listed is not None:
        scan.add_group(list(listed))
    _refuse_outputs_in_inputs(scan.items, output_dir, naming)
    items = _distinct(scan.items, naming)
    refused, ignored = _distinct_refused(scan.refused, items), scan.ignored
    if shard is not None:  # only now: two inputs with one output may be of two shards
        items = [item for item in items if in_shard(item.path, shard)]
        refused = [entry for entry in refused if in_shard(entry.item.path, shard)]
        ignored = ignored if shard[0] == 1 else 0
    return WorkPlan(items, ignored, refused, naming)


def _distinct(items: list[WorkItem], naming: Naming) -> list[WorkItem]:
    """Return the items, each once; raise if two different ones would write one output.

    Ten million names would fill gigabytes, so their hashes are compared first and only the few that meet are looked at.
    """
    name = naming.stem if naming.outputs else str  # without outputs nothing but the journal's key can collide
    hashes = array("q", (hash(name(item.path)) for item in items))
    in_order = np.sort(np.frombuffer(hashes, np.int64))
    met = set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())
    first: dict[str, WorkItem] = {}
    kept = []
    for item, value in zip(items, hashes, strict=True):
        if value in met:
            other = first.setdefault(name(item.path), item)
            if other is not item:
                if other.path == item.path and os.path.realpath(other.source) == os.path.realpath(item.source):
                    continue  # one file, named twice
                _refuse_collision(other, item, naming)
        kept.append(item)
    _refuse_folders_in_the_way(kept, naming)
    return kept


def _distinct_refused(refused: list[Refused], items: list[WorkItem]) -> list[Refused]:
    """Return what was refused, each once; raise if an item has the same name."""
    by_path: dict[str, Refused] = {}
    for entry in refused:
        by_path.setdefault(entry.item.path, entry)
    if by_path:
        for item in items:
            if item.path in by_path:
                _refuse_collision(by_path[item.path].item, item, Naming(()))
    return list(by_path.values())


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
    output = next(iter(naming.names(one.path).values()), one.path)
    if one.path == other.path:
        hint = "give --base a folder that holds both inputs, so that their folders become part of the names"
    else:
        hint = "--keep_suffix keeps the suffix in the output's name and so tells them apart"
    raise UsageError(f"two inputs have one {'output' if naming.outputs else 'name'}, {output}:\n    {one.source}\n    {other.source}", hint)


def _refuse_folders_in_the_way(items: list[WorkItem], naming: Naming) -> None:
    """Raise if an output's name is also the name of a folder that outputs go to."""
    folders: dict[str, WorkItem] = {}
    for item in items:
        folder = item.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = item
            folder = folder.rpartition("/")[0]
    if not any(folder.rpartition("/")[2].endswith((".png", f".{naming.format}")) for folder in folders):
        return
    for item in items:
        for name in naming.names(item.path).values():
            if name in folders:
                raise UsageError(
                    f"two inputs have one output, {name}:\n    {item.source}, whose output it is\n    {folders[name].source}, whose outputs go into it",
                    "mask them into two output folders",
                )


def in_shard(path: str, shard: tuple[int, int]) -> bool:
    """Tell whether an input belongs to shard (i, n), i of 1..n: by a hash of its relative path alone, the same on every machine."""
    index, count = shard
    value = int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")
    return value % count == index - 1
