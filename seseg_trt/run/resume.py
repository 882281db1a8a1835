"""What is left to do: the plan held against the journal and the output folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from ..errors import ReasonCode, UsageError
from ..inputs.item import InputItem
from ..inputs.read import stat_source
from ..inputs.tar_entries import index_of, split_source
from ..journal.journal import Journal
from ..journal.row import Row
from ..options import ResumePolicy
from ..outputs.base import OutputInfo, Outputs
from ..outputs.naming import Naming
from ..storage.locations import is_tar
from .plan import WorkPlan

WORTH_ANOTHER_TRY: frozenset[ReasonCode] = frozenset(
    {
        "unreadable",
        "missing",
        "link_loop",
        "changed",
        "several_frames",
        "too_large",
        "collision",
        "engine_error",
        "encode_error",
        "timeout",
        "crashed",
    }
)
"""Reasons that lie outside the file's bytes (also in the limits that the user sets), and so may be gone the next time."""

ITEMS_AT_ONCE = 10_000


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an output's bytes depend on, besides its input: a digest of the options, and the model's SHA-256.

    ``changes`` says in words what is other than in the run before, where that is known.
    """

    options: str
    artifact: str
    changes: str = ""


@dataclasses.dataclass
class Remaining:
    """What is left of a plan.

    Attributes:
        items: what is to be masked now, ``pending`` in the journal.
        skipped: inputs that need nothing: their outputs are there.
        quarantined: inputs that were quarantined before, whose bytes have not changed since.
    """

    items: list[InputItem]
    skipped: int = 0
    quarantined: int = 0


def find_remaining(plan: WorkPlan, journal: Journal, outputs: Outputs, identity: Identity, policy: ResumePolicy) -> Remaining:
    """Decide for each input whether it is done, and write a pending row for each that is not.

    Args:
        plan: all inputs.
        journal: of these outputs.
        outputs: where outputs are looked for.
        identity: of this run.
        policy: what to do where there is something already.

    Raises:
        UsageError: a change with ``refuse``, or an unknown output without ``overwrite``; no row has been written then.
    """
    remaining = Remaining([])
    kept: list[InputItem] = []
    again: list[InputItem] = []
    for some in _pieces(plan.items):
        rows = journal.get([item.identity for item in some])
        for item in some:
            row = rows.get(item.identity)
            wanted = list(plan.naming.names(item.path).values())
            unknown = [name for name in wanted if (row is None or name not in row.outputs) and outputs.size(name) is not None]
            if unknown and policy.overwrite is None:
                raise UsageError(
                    f"{unknown[0]} is there already in the output folder, and no journal knows it",
                    "choose another output folder, or --overwrite skip (keep such files) or --overwrite redo (replace them)",
                )
            if unknown and policy.overwrite == "skip":
                kept.append(item)
                remaining.skipped += 1
            elif row is None or not _is_settled(row, item, wanted, outputs, identity, policy):
                (again if row is not None and row.attempt else remaining.items).append(item)
            elif row.state == "quarantined":
                remaining.quarantined += 1
            else:
                remaining.skipped += 1
    remaining.items += again  # what was tried before comes last: an input that crashes or hangs must not keep others from being reached
    # Only now, when nothing can be refused any more, is anything written.
    for some in _pieces(remaining.items):
        journal.put(fresh for row, fresh in _rows_again(some, plan.naming, journal, identity) if fresh != row)
    for some in _pieces(kept):
        journal.put(dataclasses.replace(fresh, state="skipped") for _, fresh in _rows_again(some, plan.naming, journal, identity))
    return remaining


def _rows_again(items: list[InputItem], naming: Naming, journal: Journal, identity: Identity) -> Iterator[tuple[Row | None, Row]]:
    """Yield each item's row, or None, and the pending row that takes its place."""
    known = journal.get([item.identity for item in items])
    for item in items:
        row = known.get(item.identity)
        wanted = list(naming.names(item.path).values())
        yield row, _new_row(item, identity, wanted) if row is None else _again(row, item, wanted, identity)


def _pieces(items: list[InputItem]) -> Iterator[list[InputItem]]:
    for first in range(0, len(items), ITEMS_AT_ONCE):
        yield items[first : first + ITEMS_AT_ONCE]


def _is_settled(row: Row, item: InputItem, wanted: list[str], outputs: Outputs, identity: Identity, policy: ResumePolicy) -> bool:
    if row.state == "pending":
        return False
    same = (row.options, row.artifact) == (identity.options, identity.artifact)
    if row.state == "quarantined":
        return same and _is_unchanged(row, item) and not policy.retry and row.reason not in WORTH_ANOTHER_TRY
    if row.state == "skipped":
        return any(outputs.size(name) is not None for name in wanted)
    if not same:
        if policy.on_change == "refuse":
            model = f"another model ({row.artifact[:12]} then, {identity.artifact[:12]} now)" if row.artifact != identity.artifact else ""
            what = model or f"other options ({identity.changes or 'threshold, colour, seed, format, decoder or orientation'})"
            raise UsageError(
                f"{item.source} was masked into this output folder with {what}",
                "choose another output folder, or --on-change redo to make such outputs again",
            )
        return False
    if not _is_unchanged(row, item) or not all(_is_there(outputs, name, row.outputs.get(name)) for name in wanted):
        return False
    if policy.measured is None:
        return True
    return row.measured is not None and (policy.measured == "stats" or "rle" in row.measured)


def _is_unchanged(row: Row, item: InputItem) -> bool:
    try:
        return (row.size, row.mtime_ns) == stat_source(item)
    except OSError:
        return False  # reading it will say what is wrong


def _is_there(outputs: Outputs, name: str, made: OutputInfo | None) -> bool:
    return made is not None and outputs.size(name) == made[1]


def _new_row(item: InputItem, identity: Identity, wanted: list[str]) -> Row:
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


def _again(row: Row, item: InputItem, wanted: list[str], identity: Identity) -> Row:
    """Return a pending row that remembers the outputs made before: they stay known as ours, but only those that still hold as made."""
    fresh = _new_row(item, identity, wanted)
    still_hold = (row.options, row.artifact) == (identity.options, identity.artifact) and _is_unchanged(row, item)
    others: dict[str, OutputInfo | None] = {name: made if still_hold else None for name, made in row.outputs.items() if name not in wanted}
    fresh.outputs = {**others, **fresh.outputs}
    fresh.attempt = row.attempt
    return fresh


def forget_mended(plan: WorkPlan, journal: Journal) -> None:
    """Remove the rows that tars had for their damage, where they are whole now: what they hold has rows of its own."""
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
    rows = _rows_again([entry.item for entry in plan.refused], dataclasses.replace(plan.naming, outputs=()), journal, identity)
    for (_, row), (_, reason, message) in zip(rows, plan.refused, strict=True):
        row.state, row.reason, row.message, row.finished = "quarantined", reason, message, now
        yield row
