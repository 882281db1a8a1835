"""Measure how long a fresh process takes: Python alone, ``import seseg_trt``, ``seseg-trt --help``."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

from .protocol import serve, timed

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import seseg_trt"],
    "help": [sys.executable, "-m", "seseg_trt", "--help"],
}


def load(**_: Any) -> dict[str, Any]:
    """Answer the request to load a network, of which there is none."""
    return {"seconds": 0.0, "versions": {"python": platform.python_version()}}


def startup(what: str, count: int) -> dict[str, Any]:
    """Run ``count`` processes, one after the other; ``what`` is a key of :data:`COMMANDS`."""
    return {"seconds": timed(lambda: subprocess.run(COMMANDS[what], check=True, capture_output=True), count), "count": count}


if __name__ == "__main__":
    serve({"load": load, "startup": startup})
