"""Counts of what became of a run's inputs."""

from __future__ import annotations

import dataclasses
from collections import Counter

from ..journal.row import Row


@dataclasses.dataclass
class Tally:
    """What a run has done so far.

    Attributes:
        done, quarantined: inputs that were committed.
        decoded_by: inputs for each decoding library.
        pixels: of all inputs done.
    """

    done: int = 0
    quarantined: int = 0
    decoded_by: Counter[str] = dataclasses.field(default_factory=Counter)
    pixels: int = 0

    def add(self, row: Row, pixels: int) -> None:
        """Count a committed row."""
        if row.state == "quarantined":
            self.quarantined += 1
            return
        self.done += 1
        self.decoded_by[row.decoded_by or "unknown"] += 1
        self.pixels += pixels

    @property
    def settled(self) -> int:
        """How many inputs were committed."""
        return self.done + self.quarantined
