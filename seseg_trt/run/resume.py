"""What is left to do: the plan held against the journal and the output folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from ..errors import ReasonCode, UsageError
from .journal import Journal, Row
from .plan import WorkPlan
from .scan import WorkItem

OnChange = Literal["refuse", "redo"]
Overwrite = Literal["skip", "redo"]

WORTH_ANOTHER_TRY: frozenset[ReasonCode] = frozenset(
    {"unreadable", "missing", "link_loop", "changed", "collision", "engine_error", "encode_error", "timeout"}
)
"""Reasons that lie outside the file's bytes, and so may be gone the next time."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an output's bytes depend on, besides its input: a digest of the options, and the model's SHA-256."""

    options: str
    artifact: str


@dataclasses.dataclass
class Todo:
    """What is left of a plan.

    Attributes:
        items: what is to be masked now, a row each, ``pending`` in the journal.
        skipped: inputs that need nothing: their outputs are there.
        quarantined: inputs that were quarantined before, whose bytes have not changed since.
    """

    items: list[tuple[WorkItem, Row]]
    skipped: int = 0
    quarantined: int = 0


def find_todo(
    plan: WorkPlan,
    journal: Journal,
    output_dir: Path,
    identity: Identity,
    *,
    on_change: OnChange = "refuse",
    overwrite: Overwrite | None = None,
    retry: bool = False,
) -> Todo:
    """Decide for each input whether it is done, and write a pending row for each that is not.

    Args:
        plan: all inputs.
        journal: of this output folder.
        output_dir: where outputs are looked for.
        identity: of this run.
        on_change: when an input was done with other options or another model: raise, or make it again.
        overwrite: when an output is there that the journal does not know: None raises, ``skip`` keeps it, ``redo`` replaces it.
        retry: try everything quarantined again.

    Raises:
        UsageError: a change with ``refuse``, or an unknown output without ``overwrite``; nothing has been written then.
    """
    todo = Todo([])
    kept: list[Row] = []
    for item in plan.items:
        row = journal.get(item.identity)
        wanted = list(plan.naming.names(item.path).values())
        if row is None:
            there = [name for name in wanted if os.path.lexists(output_dir / name)]
            if there and overwrite is None:
                raise UsageError(
                    f"{output_dir / there[0]} is there already, and no journal knows it",
                    "choose another output folder, or --overwrite skip (keep such files) or --overwrite redo (replace them)",
                )
            row = _new_row(item, identity, wanted)
            if there and overwrite == "skip":
                row.state = "skipped"
                kept.append(row)
                todo.skipped += 1
            else:
                todo.items.append((item, row))
        elif _is_settled(row, item, wanted, output_dir, identity, on_change, retry):
            if row.state == "quarantined":
                todo.quarantined += 1
            else:
                todo.skipped += 1
        else:
            todo.items.append((item, _again(row, item, wanted, identity)))
    pending = iter([row for _, row in todo.items] + kept)
    while some := list(islice(pending, 10_000)):
        journal.put(some)
    return todo


def _is_settled(
    row: Row, item: WorkItem, wanted: list[str], output_dir: Path, identity: Identity, on_change: OnChange, retry: bool
) -> bool:
    if row.state == "pending":
        return False
    unchanged = _is_unchanged(row, item)
    if row.state == "quarantined":
        return unchanged and not retry and row.reason not in WORTH_ANOTHER_TRY
    if row.state == "skipped":
        return all(os.path.lexists(output_dir / name) for name in wanted)
    if (row.options, row.artifact) != (identity.options, identity.artifact):
        if on_change == "refuse":
            what = (
                "another model"
                if row.artifact != identity.artifact
                else "other options (threshold, colour, seed, format, decoder, orientation)"
            )
            raise UsageError(
                f"{item.source} was masked into {output_dir} with {what}",
                "choose another output folder, or --on-change redo to make such outputs again",
            )
        return False
    return unchanged and all(_is_there(output_dir / name, row.outputs.get(name)) for name in wanted)


def _is_unchanged(row: Row, item: WorkItem) -> bool:
    try:
        status = os.stat(item.source)
    except OSError:
        return False  # reading it will say what is wrong
    return (row.size, row.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _is_there(path: Path, made: tuple[str, int] | None) -> bool:
    try:
        return made is not None and os.stat(path).st_size == made[1]
    except OSError:
        return False


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
    others: dict[str, tuple[str, int] | None] = {
        name: made if still_hold else None for name, made in row.outputs.items() if name not in wanted
    }
    fresh.outputs = {**others, **fresh.outputs}
    fresh.attempt = row.attempt
    return fresh


def plan_rows(plan: WorkPlan, identity: Identity, now: float) -> Iterator[Row]:
    """Yield a quarantined row for each input that the plan refused."""
    for item, reason, message in plan.refused:
        row = _new_row(item, identity, [])
        row.state, row.reason, row.message, row.finished = "quarantined", reason, message, now
        yield row
