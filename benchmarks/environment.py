"""Create the peers' virtual environments, and keep them until their requirements change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .peers import FOLDER, Peer


class Absent(Exception):
    """Raised when a peer can't be run on this machine; its message, the reason, goes into the record."""


def find_python(version: str) -> str | None:
    """Find an interpreter of a version (``3.6``) on PATH or among pyenv's; None if there is none that runs."""
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        command = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip() == version:
            return candidate
    return None


def interpreter(peer: Peer, cache: Path) -> str:
    """Return the path of the Python that runs a peer; its environment is created if it is missing.

    Args:
        peer: the peer.
        cache: the folder of environments and logs.

    Raises:
        Absent: the Python version, the program or a package is not available.
    """
    if peer.program is not None and shutil.which(peer.program) is None:
        raise Absent(f"{peer.program} is not installed")
    if peer.requirements is None:
        return sys.executable
    base = sys.executable if peer.python is None else find_python(peer.python)
    if base is None:
        raise Absent(f"no Python {peer.python} was found")
    requirements = FOLDER / peer.requirements
    key = hashlib.sha256(b"\0".join((requirements.read_bytes(), base.encode(), (peer.pip or "").encode()))).hexdigest()[:12]
    folder = cache / "environments" / f"{peer.name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        log = cache / "logs" / f"environment-{peer.name}.txt"
        _run([base, "-m", "venv", str(folder)], log)
        if peer.pip is not None:
            _run([str(python), "-m", "pip", "install", f"pip=={peer.pip}"], log)
        _run([str(python), "-m", "pip", "install", "-r", str(requirements)], log)
        (folder / "complete").touch()
    return str(python)


def _run(command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with open(log, "ab") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=clean, check=False)
    if done.returncode:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if "ERROR" in line]
        raise Absent(f"its environment could not be made: {lines[-1].strip() if lines else f'see {log.name}'}")
