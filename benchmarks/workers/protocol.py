# mypy: ignore-errors
# ruff: noqa: UP032
"""How a worker talks with the harness: one JSON object a line, asked on standard input, answered on what was standard output.

It runs under Python 3.6 as well, where the original program's libraries live.
"""

import json
import os
import resource
import sys
import time
import traceback


def serve(handlers: dict) -> None:
    """Answer requests until standard input ends.

    Args:
        handlers: for each value of a request's ``do``, a function that takes the request's other fields as keywords and returns a
            dict. The answer has, besides, ``cpu_seconds`` (user and system, all threads) and ``peak_rss`` (bytes, of the process so far).
    """
    # Libraries that write to standard output must not write into the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        before = os.times()
        try:
            answer = handlers[request.pop("do")](**request) or {}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": "{}: {}".format(type(error).__name__, error)}
        after = os.times()
        answer["cpu_seconds"] = sum(after[:4]) - sum(before[:4])
        answer["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(function: object, count: int) -> float:
    """Call ``function`` ``count`` times; return the seconds that all calls took together."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return time.perf_counter() - start
