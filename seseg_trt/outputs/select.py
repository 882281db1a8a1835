"""Which place a name means."""

from __future__ import annotations

from pathlib import Path

from ..journal.journal import Journal
from ..storage.locations import is_tar
from ..storage.select import storage_of
from .base import Outputs
from .folder import OutputFolder


def open_outputs(target: str, state: Path, *, durable: bool = False, journal: Journal | None = None) -> Outputs:
    """Return the outputs that a name means: tars, staged in the state folder; a local folder; one of an object store.

    Args:
        target: the name.
        state: the run's state folder.
        durable: flush what is written to the disk.
        journal: of the run, where its process has it.
    """
    if is_tar(target):
        from .tar import TarOutputs

        return TarOutputs(target, state, durable=durable, journal=journal)
    if storage_of(target).remote:
        from .objects import RemoteOutputs

        return RemoteOutputs(target)
    return OutputFolder(Path(target), durable=durable)
