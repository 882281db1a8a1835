"""The peers' environments, made where the right Python is found, and kept as long as their files do not change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .peers import FOLDER, Peer


class Absent(Exception):
    """A peer can't be run here; the message says why, and goes into the record."""


def find_python(version: str) -> str | None:
    """Return a Python of that version (``3.6``) that runs: on PATH, or pyenv's."""
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        command = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip() == version:
            return candidate
    return None


def interpreter(peer: Peer, cache: Path) -> str:
    """Return the Python that runs a peer, making its environment first if it is not there.

    Raises:
        Absent: the Python, the program or a package is not to be had.
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
