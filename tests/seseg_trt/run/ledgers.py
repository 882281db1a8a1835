"""A ledger over inputs that are nowhere, with a journal of their pending rows."""

from __future__ import annotations

import os
from pathlib import Path

from seseg_trt.inputs.item import InputItem
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.row import Row
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.naming import Naming
from seseg_trt.run.ledger import Ledger


class Begun:
    """A ledger with all that it is made of, and the rows that it committed.

    Args:
        folder: where the journal and the outputs lie.
        count: of the inputs, 0.png, 1.png and so on.
        max_failures: of the ledger.
        outputs: what a row knows of outputs besides its own.
    """

    def __init__(
        self, folder: Path, count: int, max_failures: int | None = None, outputs: dict[str, tuple[str, int] | None] | None = None
    ) -> None:
        naming = Naming(("se", "mask"))
        self.items = [InputItem(str(folder / "in"), f"{number}.png") for number in range(count)]
        self.journal = Journal(folder / "journal.sqlite")
        self.journal.put(
            Row(
                path=item.identity,
                source=os.fsencode(item.source),
                size=None,
                mtime_ns=None,
                options="options",
                artifact="artifact",
                outputs={**(outputs or {}), **dict.fromkeys(naming.names(item.path).values())},
                state="pending",
            )
            for item in self.items
        )
        self.outputs = OutputFolder(folder / "out")
        self.outputs.prepare()
        self.committed: list[Row] = []
        self.ledger = Ledger(self.journal, self.outputs, naming, self.items, max_failures, self.committed.append)

    def row(self, number: int) -> Row:
        """Return what the journal has of an input."""
        path = self.items[number].identity
        return self.journal.get([path])[path]

    def take(self, count: int) -> list[int]:
        """Return the numbers of the tasks that are handed out."""
        return [task.number for task in self.ledger.take(count)]
