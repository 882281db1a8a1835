"""Start and query workers: long-lived processes that each hold one contestant and run one round for each request."""

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
    """Raised when a worker ends, answers with an error, or does not answer in time; the message is one line, the log has the details."""


class Worker:
    """A process that answers requests; each request and each answer is a line with a JSON object.

    Args:
        command: the command to run.
        log: the file to which its standard error is appended.
        environment: additional environment variables.
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
        """Send a request and return the answer.

        Args:
            do: the name of a handler; see :mod:`benchmarks.workers.protocol`.
            timeout: seconds after which the worker is killed.
            fields: the handler's arguments.

        Raises:
            WorkerError: the worker failed, ended or was killed.
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
            raise WorkerError(f"the worker ended (exit code {self._process.wait()}): {self._last_line()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"nothing in {self.log}"

    def close(self) -> None:
        """End the process: close its standard input, and kill it if it does not end within 20 s."""
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
