"""What is left to do: the plan held against the journal and the output folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Literal

from ..errors import ReasonCode, UsageError
from ..lanes.base import Measure
from .journal import Journal, Row
from .names import is_tar
from .output import Made, Outputs
from .plan import WorkPlan
from .scan import WorkItem
from .shards import index_of, split_source
from .sources import stat_source

OnChange = Literal["refuse", "redo"]
Overwrite = Literal["skip", "redo"]

WORTH_ANOTHER_TRY: frozenset[ReasonCode] = frozenset(
    {"unreadable", "missing", "link_loop", "changed", "too_large", "collision", "engine_error", "encode_error", "timeout"}
)
"""Reasons that lie outside the file's bytes (also in the limits that the user sets), and so may be gone the next time."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an output's bytes depend on, besides its input: a digest of the options, and the model's SHA-256."""

    options: str
    artifact: str


@dataclasses.dataclass
class Todo:
    """What is left of a plan.

    Attributes:
        items: what is to be masked now, ``pending`` in the journal.
        skipped: inputs that need nothing: their outputs are there.
        quarantined: inputs that were quarantined before, whose bytes have not changed since.
    """

    items: list[WorkItem]
    skipped: int = 0
    quarantined: int = 0


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user wants where there is something already.

    Attributes:
        on_change: when an input was done with other options or another model: raise, or make it again.
        overwrite: when an output is there that the journal does not know: None raises, ``skip`` keeps it and leaves its
            input alone, ``redo`` replaces it.
        retry: try everything quarantined again.
        measured: what is done without having been measured for ``--results`` is done again; ``rle``: or without its RLE.
    """

    on_change: OnChange = "refuse"
    overwrite: Overwrite | None = None
    retry: bool = False
    measured: Measure = None


def find_todo(plan: WorkPlan, journal: Journal, outputs: Outputs, identity: Identity, choices: Choices) -> Todo:
    """Decide for each input whether it is done, and write a pending row for each that is not.

    Args:
        plan: all inputs.
        journal: of these outputs.
        outputs: where outputs are looked for.
        identity: of this run.
        choices: see there.

    Raises:
        UsageError: a change with ``refuse``, or an unknown output without ``overwrite``; nothing has been written then.
    """
    todo = Todo([])
    kept: list[WorkItem] = []
    for item in plan.items:
        row = journal.get(item.identity)
        wanted = list(plan.naming.names(item.path).values())
        unknown = [name for name in wanted if (row is None or name not in row.outputs) and outputs.size(name) is not None]
        if unknown and choices.overwrite is None:
            raise UsageError(
                f"{unknown[0]} is there already in the output folder, and no journal knows it",
                "choose another output folder, or --overwrite skip (keep such files) or --overwrite redo (replace them)",
            )
        if unknown and choices.overwrite == "skip":
            kept.append(item)
            todo.skipped += 1
        elif row is None or not _is_settled(row, item, wanted, outputs, identity, choices):
            todo.items.append(item)
        elif row.state == "quarantined":
            todo.quarantined += 1
        else:
            todo.skipped += 1
    # Only now, when nothing can be refused any more, is anything written.
    _put_pending(todo.items, plan, journal, identity)
    for some in _pieces(kept):
        journal.put(dataclasses.replace(_row_again(journal, item, plan, identity), state="skipped") for item in some)
    return todo


def _put_pending(items: list[WorkItem], plan: WorkPlan, journal: Journal, identity: Identity) -> None:
    for some in _pieces(items):
        rows = []
        for item in some:
            row = journal.get(item.identity)
            wanted = plan.naming.names(item.path).values()
            as_it_was = row and row.state == "pending" and (row.options, row.artifact) == (identity.options, identity.artifact)
            # a pending row may be claimed by another process that does the same work: it must keep its claim
            if not as_it_was or row is None or not set(wanted) <= set(row.outputs) or row.source != os.fsencode(item.source):
                rows.append(_row_again(journal, item, plan, identity))
        if rows:
            journal.put(rows)


def _pieces(items: list[WorkItem]) -> Iterator[list[WorkItem]]:
    for first in range(0, len(items), 10_000):
        yield items[first : first + 10_000]


def _row_again(journal: Journal, item: WorkItem, plan: WorkPlan, identity: Identity) -> Row:
    row = journal.get(item.identity)
    wanted = list(plan.naming.names(item.path).values())
    return _new_row(item, identity, wanted) if row is None else _again(row, item, wanted, identity)


def _is_settled(row: Row, item: WorkItem, wanted: list[str], outputs: Outputs, identity: Identity, choices: Choices) -> bool:
    if row.state == "pending":
        return False
    same = (row.options, row.artifact) == (identity.options, identity.artifact)
    if row.state == "quarantined":
        return same and _is_unchanged(row, item) and not choices.retry and row.reason not in WORTH_ANOTHER_TRY
    if row.state == "skipped":
        return any(outputs.size(name) is not None for name in wanted)
    if not same:
        if choices.on_change == "refuse":
            what = (
                "another model"
                if row.artifact != identity.artifact
                else "other options (threshold, colour, seed, format, decoder, orientation)"
            )
            raise UsageError(
                f"{item.source} was masked into this output folder with {what}",
                "choose another output folder, or --on-change redo to make such outputs again",
            )
        return False
    if not _is_unchanged(row, item) or not all(_is_there(outputs, name, row.outputs.get(name)) for name in wanted):
        return False
    if choices.measured is None:
        return True
    return row.measured is not None and (choices.measured == "stats" or "rle" in row.measured)


def _is_unchanged(row: Row, item: WorkItem) -> bool:
    try:
        return (row.size, row.mtime_ns) == stat_source(item)
    except OSError:
        return False  # reading it will say what is wrong


def _is_there(outputs: Outputs, name: str, made: Made | None) -> bool:
    return made is not None and outputs.size(name) == made[1]


def _new_row(item: WorkItem, identity: Identity, wanted: list[str]) -> Row:
    return Row(
        path=item.identity,
        source=os.fsencode(item.source),
        size=None,
        mtime_ns=None,
        options=identity.options,
        artifact=identity.artifact,
        outputs=dict.fromkeys(wanted),
        state="pending",
    )


def _again(row: Row, item: WorkItem, wanted: list[str], identity: Identity) -> Row:
    """Return a pending row that remembers the outputs made before: they stay known as ours, but only those that still hold as made."""
    fresh = _new_row(item, identity, wanted)
    still_hold = (row.options, row.artifact) == (identity.options, identity.artifact) and _is_unchanged(row, item)
    others: dict[str, Made | None] = {name: made if still_hold else None for name, made in row.outputs.items() if name not in wanted}
    fresh.outputs = {**others, **fresh.outputs}
    fresh.attempt = row.attempt
    return fresh


def forget_mended(plan: WorkPlan, journal: Journal) -> None:
    """Remove the rows that archives had for their damage, where they are whole now: what they hold has rows of its own."""
    refused = {entry.item.identity for entry in plan.refused}
    journal.forget([row.path for row in journal.rows("quarantined") if row.path not in refused and _is_mended(row)])


def _is_mended(row: Row) -> bool:
    source = os.fsdecode(row.source)
    if not is_tar(source) or row.reason not in ("empty", "truncated", "unreadable", "changed") or split_source(source) is not None:
        return False
    try:
        return index_of(source).damage is None
    except OSError:
        return False


def refused_rows(plan: WorkPlan, journal: Journal, identity: Identity, now: float) -> Iterator[Row]:
    """Yield a quarantined row for each input that the plan refused. Outputs of an earlier run stay, and stay known as ours."""
    for item, reason, message in plan.refused:
        row = _row_again(journal, item, dataclasses.replace(plan, naming=dataclasses.replace(plan.naming, outputs=())), identity)
        row.state, row.reason, row.message, row.finished = "quarantined", reason, message, now
        yield row
