"""When the tars of a run are written: each as soon as its inputs are settled."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator

from ..errors import UsageError
from ..inputs.item import InputItem
from ..inputs.read import stat_source
from ..journal.journal import Journal
from ..journal.row import Row, State
from ..options import Overwrite
from ..storage.base import Stat
from ..storage.locations import is_pattern, is_tar
from ..storage.select import storage_of
from .base import Outputs
from .tar import TarOutputs

log = logging.getLogger(__name__)

INPUTS_PER_TAR = 10_000
SECONDS_BETWEEN_LOOKS = 1.0
TARS = "tars"
"""The journal's key for what it knows of the tars."""


def check_target(target: str, outputs: Iterable[str], tar_entries: int | None) -> None:
    """Raise UsageError if an output can't be what was named."""
    if is_tar(target) and not list(outputs):
        raise UsageError(
            f"there is nothing to pack into {target}: no outputs were asked for", "name a folder: the run's state will lie in it"
        )
    if tar_entries is not None and not is_pattern(target):
        raise UsageError(
            f"{target} is not a row of tars, so --tar-entries means nothing", "name a pattern with a number, such as masks-%06d.tar"
        )


class Packer:
    """Packs a run's outputs, where they go into tars; does nothing where they go elsewhere.

    An input's place is given once, when it is first planned, in the plan's order, and kept in the journal. So a tar's inputs are the same for
    every run; inputs that are found later come after those that were there.

    Args:
        outputs: of the run.
        journal: of the run.
        entries: inputs for each tar of a row; None: as before, or the default.
    """

    def __init__(self, outputs: Outputs, journal: Journal, entries: int | None) -> None:
        self._outputs = outputs if isinstance(outputs, TarOutputs) else None
        self._journal = journal
        self._entries: int | None = entries
        self._ready = 0
        self._ended = threading.Event()

    def check(self, overwrite: Overwrite | None) -> None:
        """Look at the tars that are there, before anything is planned.

        Raises:
            UsageError: one is somebody else's, and what is to be done about it was not said; or the tars were begun with another size.
        """
        outputs = self._outputs
        if outputs is None:
            return
        if os.path.isdir(outputs.target):
            raise UsageError(f"{outputs.target} is a folder, and a tar of that name was asked for", "choose another name for the output")
        name = os.path.basename(outputs.target)
        known = json.loads(self._journal.get_meta(TARS) or "null")
        if known is not None and known["name"] == name:
            if self._entries not in (None, known["entries"]):
                raise UsageError(
                    f"{outputs.target} was begun with {known['entries']} inputs for each tar",
                    "leave --tar-entries as it was, or choose another name",
                )
            self._entries = known["entries"]
            outputs.ignored = {int(number): Stat(*stat) for number, stat in known["ignored"].items()}
        else:
            self._entries = (self._entries or INPUTS_PER_TAR) if is_pattern(outputs.target) else None
            for number in outputs.numbers():
                if overwrite is None:
                    raise UsageError(
                        f"{outputs.name(number)} is there already, and no journal knows it",
                        "choose another output, or --overwrite skip (keep what it holds) or --overwrite redo (replace it)",
                    )
                if overwrite == "skip":
                    outputs.refuse_lossy(number)
                else:
                    outputs.ignored[number] = storage_of(outputs.target).stat(outputs.name(number))
        outputs.refresh()

    def begin(self, items: Iterable[InputItem]) -> None:
        """Give the inputs their places."""
        if self._outputs is not None:
            name = os.path.basename(self._outputs.target)
            self._journal.set_meta(TARS, json.dumps({"name": name, "entries": self._entries, "ignored": self._outputs.ignored}))
            self._journal.place(item.identity for item in items)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Pack what is ready in a thread while the run goes on."""
        if self._outputs is None or self._entries is None:
            yield
            return
        thread = threading.Thread(target=self._look, name="seseg-pack", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            try:
                while not self._ended.is_set() and self._ready < self._count() and not self._is_waiting(self._ready):
                    self._pack(self._ready)
                    self._ready += 1
            except Exception:
                log.exception("packing failed; it is tried again when the run ends")
                return

    def finish(self, *, whole: bool) -> int:
        """Write what is still to be written; return how many tars have to wait, since their inputs are not all settled.

        Args:
            whole: the run did all of its plan. An input that an earlier run had not reached, and that is gone now, is not waited for then.

        Raises:
            StoppedError: the disk, or the store, refused.
        """
        if self._outputs is None:
            return 0
        waiting = 0
        for number in range(self._ready, self._count()):
            if self._is_waiting(number) and not (whole and all(map(_is_gone, self._rows(number, "pending")))):
                waiting += 1
            else:
                self._pack(number)
        if not waiting:
            self._outputs.clear()
        return waiting

    def _count(self) -> int:
        return 1 if self._entries is None else -(-self._journal.placed() // self._entries)

    def _rows(self, number: int, state: State | None = None) -> Iterator[Row]:
        """Yield the rows of a tar's inputs, or those in one state."""
        entries = self._entries or 1 << 62
        return self._journal.placed_rows(number * entries, (number + 1) * entries, state)

    def _is_waiting(self, number: int) -> bool:
        return next(self._rows(number, "pending"), None) is not None

    def _pack(self, number: int) -> None:
        assert self._outputs is not None
        self._outputs.pack(number, self._rows(number))


def _is_gone(row: Row) -> bool:
    item = row.item()
    try:
        stat_source(item)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError) and not storage_of(item.root).remote
    return False
