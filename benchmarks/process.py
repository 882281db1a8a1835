"""Workers: long-lived processes, each with one contestant in it, that are asked for one round at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKERS = Path(__file__).resolve().parent / "workers"


class WorkerError(Exception):
    """A worker ended, answered with an error, or did not answer in time; the message is one line, the log has the rest."""


class Worker:
    """A process that answers requests, one JSON object a line.

    Args:
        command: what to run.
        log: where its standard error goes.
        environment: what it has besides the harness's own variables.
        code: the checkout whose ``seseg_trt`` and ``engine`` it imports; by default this one.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None, code: Path = ROOT) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        path = os.pathsep.join((str(WORKERS), str(code)))
        settings = {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore", **(environment or {})}
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=code,
                env={**os.environ, **settings},
                text=True,
            )

    def ask(self, do: str, timeout: float = 1800.0, **fields: Any) -> dict[str, Any]:
        """Ask for one thing and return the answer.

        Raises:
            WorkerError: it failed, or took longer than ``timeout`` seconds (it is killed then).
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise WorkerError(f"the worker ended ({self._process.wait()}): {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"nothing in {self.log}"

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
