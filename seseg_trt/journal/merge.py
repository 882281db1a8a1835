"""What several journals hold together: of shards, or of processes with state folders of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..storage.locations import default_state
from ..storage.locks import is_owned
from .journal import JOURNAL, WORKERS, Journal

BEST_FIRST = {"done": 0, "skipped": 1, "quarantined": 2, "pending": 3}


@dataclasses.dataclass(frozen=True)
class Merged:
    """The counts of all inputs that journals know. Inputs that are skipped for their names are in no journal.

    Attributes:
        journals: how many there are.
        inputs, done, skipped, quarantined, left: inputs in all and in each state; ``left`` is what is in none of these three.
        reasons: quarantined inputs for each reason.
        running: runs at work.
        workers: what their worker processes do.
    """

    journals: int
    inputs: int
    done: int
    skipped: int
    quarantined: int
    left: int
    reasons: dict[str, int]
    running: int
    workers: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON has them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the counts for people, a line each."""
        left = f" + {self.left} left" if self.left else ""
        lines = [f"{self.inputs} inputs = {self.done} done + {self.skipped} skipped + {self.quarantined} quarantined{left}"]
        lines += [f"  {count:>8} {reason}" for reason, count in self.reasons.items()]
        if self.running:
            lines.append(f"{self.running} {'run is' if self.running == 1 else 'runs are'} at work")
            lines += map(_worker_line, self.workers)
        elif self.left:
            lines.append("nobody is at work: the command that was run goes on where it stopped")
        return lines


def find_journal(folder: Path) -> Path:
    """Return the journal of an output folder or of a state folder.

    Raises:
        UsageError: there is none.
    """
    for path in (Path(default_state(str(folder))) / JOURNAL, folder / JOURNAL):
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
    owned = [path for path in paths if is_owned(path.parent)]
    workers: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        journals = [stack.enter_context(contextlib.closing(Journal(path, read_only=True))) for path in paths]
        rows = heapq.merge(*(journal.rows() for journal in journals), key=lambda row: row.path)
        for _, same in itertools.groupby(rows, key=lambda row: row.path):
            best = min(same, key=lambda row: BEST_FIRST[row.state])
            states[best.state] += 1
            if best.state == "quarantined" and best.reason is not None:
                reasons[best.reason] += 1
        for path in owned:
            with contextlib.suppress(OSError, ValueError):  # its run has not begun, or has just ended
                workers += json.loads((path.parent / WORKERS).read_bytes())
    done, skipped, quarantined, left = map(states.__getitem__, BEST_FIRST)
    return Merged(len(paths), states.total(), done, skipped, quarantined, left, dict(reasons.most_common()), len(owned), workers)


def _worker_line(worker: dict[str, Any]) -> str:
    in_hand = f"; {worker['stage']} {worker['in_hand']!r} for {worker['seconds']:.1f} s" if worker["in_hand"] else ""
    return f"  worker {worker['pid']} on {worker['device']}: {worker['done']} images, {worker['memory'] >> 20} MiB{in_hand}"
