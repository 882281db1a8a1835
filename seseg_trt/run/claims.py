"""What this process does of a run that several processes may share: it claims a few inputs at a time, and takes over from the dead."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from .journal import Journal, Row
from .presence import Presence
from .scan import WorkItem

SMALLEST_CHUNK, LARGEST_CHUNK = 8, 1024
SECONDS_PER_CHUNK = 1.0
SECONDS_BETWEEN_LOOKS = 0.3


class Work(Protocol):
    """Inputs to do, which become this process's own as they are iterated over."""

    def __iter__(self) -> Iterator[tuple[WorkItem, Row]]: ...

    def stop(self) -> None:
        """Let the iteration end; called from any thread."""
        ...


class SharedWork:
    """Claims inputs in the journal, chunk by chunk; at the end waits for what others have claimed, and takes over what they leave.

    Args:
        journal: of the run; each input has a row.
        presence: this process's.
        items: what was left to do when the run began.
    """

    def __init__(self, journal: Journal, presence: Presence, items: Sequence[WorkItem]) -> None:
        self._journal = journal
        self._presence = presence
        self._items = items
        self._stopped = False
        self._elsewhere: list[int] = []
        self.done_elsewhere = 0
        self.quarantined_elsewhere = 0

    def stop(self) -> None:
        """See :class:`Work`."""
        self._stopped = True

    def __iter__(self) -> Iterator[tuple[WorkItem, Row]]:
        chunk, begin = SMALLEST_CHUNK, 0
        while begin < len(self._items) and not self._stopped:
            asked = time.monotonic()
            yield from self._claim(range(begin, min(begin + chunk, len(self._items))))
            begin += chunk
            # small chunks leave others something to do at the end; large ones cost fewer transactions
            quick = time.monotonic() - asked < SECONDS_PER_CHUNK
            chunk = min(LARGEST_CHUNK, chunk * 2) if quick else max(SMALLEST_CHUNK, chunk // 2)
        self._elsewhere += range(begin, len(self._items))
        while self._elsewhere and not self._stopped:
            waiting, self._elsewhere = self._settle(self._elsewhere), []
            for first in range(0, len(waiting), LARGEST_CHUNK):
                yield from self._claim(waiting[first : first + LARGEST_CHUNK])
            if self._elsewhere:
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _claim(self, indices: Sequence[int]) -> Iterator[tuple[WorkItem, Row]]:
        taken = self._journal.claim([self._items[i].identity for i in indices], self._presence.name, self._presence.is_alive)
        for index in indices:
            row = taken.get(self._items[index].identity)
            if row is None or self._stopped:
                self._elsewhere.append(index)
            else:
                yield self._items[index], row

    def _settle(self, indices: list[int]) -> list[int]:
        """Count what others have finished; return the rest."""
        left = []
        states = self._journal.states([self._items[i].identity for i in indices])
        for index, state in zip(indices, states, strict=True):
            if state == "quarantined":
                self.quarantined_elsewhere += 1
            elif state == "pending":
                left.append(index)
            else:
                self.done_elsewhere += 1
        return left

    def finish(self) -> None:
        """Give up what was claimed and not done, and count what others did."""
        self._journal.release(self._presence.name)
        self.settle()

    def settle(self) -> None:
        """Count what others did, of all that was not claimed."""
        self._elsewhere = self._settle(self._elsewhere)
