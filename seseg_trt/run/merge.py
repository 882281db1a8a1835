"""What several journals hold together: of shards, or of processes with state folders of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .journal import Journal
from .names import default_state
from .presence import Presence

BEST_FIRST = {"done": 0, "skipped": 1, "quarantined": 2, "pending": 3}


@dataclasses.dataclass(frozen=True)
class Merged:
    """The counts of all inputs that journals know. Inputs that are skipped for their names are in no journal.

    Attributes:
        journals: how many there are.
        states: inputs in each state.
        reasons: quarantined inputs for each reason.
        running: processes at work.
    """

    journals: int
    states: dict[str, int]
    reasons: dict[str, int]
    running: int

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON has them; ``left`` is what is neither done, skipped nor quarantined."""
        return {
            "journals": self.journals,
            "inputs": sum(self.states.values()),
            "done": self.states.get("done", 0),
            "skipped": self.states.get("skipped", 0),
            "quarantined": self.states.get("quarantined", 0),
            "left": self.states.get("pending", 0),
            "reasons": self.reasons,
            "running": self.running,
        }

    def lines(self) -> list[str]:
        """Return the counts for people, a line each."""
        found = self.as_dict()
        left = f" + {found['left']} left" if found["left"] else ""
        lines = [f"{found['inputs']} inputs = {found['done']} done + {found['skipped']} skipped + {found['quarantined']} quarantined{left}"]
        lines += [f"  {count:>8} {reason}" for reason, count in self.reasons.items()]
        if self.running:
            lines.append(f"{self.running} {'process is' if self.running == 1 else 'processes are'} at work")
        elif found["left"]:
            lines.append("nobody is at work: the command that was run goes on where it stopped")
        return lines


def find_journal(folder: Path) -> Path:
    """Return the journal of an output folder or of a state folder.

    Raises:
        UsageError: there is none.
    """
    for path in (Path(default_state(str(folder))) / "journal.sqlite", folder / "journal.sqlite"):
        if path.is_file():
            return path
    raise UsageError(f"there is no journal in {folder}", "name an output folder, or what --state named")


def merge_journals(folders: Sequence[Path]) -> Merged:
    """Count the inputs of several journals; one that is in more than one of them counts once, by the best that became of it.

    Raises:
        UsageError: a folder has no journal.
    """
    paths = list(dict.fromkeys(find_journal(folder).resolve() for folder in folders))
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    running = 0
    with contextlib.ExitStack() as stack:
        journals = [stack.enter_context(contextlib.closing(Journal(path))) for path in paths]
        rows = heapq.merge(*(journal.rows() for journal in journals), key=lambda row: row.path)
        for _, same in itertools.groupby(rows, key=lambda row: row.path):
            best = min(same, key=lambda row: BEST_FIRST[row.state])
            states[best.state] += 1
            if best.state == "quarantined" and best.reason is not None:
                reasons[best.reason] += 1
        for path in paths:
            running += Presence.count(path.parent / "runs")
    return Merged(len(paths), dict(states), dict(reasons.most_common()), running)
