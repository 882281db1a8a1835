"""Who is at work in a folder: a locked file a process. The kernel drops the lock when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..errors import StoppedError


class Presence:
    """This process's sign that it is at work in a folder, for as long as this object is open.

    Locks are of one machine (flock): processes of different machines need state folders of their own.

    Args:
        folder: made when it is not there; nothing else may lie in it.
        says: what others may read of this process.

    Raises:
        StoppedError: the folder can't be written.
    """

    def __init__(self, folder: Path, says: dict[str, str]) -> None:
        self.folder = folder
        self._dead: set[str] = set()
        try:
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
                try:
                    self._descriptor = os.open(folder / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:
                    continue  # another process that ended has just removed the empty folder
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                # between its making and its lock, another process may have taken it for a dead one's and removed it
                if os.path.exists(folder / self.name):
                    break
                os.close(self._descriptor)
            os.write(self._descriptor, json.dumps(says).encode())
        except OSError as error:
            raise StoppedError(
                f"the run's state can't be kept in {folder}: {error.strerror}", "give --state a folder that can be written"
            ) from error

    def is_alive(self, name: str) -> bool:
        """Tell whether the process of that name still runs; clear its sign away if it does not."""
        if name in self._dead:
            return False
        if name == self.name:
            return True
        try:
            descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self._dead.add(name)
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # still under the lock: a process that has made its sign, and waits for its lock, then sees that the sign has gone
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder / name)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        self._dead.add(name)
        return False

    def clear_dead(self) -> None:
        """Clear the signs of dead processes away, if the folder is still there."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                self.is_alive(name)

    def others(self) -> dict[str, dict[str, str]]:
        """Return the names of all other live processes, with what they say; the signs of dead ones are cleared away."""
        found = {}
        for name in sorted(os.listdir(self.folder)):
            if name != self.name and self.is_alive(name):
                try:
                    found[name] = dict(json.loads((self.folder / name).read_bytes() or b"{}"))
                except FileNotFoundError:
                    continue
        return found

    @staticmethod
    def count(folder: Path) -> int:
        """Return how many processes are at work in a folder, without being one."""
        count = 0
        for path in folder.glob("*") if folder.is_dir() else ():
            try:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
            except FileNotFoundError:
                continue
        return count

    def close(self) -> None:
        """Take the sign away."""
        with contextlib.suppress(OSError):
            os.unlink(self.folder / self.name)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """Keep every other process from planning on this state folder; wait for one that does.

    Raises:
        StoppedError: the folder can't be written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoppedError(
            f"the run's state can't be kept in {state_dir}: {error.strerror}", "give --state a folder that can be written"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
